"""Arms over seeds: means, paired differences, proportions, each with a 95 % interval and the count it stands on.

The unit is a seed: rows of one seed (several sizes, several steps) are averaged first, because they are not independent
repetitions. With one seed there is a number and no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.interventions.rows import Data, Metric, RowsError, value_of

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (NaN where n does not allow one) and the count n of ``unit`` it stands on."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "seeds"

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Paired:
    """Arm minus control on one metric, over the seeds that both have.

    difference: its mean with a 95 % t interval. corrected: the same mean with the interval widened for the number of
    ``comparisons`` made at once (Bonferroni); verdicts are taken from it. wins, losses, ties: seeds at which the arm is
    better, worse, equal. sign_p: two-sided exact sign test over them. per_seed: the differences, by seed.
    """

    arm: str
    control: str
    metric: Metric
    difference: Estimate
    corrected: Estimate
    comparisons: int
    wins: int
    losses: int
    ties: int
    sign_p: float
    per_seed: tuple[tuple[int, float], ...]

    @property
    def outcome(self) -> str:
        """ "better", "worse", "unresolved" (the corrected interval holds 0), or "one seed" (there is none)."""
        if not self.corrected.known:
            return "one seed"
        good, bad = sorted(
            (self.metric.sign * self.corrected.low, self.metric.sign * self.corrected.high), reverse=True
        )
        return "better" if bad > 0 else "worse" if good < 0 else "unresolved"


def mean(values: ArrayLike, level: float = LEVEL, unit: str = "seeds") -> Estimate:
    """Mean of (n,) independent numbers with its t interval; NaN are left out; no interval for n = 1.

    Equal numbers give an interval of width 0. Raises ``ValueError`` when no number is left.
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        raise ValueError("there is no number to average")
    middle = float(kept.mean())
    if len(kept) == 1:
        return Estimate(middle, math.nan, math.nan, 1, unit)
    error = float(kept.std(ddof=1)) / math.sqrt(len(kept))
    reach = float(stats.t.ppf(0.5 + level / 2, len(kept) - 1)) * error
    return Estimate(middle, middle - reach, middle + reach, len(kept), unit)


def wilson(successes: int, total: int, level: float = LEVEL, unit: str = "trials") -> Estimate:
    """A proportion with Wilson's score interval (J. Am. Stat. Assoc. 22, 1927), which stays inside 0 .. 1.

    It holds for independent trials: outcomes of one trained model on many prompts, not of several seeds pooled. Raises
    ``ValueError`` unless 0 <= successes <= total and total > 0.
    """
    if not (0 <= successes <= total and total > 0):
        raise ValueError(f"a proportion needs 0 <= successes <= total > 0; it has {successes} of {total}")
    z = float(stats.norm.ppf(0.5 + level / 2))
    share, square = successes / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    reach = z * math.sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    low, high = (0.0 if not successes else middle - reach), (1.0 if successes == total else middle + reach)
    return Estimate(share, low, high, total, unit)


def by_seed(data: Data, arm: str, metric: str = "", where: Mapping[str, Any] | None = None) -> dict[int, float]:
    """Seed -> mean of the metric over the rows of ``arm`` with that seed; seeds without a number are left out."""
    name = data.metric(metric).name if metric in ("", *(m.name for m in data.study.metrics)) else metric
    found: dict[int, list[float]] = {}
    for row in data.where(arm, **(where or {})).rows:
        value = value_of(row, name)
        if math.isfinite(value):
            found.setdefault(row["seed"], []).append(value)
    return {seed: float(np.mean(values)) for seed, values in sorted(found.items())}


def means(
    data: Data, metric: str = "", arms: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
) -> dict[str, Estimate]:
    """Arm -> mean over its seeds with a t interval. Arms without a number are left out."""
    found = {arm: by_seed(data, arm, metric, where) for arm in (arms or data.arms)}
    return {arm: mean(list(values.values())) for arm, values in found.items() if values}


def paired(
    data: Data, arm: str, metric: str = "", control: str = "", by: Sequence[str] = (), comparisons: int = 1,
    where: Mapping[str, Any] | None = None,
) -> Paired:  # fmt: skip
    """The paired difference arm - control (default: the reference arm) of a metric.

    by: further columns, beside the seed, that both rows of a pair must share (as "n", "d", "steps"); differences of one
    seed are then averaged. comparisons: how many such differences are looked at together. Raises ``RowsError`` when no
    pair exists, or when several rows of an arm share a key (narrow them with ``where`` or name the column in ``by``).
    """
    reference = control or data.control
    chosen = data.metric(metric)
    sides = [_keyed(data.where(name, **(where or {})), chosen.name, ("seed", *by), name) for name in (arm, reference)]
    gaps: dict[int, list[float]] = {}
    for key in sides[0].keys() & sides[1].keys():
        gaps.setdefault(key[0], []).append(sides[0][key] - sides[1][key])
    if not gaps:
        keys = ", ".join(("seed", *by))
        raise RowsError(f"{arm} and {reference} share no {keys} with a number for {chosen.name}; there is no pair")
    per_seed = {seed: float(np.mean(values)) for seed, values in sorted(gaps.items())}
    values = list(per_seed.values())
    good = [chosen.sign * value for value in values]
    wins, losses = sum(v > 0 for v in good), sum(v < 0 for v in good)
    return Paired(
        arm, reference, chosen, mean(values), mean(values, 1 - (1 - LEVEL) / comparisons), comparisons, wins, losses,
        len(good) - wins - losses, sign_test(wins, losses), tuple(per_seed.items()),
    )  # fmt: skip


def paired_all(
    data: Data, metric: str = "", control: str = "", by: Sequence[str] = (), arms: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[Paired]:  # fmt: skip
    """``paired`` for every other arm (or ``arms``), each corrected for the number of them."""
    reference = control or data.control
    chosen = [arm for arm in (arms or data.arms) if arm != reference]
    return [paired(data, arm, metric, reference, by, len(chosen), where) for arm in chosen]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact probability of a split at least this uneven when both signs are equally likely; 1 for none."""
    total = wins + losses
    return float(stats.binomtest(wins, total).pvalue) if total else 1.0


def _keyed(data: Data, metric: str, columns: Sequence[str], arm: str) -> dict[tuple[Any, ...], float]:
    found: dict[tuple[Any, ...], float] = {}
    for row in data.rows:
        key = tuple(row.get(column) for column in columns)
        if key in found:
            shared = ", ".join(f"{name} {value}" for name, value in zip(columns, key, strict=True))
            raise RowsError(
                f"arm {arm} has several rows with {shared}: say which to pair, with where= or a further column in by="
            )
        found[key] = value_of(row, metric)
    return {key: value for key, value in found.items() if math.isfinite(value)}
