"""N*, D* and the loss at the optimum as power laws of compute, with intervals from resamples.

Shapes: B draws, K points on the frontier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from analysis.approaches.rows import Array
from analysis.result import Interval, plain

Lines = tuple[tuple[float, float], ...]
_WHAT = ("size", "tokens", "loss")


@dataclass(frozen=True)
class Optimum:
    """N*, D* and loss at one budget. beyond: factor by which the budget leaves the fitted compute, 1 inside it."""

    compute: float
    size: Interval
    tokens: Interval
    loss: Interval
    beyond: float


@dataclass(frozen=True)
class PowerLaws:
    """Straight lines of ln N*, ln D* and ln L* over ln C.

    lines: level at ln C = ``center`` and slope, for size, tokens, loss. draws (B, 3, 2) of resamples or None.
    widening: factor by which deviations of a draw from the point are stretched; scatter: the part of it due to points
    lying further from the line of ln N* than their errors allow (1: they do not). method: how the intervals came about.
    why: the reason when there are none. Intervals are then NaN with ``known`` False.
    """

    center: float
    compute_range: tuple[float, float]
    num_points: int
    lines: Lines
    widening: float
    method: str
    why: str = ""
    scatter: float = 1.0
    draws: Array | None = field(default=None, repr=False, compare=False)

    @property
    def a(self) -> Interval:
        """Exponent of N* ~ C^a."""
        return self._exponent(0)

    @property
    def b(self) -> Interval:
        """Exponent of D* ~ C^b."""
        return self._exponent(1)

    @property
    def c(self) -> Interval:
        """Exponent of L* ~ C^c (negative: the loss falls)."""
        return self._exponent(2)

    def _exponent(self, row: int) -> Interval:
        draws = None if self.draws is None else self.draws[:, row, 1]
        return stretched(self.lines[row][1], draws, self.widening, self.why)

    def coefficient(self, what: str) -> Interval:
        """The factor G of e.g. N* = G C^a, in natural units. ``what`` is size, tokens or loss."""
        return self._value(_WHAT.index(what), -self.center)

    def at(self, compute: float) -> Optimum:
        """N*, D* and loss (nats) at ``compute`` FLOPs along the lines; intervals grow with the distance.

        The line of the loss has no floor: far beyond the fitted compute it falls below any entropy.
        """
        low, high = self.compute_range
        size, tokens, loss = (self._value(row, math.log(compute) - self.center) for row in range(3))
        return Optimum(compute, size, tokens, loss, max(low / compute, compute / high, 1.0))

    def _value(self, row: int, away: float) -> Interval:
        point = self.lines[row][0] + away * self.lines[row][1]
        draws = None if self.draws is None else self.draws[:, row, 0] + away * self.draws[:, row, 1]
        return exponential(stretched(point, draws, self.widening, self.why))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: exponents, coefficients, range and method; the draws stay behind."""
        exponents = {name: vars(getattr(self, name)) for name in ("a", "b", "c")}
        coefficients = {name: vars(self.coefficient(name)) for name in _WHAT}
        kept = {k: v for k, v in vars(self).items() if k != "draws"}
        return plain(kept | exponents | {"coefficients": coefficients})


def as_lines(lines: Array) -> Lines:
    """(3, 2) as plain numbers."""
    return tuple((float(level), float(slope)) for level, slope in lines)


def exponential(inner: Interval) -> Interval:
    """The interval of exp(x) from that of x."""
    return Interval(math.exp(inner.value), math.exp(inner.low), math.exp(inner.high), inner.known, inner.why)


def stretched(point: float, draws: Array | None, widening: float, why: str = "") -> Interval:
    """95 % percentile interval of draws (B,) after stretching them about ``point``; NaN ends without draws."""
    if draws is None or why:
        return Interval(point, math.nan, math.nan, False, why or "no resamples were drawn")
    low, high = np.percentile(point + widening * (draws - point), [2.5, 97.5])
    return Interval(point, float(min(low, point)), float(max(high, point)))


def few_points_widening(num_points: int) -> float:
    """t(K - 2) / 1.96: the stretch for a line through K points; infinite for K <= 2."""
    if num_points <= 2:
        return math.inf
    return float(stats.t.ppf(0.975, num_points - 2) / stats.norm.ppf(0.975))


def excess_scatter(log_compute: Array, values: Array, errors: Array, line: Array, center: float) -> float:
    """How many times more the points (K,) scatter about their line than their standard errors (K,) allow, at least 1.

    The root of chi^2 / (K - 2), and 1 where chi^2 stays below its 95 % quantile or K <= 2.
    """
    freedom = len(values) - 2
    chi2 = float(np.sum(((values - line[0] - line[1] * (log_compute - center)) / errors) ** 2))
    if freedom < 1 or chi2 <= stats.chi2.ppf(0.95, freedom):
        return 1.0
    return math.sqrt(chi2 / freedom)


def lines_through(log_compute: Array, values: Array, weights: Array, center: float) -> Array:
    """Weighted least-squares lines: level at ``center`` and slope, (..., 2), all leading axes solved at once.

    log_compute, values and weights (..., K) broadcast against each other; a weight of 0 leaves a point out, whatever
    its value. Fewer than two distinct points with weight give NaN.
    """
    used = np.where(weights > 0, values, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x = (weights * log_compute).sum(axis=-1, keepdims=True) / total
        mean_y = (weights * used).sum(axis=-1, keepdims=True) / total
        away = log_compute - mean_x
        spread = (weights * away**2).sum(axis=-1)
        slope = (weights * away * (used - mean_y)).sum(axis=-1) / np.where(
            spread > 1e-12 * total[..., 0], spread, np.nan
        )
    return np.stack([mean_y[..., 0] + slope * (center - mean_x[..., 0]), slope], axis=-1)
