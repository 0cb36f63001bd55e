"""Without a law: a metric on a ladder of costs for control and arm, and the control's equivalent cost.

Shapes: K rungs of an arm, S seeds, B resamples.

The control's mean over seeds is made monotone in its cost (pool adjacent violators) and read between rungs on straight
lines in the log of the cost. What the control would have to spend for the arm's metric is the smallest cost at which
that curve reaches it; beyond its rungs there is a bound and no number. Straight lines lie above a curve that flattens
out, so rungs a factor of 2 apart leave the multiplier right to a few per cent between them, and exact on them.
Intervals resample the seeds, those of control and arm together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.engine.jet import Array
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, OBSERVED, Multiplier, from_draws
from analysis.interventions.paired import mean
from analysis.interventions.rows import Data, Metric, RowsError, value_of

LEAST_SEEDS = 3
DRAWS = 2000
_MOST_EXACT = 5
_SAME_RUNG = 0.05
_UNITS = {"total": "FLOPs", "flops": "FLOPs", "n": "parameters", "d": "tokens", "steps": "steps"}
_LABELS = {"total": "total cost, charged FLOPs included (FLOPs)", "flops": "cost of the run itself (FLOPs)",
           "n": "parameters", "d": "data (tokens)", "steps": "steps"}  # fmt: skip


@dataclass(frozen=True)
class Ladder:
    """One arm's metric over its rungs (K,), costs ascending: geometric mean cost, mean over seeds with its t interval,
    the seeds (S,) and their values (K, S), NaN where a seed has no such rung. label: the axis with its unit."""

    arm: str
    metric: Metric
    axis: str
    unit: str
    cost: Array
    mean: Array
    low: Array
    high: Array
    seeds: tuple[int, ...]
    values: Array


def axis_words(axis: str, axis_label: str = "") -> tuple[str, str]:
    """(label, unit) of a cost axis; axis_label as "labels used (images)" puts the unit in brackets."""
    label = axis_label or _LABELS.get(axis, axis)
    inside = label.rpartition("(")[2].rstrip(")") if label.endswith(")") else ""
    return label, inside or _UNITS.get(axis, axis)


def ladder(
    data: Data, arm: str, metric: str = "", axis: str = "total", rung: str = "", where: Mapping[str, Any] | None = None,
    axis_label: str = "",
) -> Ladder:  # fmt: skip
    """The ladder of one arm. axis: "total" (flops + charged), "flops", or any column (d, steps, labels, ...).

    rung: column that says which rows of different seeds are the same rung; by default costs within 5 % are. Raises
    ``RowsError`` when no row has a positive cost and a number, or when a seed has two rows on one rung.
    """
    chosen = data.metric(metric)
    label, unit = axis_words(axis, axis_label)
    rows = [(row, value_of(row, axis), value_of(row, chosen.name)) for row in data.where(arm, **dict(where or {})).rows]
    rows = [item for item in rows if math.isfinite(item[1]) and item[1] > 0 and math.isfinite(item[2])]
    if not rows:
        raise RowsError(f"arm {arm} has no row with a positive {axis} and a number for {chosen.name}")
    costs = np.array([cost for _, cost, _ in rows])
    codes = _rungs(costs) if not rung else np.unique([row[rung] for row, _, _ in rows], return_inverse=True)[1]
    seeds = tuple(sorted({row["seed"] for row, _, _ in rows}))
    values = np.full((int(codes.max()) + 1, len(seeds)), math.nan)
    for code, (row, cost, value) in zip(codes, rows, strict=True):
        at = code, seeds.index(row["seed"])
        if math.isfinite(values[at]):
            raise RowsError(
                f"arm {arm}, seed {row['seed']} has two rows at {axis} {cost:.3g}: narrow them with where=, or say "
                "with rung= which column tells rungs apart"
            )
        values[at] = value
    level = np.array([math.exp(np.mean(np.log(costs[codes == code]))) for code in range(len(values))])
    order = np.argsort(level, kind="stable")
    found = [mean(values[code]) for code in order]
    return Ladder(
        arm, chosen, label, unit, level[order], np.array([e.value for e in found]), np.array([e.low for e in found]),
        np.array([e.high for e in found]), seeds, values[order],
    )  # fmt: skip


def _rungs(costs: Array) -> NDArray[np.intp]:
    """Rung (rows,) of every cost: neighbours on the sorted log axis within 5 % of the rung's first are one rung."""
    codes, start, code = np.zeros(len(costs), dtype=np.intp), -math.inf, -1
    for at in np.argsort(costs, kind="stable"):
        if costs[at] > start * (1 + _SAME_RUNG) or code < 0:
            start, code = float(costs[at]), code + 1
        codes[at] = code
    return codes


def multiplier(
    data: Data, arm: str, metric: str = "", axis: str = "total", control: str = "", rung: str = "",
    where: Mapping[str, Any] | None = None, axis_label: str = "", comparisons: int = 1,
) -> Multiplier:  # fmt: skip
    """What the control would have to spend to reach the arm's metric, over what the arm spent, at each rung of the arm.

    axis, rung: as in ``ladder``. where: narrows the rows of both. comparisons: how many such curves are judged
    together; the band then holds for all of them. With fewer than 3 shared seeds there is no interval.
    Raises ``RowsError`` as ``ladder`` does, and when the control has a single rung.
    """
    reference = control or data.control
    ours = ladder(data, arm, metric, axis, rung, where, axis_label)
    theirs = ladder(data, reference, metric, axis, rung, where, axis_label)
    if len(theirs.cost) < 2:
        raise RowsError(f"{reference} has one rung of {axis}; a multiplier needs at least 2, better 4")
    weights, basis, freedom = _resamples(ours.seeds, theirs.seeds)
    sign = ours.metric.sign
    ours, reached = _present(ours, sign * _averages(ours.values, weights[0]))
    theirs, reference_curve = _present(theirs, sign * _averages(theirs.values, weights[1]))
    needed = equivalent_cost(monotone(reference_curve), np.log(theirs.cost), reached)
    log_value = needed - np.log(ours.cost)
    log_value = log_value[np.isfinite(log_value).all(axis=1)]
    log_value = log_value[0] + small_sample(freedom + 1) * (log_value - log_value[0])
    best, worst = monotone(reference_curve)[0][[-1, 0]]
    mark = np.where(reached[0] > best, AT_LEAST, np.where(reached[0] < worst, AT_MOST, OBSERVED))
    names = {"arm": arm, "control": reference, "metric": ours.metric.label, "unit": ours.unit, "axis": ours.axis}
    ends = np.log(theirs.cost[0] / ours.cost), np.log(theirs.cost[-1] / ours.cost)
    inside = np.zeros(len(ours.cost), dtype=bool)
    result, wide = sign * reached[0], family_reach(freedom, comparisons * len(ours.cost))
    return from_draws(log_value, mark, ends, inside, ours.cost, result, names | {"basis": basis}, True, wide)


def _present(side: Ladder, curve: Array) -> tuple[Ladder, Array]:
    """The rungs that the seeds in use have; resamples in which one of these is missing hold NaN there."""
    kept = np.isfinite(curve[0])
    if not kept.any():
        raise RowsError(f"arm {side.arm}: no rung has a row of the seeds that both arms share")
    parts = {name: getattr(side, name)[kept] for name in ("cost", "mean", "low", "high", "values")}
    return replace(side, **parts), curve[:, kept]


def monotone(values: Array) -> Array:
    """The nearest curves (B, K) that never fall, in squares: the max-min form of pooling adjacent violators."""
    count = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    first, last = np.arange(count)[:, None], np.arange(count)[None, :]
    with np.errstate(all="ignore"):
        average = (sums[:, None, 1:] - sums[:, :-1, None]) / np.maximum(last - first + 1, 1)
    average = np.where(first <= last, average, np.inf)
    lowest = np.minimum.accumulate(average[:, :, ::-1], axis=2)[:, :, ::-1]
    lowest = np.where(first <= last, lowest, -np.inf)
    return np.asarray(lowest.max(axis=1))


def equivalent_cost(curve: Array, log_cost: Array, reached: Array) -> Array:
    """ln of the smallest cost (B, K) at which curves (B, M) that never fall, at ``log_cost`` (M,), reach ``reached``
    (B, K); the first or last cost where they lie outside, NaN where a number is missing."""
    above = curve[:, None, :] >= reached[:, :, None]
    at = np.where(above.any(axis=2), above.argmax(axis=2), curve.shape[1] - 1)
    before = np.maximum(at - 1, 0)
    high, low = (np.take_along_axis(curve, index, axis=1) for index in (at, before))
    with np.errstate(all="ignore"):
        share = np.clip((reached - low) / (high - low), 0.0, 1.0)
    share = np.where(high > low, share, 0.0 if curve.shape[1] == 1 else 1.0)
    found = log_cost[before] + share * (log_cost[at] - log_cost[before])
    whole = np.isfinite(curve).all(axis=1, keepdims=True)
    return np.where(np.isfinite(reached) & whole, found, np.nan)


def _averages(values: Array, weights: Array) -> Array:
    """Weighted means over seeds (B, K) of values (K, S) that may be missing, for weights (B, S); NaN for none."""
    present = np.isfinite(values)
    total = weights @ present.T.astype(float)
    with np.errstate(all="ignore"):
        return np.asarray((weights @ np.where(present, values, 0.0).T) / total)


def _resamples(ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[tuple[Array, Array], str, int]:
    """Weights (1 + B, S) of the seeds of both arms, the point first, a sentence, and seeds - 1 (0: no resamples).

    Seeds that both have are drawn together; without 3 of these, each arm by itself where both have 3.
    """
    shared = sorted(set(ours) & set(theirs))
    if len(shared) >= LEAST_SEEDS:
        counts = np.concatenate([np.ones((1, len(shared))), seed_draws(len(shared))])
        spread = tuple(_placed(counts, shared, seeds) for seeds in (ours, theirs))
        return (spread[0], spread[1]), f"{len(shared)} seeds resampled together", len(shared) - 1
    least = min(len(ours), len(theirs))
    if not shared and least >= LEAST_SEEDS:
        both = tuple(seed_draws(len(seeds), salt, exact=False) for salt, seeds in enumerate((ours, theirs)))
        first, second = (np.concatenate([np.ones((1, c.shape[1])), c]) for c in both)
        return (first, second), f"{len(ours)} and {len(theirs)} seeds resampled apart", least - 1
    ones = np.ones((1, len(ours))), np.ones((1, len(theirs)))
    return ones, f"{len(shared)} shared seed{'s' * (len(shared) != 1)}: too few for an interval", 0


def _placed(counts: Array, shared: list[int], seeds: tuple[int, ...]) -> Array:
    out = np.zeros((len(counts), len(seeds)))
    out[:, [seeds.index(seed) for seed in shared]] = counts
    return out


def seed_draws(count: int, salt: int = 0, exact: bool = True) -> Array:
    """How often each of ``count`` seeds is drawn (B, count): every possible resample once for up to 5, else random."""
    if exact and count <= _MOST_EXACT:
        drawn = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        drawn = np.random.default_rng([count, salt, 613]).integers(0, count, (DRAWS, count))
    out = np.zeros((len(drawn), count))
    np.add.at(out, (np.arange(len(drawn))[:, None], drawn), 1.0)
    return out


def small_sample(count: int) -> float:
    """t(n - 1) / 1.96 sqrt(n / (n - 1)): what percentiles of n resampled seeds lack in width; 1 for a single seed."""
    if count < 2:
        return 1.0
    t = float(stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975))
    return t * math.sqrt(count / (count - 1))


def family_reach(freedom: int, rungs: int) -> float:
    """How much wider than 95 % at one rung an interval must be to hold at all rungs together: Bonferroni with t.

    The largest of several t statistics is judged by t's own far tail, since each rung's spread is estimated from its
    few seeds; quantiles of resampled seeds miss that (``benchmarks/intervention_coverage.py``).
    """
    if freedom < 1:
        return 1.0
    return float(stats.t.ppf(1 - 0.025 / rungs, freedom) / stats.t.ppf(0.975, freedom))
