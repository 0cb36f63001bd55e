"""The runs of the study of bridges as three sweeps, each of which starts from the runs of the one before.

A sweep's manifest is made right before its launch, when what its runs start from is there: their weights are part of
their names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nmm.compose import compose
from nmm.resolve import finalize
from sweeps import manifest
from sweeps.estimate import Speeds, estimate
from sweeps.interventions.bridge_scale import Scale
from sweeps.interventions.protocol import WORKERS, Step
from sweeps.manifest import Entry

TEXT = "data.mixture={caption: 0, text: 1, interleaved: 0}"
BOTH = "data.mixture={caption: 0.6, text: 0.4, interleaved: 0}"
LM = "lm"
FRESH = "start.fresh=[labels]"
PROBE = ("stage.train=none", "start.fresh=[patch,labels]")
OTHER_START = {"rand_covariance": "rand_random"}  # arms that begin with another arm's bridge


class Asked(NamedTuple):
    """Runs of one arm, one a seed. start: "" (scratch), LM, or the arm whose bridge they start from."""

    arm: str
    seeds: Sequence[int]
    start: str
    overrides: tuple[str, ...]


class Chain:
    """What is asked of every sweep, and the steps that run it."""

    def __init__(self, out: Path, plan: Scale) -> None:
        self.runs, self.plan = out / "runs", plan
        self.common = (
            f"data.path={out / 'shards'}", "data.image_size=16", "data.patch_size=4", "data.context_length=64",
            f"data.eval_rows={plan.eval_rows}", "arch.image_attention=causal", "trainer.compile=off",
            f"schedule.warmup_steps={plan.warmup}", "trainer.log_every_steps=100", "trainer.progress=false",
            "sweep=intervention_bridge", "intervention.method=bridge",
        )  # fmt: skip
        self.scratch = (f"arch={plan.arch}", f"size={plan.size}", f"size.depth={plan.depth}", "size.name=bridge")
        self.label = ("stage=bridge", f"stage.eval_images={plan.eval_images}", "trainer.rows_per_step=8")
        self.first, self.last = (f"stage.train={end}:{plan.depth // 2}" for end in ("first", "last"))

    def launch(self, name: str, asked: Callable[[], list[Asked]]) -> Step:
        """The step that runs a sweep in OUT/runs/NAME."""
        folder = self.runs / name
        path = folder / manifest.FILE_NAME

        def files() -> Mapping[Path, str]:
            folder.mkdir(parents=True, exist_ok=True)
            return {path: manifest.as_text([entry for one in asked() for entry in self.entries(one, folder)])}

        return Step(name, ("sweep", "launch", str(folder), f"workers={WORKERS}"), path, files)

    def entries(self, asked: Asked, folder: Path) -> list[Entry]:
        """Manifest lines of ``asked``. Raises ``ConfigError`` when what it starts from is not finished."""
        begins = self.scratch if not asked.start else ("start=run", "start.path=later")
        config = compose([*self.common, *begins, *asked.overrides, f"intervention.arm={asked.arm}"])
        found = []
        for seed in asked.seeds:
            start = dataclasses.replace(config.start, path=str(self._start(asked.start, seed)) if asked.start else "")
            run = finalize(dataclasses.replace(config, seed=seed, start=start, out=str(folder)))
            found.append(Entry(run, estimate(run, Speeds())))
        return found

    def _start(self, start: str, seed: int) -> Path:
        """The run directory of a language run, or of an arm's bridge."""
        folder = self.runs / (LM if start == LM else "bridge")
        (entry,) = [e for e in manifest.read(folder) if (e.arm, e.config.seed) == (start, seed)]
        return folder / entry.run_id

    def language(self) -> list[Asked]:
        """One run on texts a seed."""
        plan = self.plan
        rows, budget = f"trainer.rows_per_step={plan.lm_rows}", f"budget.tokens={plan.lm_tokens}"
        return [Asked(LM, plan.core, "", (TEXT, rows, budget))]

    def bridges(self) -> list[Asked]:
        """Every arm's bridge."""
        core, some = self.plan.core, self.plan.seeds
        listed: list[tuple[str, Sequence[int], str, tuple[str, ...]]] = [
            ("lm_random", core, LM, ()),
            ("lm_first", core, LM, (self.first,)),
            ("lm_last", some, LM, (self.last,)),
            ("lm_not_true", some, LM, ("stage.labels=not_true",)),
            ("lm_truth", some, LM, ("stage.labels=truth",)),
            ("lm_shift", some, LM, (self.first, "stage.shift=1")),
            ("lm_next_patch", some, LM, ("stage.objective=next_patch",)),
            ("rand_random", core, "", ()),
            ("rand_first", some, "", (self.first,)),
            ("rand_last", some, "", (self.last,)),
            ("rand_not_true", some, "", ("stage.labels=not_true",)),
            ("rand_truth", some, "", ("stage.labels=truth",)),
            ("shuffle_first", some, LM, (self.first, "start.transform=shuffle")),
            ("rescaled_first", some, LM, (self.first, "start.transform=rescaled_random")),
        ]
        plan = self.plan
        same = (*self.label, f"budget.steps={plan.bridge_steps}", f"stage.lr_scale={plan.bridge_lr}",
                f"stage.labelled={plan.bridge_labelled}")  # fmt: skip
        return [Asked(arm, seeds, start, (*same, *overrides)) for arm, seeds, start, overrides in listed]

    def after(self) -> list[Asked]:
        """Classification and probe of every arm, fewer and more labels, image-text training."""
        return [*self._classifications(), *self._probes(), *self._budgets_of_labels(), *self._image_text()]

    def _true(self, steps: int, labelled: int = 0) -> tuple[str, ...]:
        """True labels at a constant learning rate, so that every step is as good an end as the last one."""
        number = labelled or self.plan.labelled
        return (*self.label, "stage.labels=truth", f"stage.labelled={number}", f"budget.steps={steps}",
                f"trainer.eval_every_steps={self.plan.every}", "schedule.cooldown_fraction=0")  # fmt: skip

    def _classifications(self) -> list[Asked]:
        """Without a bridge also for as many steps more as a bridge has, the first two."""
        plan = self.plan
        long, short = self._true(plan.steps + plan.bridge_steps), self._true(plan.steps)
        covariance = ("start.transform=covariance", FRESH)
        return [
            Asked("lm_none", plan.core, LM, long),
            Asked("rand_none", plan.core, "", long),
            Asked("shuffle_none", plan.core, LM, (*short, "start.transform=shuffle")),
            Asked("rescaled_none", plan.core, LM, (*short, "start.transform=rescaled_random")),
            Asked("rand_covariance", plan.seeds, OTHER_START["rand_covariance"], (*short, *covariance)),
            *(Asked(one.arm, one.seeds, one.arm, (*short, FRESH)) for one in self.bridges()),
        ]

    def _probes(self) -> list[Asked]:
        """Body frozen, patches and labels anew."""
        plan, true = self.plan, self._true(self.plan.probe_steps)
        transformed = {"shuffle_none": "shuffle", "rescaled_none": "rescaled_random"}
        return [
            Asked("lm_none", plan.core, LM, (*true, *PROBE)),
            Asked("rand_none", plan.core, "", (*true, PROBE[0])),
            *(Asked(arm, plan.core, LM, (*true, *PROBE, f"start.transform={t}")) for arm, t in transformed.items()),
            *(Asked(one.arm, one.seeds, one.arm, (*true, *PROBE)) for one in self.bridges()),
        ]

    def _budgets_of_labels(self) -> list[Asked]:
        """Fewer and more labelled pictures, at the same number of steps."""
        plan = self.plan
        arms: list[tuple[str, str, tuple[str, ...]]] = [
            ("lm_none", LM, ()), ("rand_none", "", ()), ("lm_first", "lm_first", (FRESH,)),
        ]  # fmt: skip
        return [
            Asked(arm, plan.seeds, start, (*self._true(plan.steps, labelled), *fresh))
            for arm, start, fresh in arms
            for labelled in plan.ladder
        ]

    def _image_text(self) -> list[Asked]:
        """Captions and texts together after a bridge, and without."""
        plan = self.plan
        words = (BOTH, f"budget.steps={plan.joint_steps}", "trainer.rows_per_step=8")
        starts = {"lm_none": LM, "rand_none": "", "lm_first": "lm_first", "lm_next_patch": "lm_next_patch"}
        return [Asked(arm, plan.seeds, start, words) for arm, start in starts.items()]
