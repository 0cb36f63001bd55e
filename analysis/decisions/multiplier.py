"""How much compute one group needs to reach the loss of another: the price of a recipe as a curve over compute.

Shapes: B draws, K budgets of the first group, M budgets of the second. Row 0 of a (1 + B, ...) curve is the point fit.

Only tested compute counts. Where the second group does not reach the loss anywhere in its tested range, the multiplier
is known to be more than the end of that range allows, and the curve says so instead of extrapolating.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.allocate import fit_frontier, frontier_curves
from analysis.engine.jet import Array
from analysis.result import FitResult, Interval

_BUDGETS = 42
_AT_END = 1e-3
OBSERVED, AT_LEAST, AT_MOST = "", ">=", "<="


@dataclass(frozen=True)
class MultiplierCurve:
    """Compute of the second group per compute of the first at equal loss, each field (K,).

    compute: FLOPs of the first group. low, high: 95 % at each budget; band_low, band_high: 95 % for the whole curve at
    once. mark: "" where both reach that loss in their tested range, ">=" where the second group needs more than was
    tested (the value is the end of its range), "<=" where it needs less. open_low, open_high: the interval ends at the
    end of the tested range. at_edge: an optimum sits on the border of the tested sizes or tokens, so that missing runs
    and not the recipe may cost the compute.
    """

    compute: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    band_low: tuple[float, ...]
    band_high: tuple[float, ...]
    mark: tuple[str, ...]
    open_low: tuple[bool, ...]
    open_high: tuple[bool, ...]
    at_edge: tuple[bool, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MultiplierCurve:
        """Read back from JSON."""
        return cls(**{name: tuple(items) for name, items in values.items()})

    def rows(self) -> list[dict[str, Any]]:
        """One dict a budget, for a table or a data frame."""
        fields = asdict(self)
        return [{name: values[k] for name, values in fields.items()} for k in range(len(self.compute))]

    def observed(self) -> NDArray[np.bool_]:
        """(K,) budgets at which both groups were seen at that loss, away from the edges of the tests."""
        return np.array([not mark and not edge for mark, edge in zip(self.mark, self.at_edge, strict=True)], dtype=bool)


def multiplier_curve(
    left: FitResult, right: FitResult, compute: Array, given: Mapping[str, float] | None = None
) -> MultiplierCurve | None:
    """The curve at budgets (K,) of ``left``; None when ``right`` has no tested frontier. Both need bootstrap draws.

    Draws that would need more (less) than the compute tested for ``right`` are held at the end of its tested range.
    given: values of further columns of the laws.
    """
    grid = np.geomspace(*right.compute_range, _BUDGETS)
    theirs, ours = frontier_curves(right, grid, given), frontier_curves(left, compute, given)
    usable = np.isfinite(theirs[0])
    if usable.sum() < 2:
        return None
    grid, theirs = grid[usable], np.minimum.accumulate(theirs[:, usable], axis=1)
    their_edge, our_edge = at_edge(right, grid, given), at_edge(left, compute, given)
    count = min(len(theirs), len(ours))
    needed = np.stack([np.interp(-o, -t, np.log(grid)) for o, t in zip(ours[:count], theirs[:count], strict=True)])
    log_ratio = needed - np.log(compute)
    log_ratio = log_ratio[np.isfinite(log_ratio).all(axis=1)]
    nearest = np.abs(needed[0][:, None] - np.log(grid)[None, :]).argmin(axis=1)
    low, high, band_low, band_high = _bands(log_ratio)
    first, last = np.log(grid[0] / compute), np.log(grid[-1] / compute)
    mark = np.where(ours[0] < theirs[0][-1], AT_LEAST, np.where(ours[0] > theirs[0][0], AT_MOST, OBSERVED))
    band_low, band_high = np.maximum(band_low, np.minimum(first, low)), np.minimum(band_high, np.maximum(last, high))
    return MultiplierCurve(
        compute=_floats(compute),
        value=_floats(np.exp(log_ratio[0])),
        low=_floats(np.exp(low)),
        high=_floats(np.exp(high)),
        band_low=_floats(np.exp(band_low)),
        band_high=_floats(np.exp(band_high)),
        mark=tuple(map(str, mark)),
        open_low=tuple(map(bool, low <= first + _AT_END)),
        open_high=tuple(map(bool, high >= last - _AT_END)),
        at_edge=tuple(map(bool, our_edge | their_edge[nearest])),
    )


def _bands(log_ratio: Array) -> tuple[Array, Array, Array, Array]:
    """Pointwise and simultaneous 95 % ends (K,) of the draws (1 + B, K) about the point.

    The simultaneous band is the pointwise one, each side stretched about the point by the same factor, which is the
    95 % quantile over draws of the largest standardised deviation anywhere on the curve.
    """
    point, deviation = log_ratio[0], log_ratio[1:] - log_ratio[0]
    low, high = np.percentile(deviation, [2.5, 97.5], axis=0)
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    side = np.where(deviation < 0, -low, high)
    size = np.abs(deviation) / np.maximum(side, 1e-9)
    reach = max(float(np.percentile(size.max(axis=1), 95.0)), 1.0)
    return point + low, point + high, point + reach * low, point + reach * high


def largest_observed(curve: MultiplierCurve | None, group: str) -> tuple[Interval | None, float | None]:
    """The multiplier with its interval at the largest budget where it is observed, and that budget; None where none is.

    group: name of the second group, for the sentence on ends that lie outside its tests.
    """
    if curve is None or not curve.observed().any():
        return None, None
    at = int(np.nonzero(curve.observed())[0][-1])
    ends = (("low", curve.open_low[at]), ("high", curve.open_high[at]))
    censored = [word for word, hit in ends if hit]
    why = f"the {' and '.join(censored)} end lies outside the compute tested for {group}" if censored else ""
    return Interval(curve.value[at], curve.low[at], curve.high[at], not censored, why), curve.compute[at]


def at_edge(fit: FitResult, compute: Array, given: Mapping[str, float] | None) -> NDArray[np.bool_]:
    """Where the optimum of the point fit sits on an edge of the tests (K,)."""
    return fit_frontier(replace(fit, draws=None), compute, given).at_edge[0]


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(map(float, values))
