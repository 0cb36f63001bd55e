"""The choices an analyst makes before fitting, and what each of them gives: row filters, conventions, one row a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from analysis.result import Interval, plain
from analysis.rows.columns import Columns, TableError
from analysis.rows.conventions import N_CONVENTIONS
from analysis.rows.reading import Source
from analysis.rows.table import Sample, load
from analysis.validation.folds import Keep
from analysis.validation.influence import Influence

DROPPED = (1, 2, 3, 5, 10)
QUANTILE = 0.05
ALL_ROWS = "all rows"
AXES = ("objective", "delta", "rows", "convention")
GIVEN = "as given"


@dataclass(frozen=True)
class Choice:
    """One fit. delta_rule: "auto", the number, or "-" without one; delta: the number used. derived: closed forms of the
    law (a, b, ...). unidentified: parameters whose profile is flat to a bound. status as in ``FitResult``."""

    objective: str
    delta_rule: str
    rows: str
    convention: str
    n_rows: int
    params: dict[str, float]
    derived: dict[str, float]
    status: str
    unidentified: tuple[str, ...]
    delta: float | None
    objective_value: float

    def differs_in(self, other: Choice) -> tuple[str, ...]:
        """The axes on which two choices differ; a penalty without a delta differs in the objective only."""
        found = [axis for axis in AXES if axis != "delta" and getattr(self, axis) != getattr(other, axis)]
        if self.delta_rule != other.delta_rule and "-" not in (self.delta_rule, other.delta_rule):
            found.append("delta")
        return tuple(found)

    def value(self, name: str) -> float | None:
        """A parameter or derived quantity, None where this choice does not identify it."""
        if self.status == "failed" or name in self.unidentified:
            return None
        if self.unidentified and name in self.derived:
            return None
        return self.params.get(name, self.derived.get(name))


@dataclass(frozen=True)
class Spread:
    """One quantity over all choices. interval: of the base fit (sampling alone). low, high: over the choices that
    identify it. ratio: (high - low) / width of the interval, in logarithms for scales; None without an interval.

    by_axis: (low, high) when one axis alone leaves the base. counted, left_out: choices in and not in the range.
    """

    name: str
    interval: Interval
    low: float
    high: float
    ratio: float | None
    by_axis: dict[str, tuple[float, float]]
    counted: int
    left_out: int

    @property
    def main_axis(self) -> str:
        """The axis that moves the quantity most on its own, or "-"."""
        widths = {axis: high - low for axis, (low, high) in self.by_axis.items() if high > low}
        return max(widths, key=lambda axis: widths[axis]) if widths else "-"


@dataclass(frozen=True)
class Sensitivity:
    """choices[0] is the base. interval_method: where the intervals of ``spreads`` come from. skipped: filters or
    conventions that could not be used, with the reason."""

    law: str
    group: str
    target: str
    choices: tuple[Choice, ...]
    spreads: tuple[Spread, ...]
    interval_method: str
    influence: Influence | None
    skipped: tuple[str, ...]
    seconds: float

    @property
    def base(self) -> Choice:
        """The fit that the others are compared with."""
        return self.choices[0]

    def one_at_a_time(self) -> list[Choice]:
        """The base and the choices that differ from it in one axis."""
        return [choice for choice in self.choices if len(choice.differs_in(self.base)) <= 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities become null."""
        out: dict[str, Any] = plain(asdict(self))
        for item, spread in zip(out["spreads"], self.spreads, strict=True):
            item["main_axis"] = spread.main_axis
        return out


def row_filters(sample: Sample, dropped: Sequence[int] = DROPPED, quantile: float = QUANTILE) -> dict[str, Keep]:
    """The filters that papers use, label -> (n,) rows kept: all rows; without the k highest losses (the rule of arXiv
    2404.10102, losses equal to the k-th go with it); D/N above its lowest ``quantile``; without the smallest size.

    Filters that keep the same rows as an earlier one are left out.
    """
    found = {ALL_ROWS: np.ones(len(sample), dtype=bool)}
    order = np.sort(sample.loss)[::-1]
    for k in dropped:
        if k < len(order):
            found[f"loss below the {_ordinal(k)}largest"] = sample.loss < order[k - 1]
    if {"N", "D"} <= set(sample.columns):
        ratio = sample.tokens / sample.size
        limit = float(np.quantile(ratio, quantile))
        found[f"D/N >= {limit:.3g} ({100 * quantile:g} % quantile)"] = ratio >= limit
    if "N" in sample.columns:
        found["without the smallest N"] = sample.size > sample.size.min()
    first = {keep.tobytes(): label for label, keep in reversed(found.items())}
    return {label: keep for label, keep in found.items() if first[keep.tobytes()] == label}


def _ordinal(k: int) -> str:
    if k == 1:
        return ""
    ending = "th" if k % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(k % 10, "th")
    return f"{k}{ending} "


def convention_samples(
    source: Source, columns: Columns, group: str, target: str
) -> tuple[dict[str, Sample], list[str]]:
    """The same runs under every N convention that the table has columns for, and why the others are missing.

    Conventions that give the same numbers share one entry, "total = active". ``columns`` names everything but N.
    """
    found: dict[str, Sample] = {}
    missing = []
    for name in N_CONVENTIONS:
        chosen = replace(columns, size=Columns.size, n_convention=name)
        try:
            sample = load(source, chosen).sample(group, target)[0]
        except TableError as error:
            missing.append(f"{name}: {error}")
            continue
        same = next((label for label, other in found.items() if np.array_equal(other.size, sample.size)), None)
        if same is not None:
            found = {f"{label} = {name}" if label == same else label: s for label, s in found.items()}
        else:
            found[name] = sample
    return found, missing
