"""What is known of a fit's parameters, as draws: the bootstrap where there is one, otherwise the covariance.

Shapes: B draws, P parameters. Row 0 of every (1 + B, ...) array is the point, the rest are draws about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.engine.jet import Array
from analysis.result import FitResult, Interval

LEVEL = (2.5, 97.5)
COVARIANCE_DRAWS = 1000
_MOST_MISSING = 0.05
_WIDE = 100.0
_SMALL = 0.01


@dataclass(frozen=True)
class Spread:
    """theta (1 + B, P), the factor by which a deviation from the point is stretched, and where the draws come from.

    method is empty when nothing says how uncertain the fit is; theta then has the point alone.
    """

    theta: Array
    widening: float
    method: str

    @property
    def num_draws(self) -> int:
        """B."""
        return len(self.theta) - 1


def spread_of(fit: FitResult, draws: int = COVARIANCE_DRAWS, seed: int = 0) -> Spread:
    """The bootstrap draws of a fit, or ``draws`` normal ones from its cluster-robust covariance, or the point alone.

    The normal draws are 1/100 of their size and ``widening`` is a hundred times t(df) / 1.96 (df = runs - 1 when some
    run gave several rows, rows - parameters otherwise), so that whatever is computed from them is linear in the
    parameters: the delta method. Full-size normal draws leave the curved valley that fits of power laws live in, and
    every loss they predict is then too high.
    """
    if fit.draws is not None:
        return Spread(np.concatenate([fit.theta[None], fit.draws]), fit.widening, fit.ci_method)
    if fit.covariance is None:
        return Spread(fit.theta[None], 1.0, "")
    theta = fit.theta + normal_draws(fit.covariance, draws, seed) * _SMALL
    free = int(np.sum(np.diag(fit.covariance) > 0))
    freedom = max(fit.n_clusters - 1 if fit.n_clusters < fit.n_rows else fit.n_rows - free, 1)
    widening = t_widening(freedom) / _SMALL
    text = f"delta method with the sandwich covariance, t({freedom})"
    return Spread(np.concatenate([fit.theta[None], theta]), widening, text)


def t_widening(freedom: int) -> float:
    """t(df) / 1.96, both at 97.5 %."""
    return float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975))


def normal_draws(covariance: Array, draws: int, seed: int = 0) -> Array:
    """(draws, P) with mean 0 and this covariance (P, P), which may be singular. The same seed gives the same ones."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(np.random.default_rng([seed, 7919]).standard_normal((draws, len(values))) @ root.T)


def interval_from(values: Array, widening: float, log: bool = True, what: str = "value") -> Interval:
    """95 % percentile interval of the draws (1 + B,) stretched about the point, in logarithms for positive quantities.

    Not known when there are no draws, when more than 5 % of them have no value, or when the ends of a positive quantity
    lie a factor of 100 apart: ``why`` says which.
    """
    point = float(values[0])
    if len(values) == 1:
        return Interval(point, np.nan, np.nan, False, "the fit has neither bootstrap draws nor a covariance")
    with np.errstate(all="ignore"):
        deviation = np.log(values[1:] / point) if log else values[1:] - point
    usable = np.isfinite(deviation)
    if not np.isfinite(point) or not usable.any():
        return Interval(point, np.nan, np.nan, False, f"there is no {what}")
    low, high = np.percentile(widening * deviation[usable], LEVEL)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    with np.errstate(over="ignore"):
        ends = (point * float(np.exp(low)), point * float(np.exp(high))) if log else (point + low, point + high)
    why = ""
    if (missing := 1.0 - float(np.mean(usable))) > _MOST_MISSING:
        why = f"{100 * missing:.0f} % of the draws have no {what}"
    elif log and not ends[1] < _WIDE * ends[0]:
        why = f"the interval spans a factor of {ends[1] / ends[0]:.0g}" if ends[0] > 0 else "the interval reaches 0"
    return Interval(point, *ends, not why, why)


def probability(draws: Array) -> float:
    """Share of draws (B,) above 0, kept off 0 and 1 by one draw: B draws cannot say that something is certain."""
    usable = draws[np.isfinite(draws)]
    return float((np.sum(usable > 0) + 0.5 * np.sum(usable == 0) + 1.0) / (len(usable) + 2.0))


def simultaneous_band(point: Array, draws: Array) -> tuple[Array, Array]:
    """95 % band (low, high), each (..., K), that covers a whole curve at once, from its draws (..., B, K).

    point (..., K) -+ q s: s from the pointwise percentiles of the draws about it, q the 95 % quantile over draws of the
    largest standardised deviation anywhere on the curve.
    """
    deviation = draws - point[..., None, :]
    spread = np.ptp(np.percentile(deviation, LEVEL, axis=-2), axis=0) / (2 * 1.96)
    spread = np.maximum(spread, 1e-12)
    largest = np.max(np.abs(deviation) / spread[..., None, :], axis=-1)
    reach = np.percentile(largest, 95.0, axis=-1)[..., None] * spread
    return point - reach, point + reach
