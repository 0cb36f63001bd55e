"""How large the study of random-label bridges is."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.interventions.building import recipe


@dataclass(frozen=True)
class Scale:
    """core: seeds of the contrasts that the verdicts are about; seeds: those of all other arms, the first of them.

    every: steps between two measurements of a classification. A row has 4 pictures, a step 8 rows (``lm_rows`` of
    texts). bridge_lr: times the learning rate of everything else; bridge_labelled: pictures of a bridge, few enough to
    come many times.
    """

    arch: str
    size: str
    depth: int
    core: tuple[int, ...]
    seeds: tuple[int, ...]
    lm_tokens: int
    lm_rows: int
    bridge_steps: int
    bridge_lr: float
    bridge_labelled: int
    steps: int
    probe_steps: int
    joint_steps: int
    every: int
    warmup: int
    labelled: int
    ladder: tuple[int, ...]  # other numbers of labelled pictures
    target: float  # accuracy whose first step is looked for
    train_tokens: int
    eval_samples: int
    eval_images: int
    eval_rows: int


def scale_of(scale: str) -> Scale:
    """cpu: the recipe; tiny: as few and as short runs as show that it works."""
    if scale == "tiny":
        return Scale(
            arch="early", size="d16", depth=2, core=(0, 1), seeds=(0,), lm_tokens=4_096, lm_rows=8, bridge_steps=4,
            bridge_lr=0.3, bridge_labelled=64, steps=8, probe_steps=4, joint_steps=4, every=2, warmup=2, labelled=60,
            ladder=(30,), target=0.15, train_tokens=12_000, eval_samples=60, eval_images=40, eval_rows=4,
        )  # fmt: skip
    grid = recipe("intervention_bridge")
    seeds = tuple(grid["seeds"])
    return Scale(
        arch=grid["archs"][0], size=grid["sizes"][0], depth=4, core=seeds, seeds=seeds[:5],
        lm_tokens=grid["tokens"][0], lm_rows=16, bridge_steps=210, bridge_lr=0.3, bridge_labelled=512, steps=240,
        probe_steps=90, joint_steps=200, every=30, warmup=20, labelled=1000, ladder=(125, 250, 500, 2000), target=0.5,
        train_tokens=400_000, eval_samples=1000, eval_images=400, eval_rows=16,
    )  # fmt: skip
