"""`nmm fit` and `nmm design` as commands: this room and the analysis meet in files alone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.record import RecordError, file_sha256, read_json
from sweeps.adaptive.goal import Goal
from sweeps.adaptive.offers import Offer
from sweeps.manifest import SweepError

_SHOWN_LINES = 4
_GROUP_COLUMN = "arch"


class AnalysisError(SweepError):
    """The analysis refused or failed; the message is its own."""


@dataclass(frozen=True)
class Fits:
    """A file of ``nmm fit``. column: what it counts as N. excluded: run ids that no fit, or some fit, left out."""

    path: Path
    digest: str
    column: str
    rows_read: int
    excluded: frozenset[str]


@dataclass(frozen=True)
class Interval:
    """A quantity with its 95 % interval; an end is None where it is infinite. known: False where it is not identified,
    and why."""

    value: float | None
    low: float | None
    high: float | None
    known: bool = True
    why: str = ""

    @property
    def width(self) -> float:
        """High minus low; infinite where the quantity is not identified."""
        if not self.known or self.low is None or self.high is None:
            return float("inf")
        return self.high - self.low

    def __str__(self) -> str:
        if not self.known:
            return "not identified"
        value, low, high = ("inf" if v is None else f"{v:.4g}" for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Advice:
    """What ``nmm design`` chose. picked: places in the offers, most telling per FLOP first. now: the interval of the
    fit; expected: after the picked runs; ratio: of the widths. repeat_ratio: the same FLOPs on repeating what there is
    (None: they buy none), blind_ratio of a blind choice among the offers."""

    picked: tuple[int, ...]
    now: Interval
    expected: Interval
    ratio: float
    repeat_ratio: float | None
    blind_ratio: float
    notes: tuple[str, ...]


def fit(directory: Path, out: Path, options: Sequence[str] = ()) -> Fits:
    """Run ``nmm fit`` over the finished points of a sweep. Raises ``AnalysisError`` with its words."""
    _nmm("fit", str(directory), "--out", str(out), *options)
    return read_fits(out)


def read_fits(path: Path) -> Fits:
    """What the next step needs of a file of fits. Raises ``AnalysisError`` for another file."""
    try:
        values = read_json(path)
        columns, excluded = values["columns"], values["exclusions"]
        fits = Fits(
            path=path.absolute(),
            digest=file_sha256(path),
            column=str(columns["size"]),
            rows_read=int(values["rows_read"]),
            excluded=frozenset(str(item["run_id"]) for item in excluded),
        )
    except FileNotFoundError:
        raise AnalysisError(f"--fits {path} does not exist; without --fits the sweep is fitted now") from None
    except (RecordError, KeyError, TypeError, ValueError) as error:
        raise AnalysisError(f"--fits {path} was not written by `nmm fit` ({error!r}); fit again") from error
    if columns["group"] != _GROUP_COLUMN:
        raise AnalysisError(f"--fits {path} has one law per {columns['group']}; fit with one per {_GROUP_COLUMN}")
    return fits


def candidates_of(offers: Sequence[Offer], tokens_per_position: float) -> list[dict[str, Any]]:
    """The offers as ``nmm design`` reads them; N and D in the units of the fit, ``name`` the place in the list."""
    return [
        {
            "name": str(place),
            "N": offer.shape.count,
            "D": [tokens_per_position * count for count in offer.points],
            "flops": offer.flops,
            "runs": offer.runs,
            "beside": offer.beside,
        }
        for place, offer in enumerate(offers)
    ]


def design(fits: Fits, goal: Goal, out: Path, *options: str) -> Advice:
    """Run ``nmm design``; ``out`` is written. Raises ``AnalysisError`` with its words."""
    about = ("--group", goal.group, "--quantity", goal.quantity)
    _nmm("design", str(fits.path), *about, "--json", str(out), *options)
    plan = read_json(out)
    names = [step["run"]["name"] for step in plan["steps"]]
    return Advice(
        picked=tuple(int(name) for name in names if name),
        now=Interval(**plan["fitted"]),
        expected=Interval(**plan["expected"]),
        ratio=float(plan["ratio"]),
        repeat_ratio=plan["repeat_ratio"],
        blind_ratio=float(plan["blind_ratio"]),
        notes=tuple(plan["notes"]),
    )


def interval_now(fits: Fits, goal: Goal, out: Path, options: Sequence[str] = ()) -> Interval:
    """The goal's interval as the fit has it: a design of any one run says it."""
    return design(fits, goal, out, "--budget", "1e300", "--max-runs", "1", *options).now


def as_dict(interval: Interval) -> dict[str, Any]:
    """For JSON."""
    return dataclasses.asdict(interval)


def _nmm(*arguments: str) -> None:
    command = [sys.executable, "-m", "nmm.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [number for number, line in enumerate(said) if line.startswith("error: ")]
        shown = said[errors[-1] :] if errors else said[-_SHOWN_LINES:]
        words = " ".join(" ".join(shown).split()).removeprefix("error: ") or "it said nothing"
        raise AnalysisError(f"`nmm {arguments[0]}` ended with status {done.returncode}: {words}")
