"""Which fine-tunes and which soups the study of weight soups makes. Plain values, no files are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHODS = ("uniform", "greedy", "maximum", "individual_select", "model_stock")


@dataclass(frozen=True)
class Scale:
    """Sizes of the study. lengths: steps of a fine-tune, the last being that of all other arms; joint: steps of joint
    training, which should hold every length, k times each, and fewer, down to what is no better than the poorest soup;
    after: steps of what goes on from the longest of these.
    """

    arch: str
    size: str
    seeds: tuple[int, ...]
    tokens: int
    lr: float
    lrs: tuple[float, ...]  # besides lr, of the soup over learning rates
    lengths: tuple[int, ...]
    joint: tuple[int, ...]
    after: int
    base_tokens: int
    tune_tokens: int
    eval_samples: int
    extra: tuple[str, ...] = ("count", "after", "same")

    @property
    def warmup(self) -> int:
        """Steps, of pretraining."""
        return 100 if self.tokens > 100_000 else 4

    @property
    def main(self) -> int:
        """Steps of a fine-tune wherever there is no ladder."""
        return self.lengths[-1]


@dataclass(frozen=True)
class Soup:
    """One soup or, with one member, one model that is scored. arm: empty where it is no row by itself."""

    arm: str
    seed: int
    steps: int
    method: str
    runs: tuple[str, ...]
    out: str
    different_starts: str = "refuse"

    def keys(self) -> dict[str, Any]:
        """As a line of `nmm soup list=`."""
        line = {"method": self.method, "runs": list(self.runs), "out": self.out}
        return line | ({"different_starts": self.different_starts} if self.different_starts != "refuse" else {})


def tuned(out: Path, name: str, lr: float | str, steps: int | str, seed: int | str, start: str = "base") -> str:
    """Folder of one fine-tune, where a run's directory lies alone. Hydra fills in what is given as ``${...}``."""
    rate = lr if isinstance(lr, str) else f"{lr:g}"
    return str(out / "tuned" / start / f"{name}-{rate}-{steps}" / f"s{seed}")


def tunings(out: Path, plan: Scale, after: bool = False) -> Iterator[list[str]]:
    """Overrides of `nmm train -m`, one command a group of fine-tunes; ``after``: of those that go on from joint
    training."""
    if after:
        start, folder = tuned(out, "joint", plan.lr, plan.joint[-1], "${seed}"), "joint"
        k = len(plan.extra)
        groups: list[tuple[Sequence[str], Sequence[float], Sequence[int]]] = [
            (plan.extra, (plan.lr,), (plan.after,)),
            (("joint",), (plan.lr,), (plan.after, k * plan.after)),
        ]
    else:
        start, folder = str(out / "base" / "s${seed}"), "base"
        groups = [
            (plan.extra, (plan.lr,), plan.lengths),
            (("D",), (plan.lr, *plan.lrs), (plan.main,)),
            (("joint",), (plan.lr,), [steps for steps in plan.joint if steps >= plan.lengths[0]]),
            (("joint",), (plan.lr,), [steps for steps in plan.joint if steps < plan.lengths[0]]),  # of a shorter warmup
        ]
    for names, lrs, lengths in (group for group in groups if group[2]):
        where = tuned(out, "${intervention.arm}", "${optim.lr}", "${budget.steps}", "${seed}", folder)
        yield [
            f"intervention.arm={','.join(names)}",
            f"optim.lr={','.join(f'{lr:g}' for lr in lrs)}",
            f"budget.steps={','.join(map(str, lengths))}",
            f"schedule.warmup_steps={min(20, min(lengths) // 4)}",
            f"data.path={out}/shards/${{intervention.arm}}",
            f"start.path={start}",
            f"out={where}",
        ]


def first_soups(out: Path, plan: Scale) -> list[Soup]:
    """Everything that begins with the pretrained models."""
    found = []
    for place, seed in enumerate(plan.seeds):
        found.append(_one(out, "pretrained", seed, 0, str(out / "base" / f"s{seed}")))
        found.append(_one(out, "D_only", seed, plan.main, tuned(out, "D", plan.lr, plan.main, seed)))
        for steps in plan.joint:
            found.append(_one(out, "joint", seed, steps, tuned(out, "joint", plan.lr, steps, seed)))
        for steps in plan.lengths:
            members = tuple(tuned(out, name, plan.lr, steps, seed) for name in plan.extra)
            found += [_soup(out, method, seed, steps, method, members) for method in METHODS]
        rates = tuple(tuned(out, "D", lr, plan.main, seed) for lr in (plan.lr, *plan.lrs))
        found.append(_soup(out, "lr_greedy", seed, plan.main, "greedy", rates))
        others = tuple(
            tuned(out, name, plan.lr, plan.main, plan.seeds[(place + i) % len(plan.seeds)])
            for i, name in enumerate(plan.extra)
        )
        found.append(_soup(out, "other_starts", seed, plan.main, "uniform", others, "accept"))
    return found


def later_soups(out: Path, plan: Scale) -> list[Soup]:
    """Everything that goes on from the longest joint training."""
    found = []
    k = len(plan.extra)
    for seed in plan.seeds:
        last = plan.joint[-1]
        found.append(_one(out, "plateau_start", seed, last, tuned(out, "joint", plan.lr, last, seed)))
        for steps in (plan.after, k * plan.after):
            run = tuned(out, "joint", plan.lr, steps, seed, "joint")
            found.append(_one(out, "plateau_joint", seed, steps, run))
        members = tuple(tuned(out, name, plan.lr, plan.after, seed, "joint") for name in plan.extra)
        for method in ("uniform", "greedy"):
            found.append(_soup(out, f"plateau_{method}", seed, plan.after, method, members))
    return found


def _one(out: Path, arm: str, seed: int, steps: int, run: str) -> Soup:
    return _soup(out, arm, seed, steps, "uniform", (run,))


def _soup(
    out: Path, arm: str, seed: int, steps: int, method: str, runs: tuple[str, ...], starts: str = "refuse"
) -> Soup:
    return Soup(arm, seed, steps, method, runs, str(out / "soups" / f"{arm}-{steps}" / f"s{seed}"), starts)
