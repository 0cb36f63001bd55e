"""What guidance is worth in model size: the size of a directly tuned model that does as well as a guided pair.

Shapes: K sizes that were tuned, S seeds, B resamples.

The metric of directly tuned models, mean over seeds, is made monotone in their size and read between sizes on straight
lines in the log of it (``curve``); where the guided pair's metric lies on it is N_eff. Beyond the tested sizes there is
a bound. Seeds are resampled together, those of the pair, of the tuned models and of the base.

    inference multiplier   FLOPs a token of a tuned model of N_eff over those of the pair, N_eff / (N_L + 2 N_S)
    training multiplier    FLOPs of tuning the large model over those of tuning the small one
    gap closed             (guided - base) / (tuned - base), all of the large model
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.engine.jet import Array
from analysis.interventions.curve import LEAST_SEEDS, equivalent_cost, ladder, monotone, seed_draws, small_sample
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, OBSERVED
from analysis.interventions.rows import Data, Row, RowsError, value_of
from analysis.result import Interval


@dataclass(frozen=True)
class Effective:
    """A guided pair. ratio: N_L / N_S. mark: "", or ">=" / "<=" where the pair is better than the largest, or worse
    than the smallest model that was tuned: n_eff is then that model's size. Intervals are 95 % over seeds, NaN with
    fewer than 3 seeds; gap is NaN where tuning the large model changed nothing.
    """

    small: str
    big: str
    n_large: float
    n_small: float
    n_eff: Interval
    mark: str
    inference: Interval
    training: float
    gap: Interval
    seeds: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """How much larger the base is than a guide."""
        return self.n_large / self.n_small


def effective_sizes(
    data: Data, arm: str = "guided", tuned: str = "tuned", base: str = "base", metric: str = ""
) -> list[Effective]:
    """Every pair of ``arm``, by (N_S, N_L). Its rows have the columns small, big and ratio; n is the large model's.

    Raises ``RowsError`` when fewer than two sizes were tuned directly, or a pair shares no seed with them.
    """
    pairs = {(row["small"], row["big"]) for row in data.where(arm).rows}
    found = [_effective(data, arm, tuned, base, metric, small, big) for small, big in pairs]
    return sorted(found, key=lambda each: (each.n_small, each.n_large))


def _effective(data: Data, arm: str, tuned: str, base: str, metric: str, small: str, big: str) -> Effective:
    chosen = data.metric(metric)
    rows = {row["seed"]: row for row in data.where(arm, small=small, big=big).rows}
    sizes = ladder(data, tuned, chosen.name, "n")
    if len(sizes.cost) < 2:
        raise RowsError(f"arm {tuned} has one size; what a pair is worth in size needs at least 2, better 4")
    bases = {row["seed"]: row for row in data.where(base, big=big).rows}
    ceilings = {row["seed"]: row for row in data.where(tuned, big=big).rows}
    seeds = tuple(seed for seed in sizes.seeds if seed in rows and seed in bases and seed in ceilings)
    if not seeds:
        raise RowsError(f"arm {arm}, {small} guiding {big}: no seed that {tuned} and {base} have too")
    weights = np.concatenate([np.ones((1, len(seeds))), _draws(len(seeds))])
    kept = [sizes.seeds.index(seed) for seed in seeds]
    curve = monotone(chosen.sign * _means(sizes.values[:, kept], weights))
    guided, low, high = (_of(each, seeds, chosen.name, weights) for each in (rows, bases, ceilings))
    log_n = equivalent_cost(curve, np.log(sizes.cost), chosen.sign * guided[:, None])[:, 0]
    mark = AT_LEAST if chosen.sign * guided[0] > curve[0, -1] else OBSERVED
    mark = AT_MOST if chosen.sign * guided[0] < curve[0, 0] else mark
    n_eff = _interval(log_n, len(seeds), exponential=True)
    first = rows[seeds[0]]
    n_large, n_small = value_of(first, "n"), value_of(first, "n") / value_of(first, "ratio")
    scale = 1 / (n_large + 2 * n_small)
    with np.errstate(all="ignore"):
        gap = np.where(high != low, (guided - low) / (high - low), math.nan)
    return Effective(
        small,
        big,
        n_large,
        n_small,
        n_eff,
        mark,
        replace(n_eff, value=n_eff.value * scale, low=n_eff.low * scale, high=n_eff.high * scale),
        _charged(ceilings, seeds) / _charged(rows, seeds),
        _interval(gap, len(seeds), exponential=False),
        seeds,
    )


def _draws(count: int) -> Array:
    """Resamples of the seeds; none where there are too few for an interval."""
    return seed_draws(count) if count >= LEAST_SEEDS else np.zeros((0, count))


def _means(values: Array, weights: Array) -> Array:
    """Weighted means (B, K) of values (K, S). A missing value is missed: NaN."""
    return np.asarray(weights @ values.T / weights.sum(axis=1, keepdims=True))


def _of(rows: dict[int, Row], seeds: tuple[int, ...], metric: str, weights: Array) -> Array:
    values = np.array([[value_of(rows[seed], metric) for seed in seeds]])
    return _means(values, weights)[:, 0]


def _charged(rows: dict[int, Row], seeds: tuple[int, ...]) -> float:
    return float(np.mean([value_of(rows[seed], "charged") for seed in seeds]))


def _interval(draws: Array, seeds: int, exponential: bool) -> Interval:
    """The point, which comes first, with what the resamples spread, widened for few seeds."""
    point, spread = float(draws[0]), draws[1:][np.isfinite(draws[1:])]
    low = high = math.nan
    if len(spread) and math.isfinite(point):
        wide = small_sample(seeds)
        low, high = (point + wide * (float(q) - point) for q in np.quantile(spread, (0.025, 0.975)))
    if exponential:
        point, low, high = (math.exp(x) if math.isfinite(x) else math.nan for x in (point, low, high))
    known = math.isfinite(low)
    return Interval(point, low, high, known, "" if known else "too few seeds for an interval")
