"""What a study of an intervention is: its arms, what is measured, the steps that make the numbers. Plain values only.

A file ``sweeps/interventions/METHOD.py`` has one function ``study(out, scale) -> Study``; ``steps.py`` runs it.
A row of ``collect`` is one measurement of one arm::

    {"arm": "lowest", "seed": 0, "n": 61_000, "d": 500_000, "flops": 2.1e11, "charged": 3.0e10, "loss_grounded": 0.41}

n parameters; d tokens, labels or samples (each may be None); flops FLOPs of this run itself; charged FLOPs spent for
its arm beforehand (scorers, references, extra fine-tunes, bridges, extra forward passes); then every metric of the
study that was measured, and whatever columns the page wants ("alpha", "epochs", ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sweeps.manifest import SweepError

Role = Literal["control", "treatment", "baseline", "ceiling"]
Better = Literal["lower", "higher"]
ActsOn = Literal["initialisation", "data", "weights", "decoding", "architecture"]

METHODS = ("filter", "soup", "pieces", "bridge", "guide")
SCALES = ("tiny", "cpu")
WORKERS = "{workers}"  # in a step's command: the number of worker processes that the user asked for
ROW_KEYS = ("arm", "seed", "n", "d", "flops", "charged")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")


class StudyError(SweepError):
    """A study is described wrongly, cannot go on, or its directory holds another one; the message says what to do."""


@dataclass(frozen=True)
class Arm:
    """One recipe. role: control (what others are measured against), treatment (the claim), baseline (another way to
    spend the same, or a control that separates causes), ceiling (what cannot be beaten, e.g. with knowledge of truth).
    """

    name: str
    role: Role
    what: str  # one line


@dataclass(frozen=True)
class Metric:
    """One number of a row. label: with its unit, as an axis says it."""

    name: str
    label: str
    better: Better


@dataclass(frozen=True)
class Step:
    """One ``nmm`` command. It must be resumable: stopped and started again it goes on, and finished it does nothing.

    done: a file or folder that is there once it has finished. files: called right before the command; the texts it
    returns are written where it says (a sweep's yaml whose charged FLOPs an earlier step measured). Other texts than
    last time make the step run again. enough: asked when the command ended with another status than 0, whether that
    will do all the same (a sweep of which some runs diverged).
    """

    name: str
    command: tuple[str, ...]  # arguments of `nmm`
    done: Path
    files: Callable[[], Mapping[Path, str]] | None = None
    enough: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Study:
    """A whole study. Raises ``StudyError`` for names that are missing, twice, or no file names."""

    method: str
    title: str
    acts_on: ActsOn
    claim: str  # what the paper says, with its source
    control: str  # name of the reference arm
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]  # the first is what the verdict is about
    measured_on: str
    steps: tuple[Step, ...]
    collect: Callable[[Path], list[dict[str, Any]]]  # OUT -> rows of results.jsonl

    def __post_init__(self) -> None:
        for what, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("metrics", [metric.name for metric in self.metrics]),
            ("steps", [step.name for step in self.steps]),
        ):
            _check_names(f"study {self.method}: {what}", names)
        if self.control not in [arm.name for arm in self.arms]:
            raise StudyError(f"study {self.method}: control={self.control!r} is not one of its arms")
        for where, value, allowed in (
            ("method", self.method, METHODS),
            ("acts_on", self.acts_on, get_args(ActsOn)),
            *((f"arm {arm.name}: role", arm.role, get_args(Role)) for arm in self.arms),
            *((f"metric {metric.name}: better", metric.better, get_args(Better)) for metric in self.metrics),
        ):
            if value not in allowed:
                raise StudyError(f"study {self.method}: {where} is {value!r}, not one of {', '.join(allowed)}")


def _check_names(where: str, names: Sequence[str]) -> None:
    if not names:
        raise StudyError(f"{where}: there are none")
    for name in names:
        if not _NAME.fullmatch(name):
            raise StudyError(f"{where}: {name!r} is no name; use letters, digits and . _ + - (at most 80)")
        if names.count(name) > 1:
            raise StudyError(f"{where}: {name!r} is there twice")
