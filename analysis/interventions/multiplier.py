"""A multiplier as a curve: what the control would have to spend, over what the arm spent, for the same result.

Shapes: K costs of the arm, B draws. Above 1 the arm is cheaper. ``lawfit`` makes these from laws, ``curve`` from
measured ladders; pictures, tables and verdicts are the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.interventions.numbers import amount_text
from analysis.interventions.rows import bare
from analysis.notation import with_interval
from analysis.result import Interval

OBSERVED, AT_LEAST, AT_MOST = "", ">=", "<="
MIN_SPAN = 2.0
_AT_END = 1e-3


@dataclass(frozen=True)
class Multiplier:
    """Cost of the control over cost of the arm at equal result, each field (K,), costs ascending.

    cost: what the arm spent in total (or labels, steps ...). result: the loss or metric it reached there. low, high:
    95 % at each cost; band_low, band_high: 95 % for the whole curve at once; all NaN where there are too few runs.
    mark: "" where the control was tested at that result, ">=" where the control did not reach it in its whole range
    (the value is the end of that range), "<=" where the control was already that good at its smallest cost. open_low,
    open_high: the interval ends at the end of the control's tested range; band_open_low, band_open_high: the band does.
    at_edge: the best split of a budget lies on
    the border of the tested sizes or data. unit: of the cost, as "FLOPs"; axis: what is counted, for axes of pictures.
    sign: +1 where the band lies above 1, -1 where below, else 0; an end of the control's range proves nothing, nor do
    costs at the edge unless too few others are left. rungs:
    whether costs are rungs that were trained, not points along a law. basis: what the intervals stand on, as "5 seeds
    resampled together". caution: what checks of the law found, in sentences.
    """

    arm: str
    control: str
    metric: str
    unit: str
    axis: str
    basis: str
    cost: Array
    result: Array
    value: Array
    low: Array
    high: Array
    band_low: Array
    band_high: Array
    mark: tuple[str, ...]
    open_low: NDArray[np.bool_]
    open_high: NDArray[np.bool_]
    band_open_low: NDArray[np.bool_]
    band_open_high: NDArray[np.bool_]
    at_edge: NDArray[np.bool_]
    sign: NDArray[np.int_]
    rungs: bool
    caution: str = ""

    def observed(self) -> NDArray[np.bool_]:
        """(K,) costs at which both arms were tested at that result."""
        return np.array([mark == OBSERVED for mark in self.mark], dtype=bool)

    @property
    def has_interval(self) -> bool:
        """Whether the curve has a band."""
        return bool(np.isfinite(self.band_low).any())

    def at(self, index: int) -> Interval:
        """The multiplier at one cost with its pointwise interval; ``why`` says what is not known of it."""
        value, low, high = float(self.value[index]), float(self.low[index]), float(self.high[index])
        if self.mark[index]:
            end = "more than" if self.mark[index] == AT_LEAST else "no more than the least"
            why = f"{self.control} would need {end} it was tested with"
            return Interval(value, low, high, False, why)
        if not math.isfinite(low):
            return Interval(value, low, high, False, "too few seeds for an interval")
        ends = [word for word, hit in (("low", self.open_low[index]), ("high", self.open_high[index])) if hit]
        why = f"the {' and '.join(ends)} end lies outside the range tested for {self.control}" if ends else ""
        return Interval(value, low, high, not ends, why)

    def text(self, index: int) -> str:
        """2.1 [1.7, 2.6], ">= 3.2", or the bare number where there is no interval."""
        item = self.at(index)
        if self.mark[index]:
            return f"{self.mark[index]} {item.value:.2g}"
        return with_interval(item) if math.isfinite(item.low) else f"{item.value:.2g}"

    def headline(self) -> tuple[Interval | None, float]:
        """The multiplier at the largest cost at which it is observed, and that cost; (None, NaN) where none is."""
        seen = np.flatnonzero(self.observed())
        if not len(seen):
            return None, math.nan
        inner = np.flatnonzero(self.observed() & ~self.at_edge)
        at = int(inner[-1] if len(inner) else seen[-1])
        return self.at(at), float(self.cost[at])

    def strongest_bound(self) -> int | None:
        """Index of the bound that says most where nothing was observed: the largest ">=", or the smallest "<="."""
        for mark, pick in ((AT_LEAST, np.argmax), (AT_MOST, np.argmin)):
            at = np.flatnonzero([found == mark for found in self.mark])
            if len(at):
                return int(at[pick(self.value[at])])
        return None

    @property
    def outcome(self) -> str:
        """ "better", "worse", "mixed" (both, at different costs), "no effect" (the band holds 1), "no interval" (too
        few seeds), or "not comparable" (no cost at which both were tested at the same result and no bound settles it).

        A sign counts where the band, which covers the whole curve at once, excludes 1 over at least a factor of 2 in
        cost, or at a rung of a ladder.
        """
        if not self.has_interval:
            return "no interval"
        up, down = self._resolved(self.sign > 0), self._resolved(self.sign < 0)
        if up and down:
            return "mixed"
        if up or down:
            return "better" if up else "worse"
        return "no effect" if self.observed().any() else "not comparable"

    def _resolved(self, where: NDArray[np.bool_]) -> bool:
        """Whether True anywhere that counts: a rung of a ladder stands for itself, a curve needs a factor of 2."""
        held = self.cost[where]
        if not len(held):
            return False
        return self.rungs or bool(held[-1] >= MIN_SPAN * held[0])

    def span(self, where: NDArray[np.bool_]) -> str:
        """ "1.2e12 to 3.4e13 FLOPs" for the costs where the mask (K,) is True."""
        held = self.cost[where]
        if not len(held):
            return "nowhere"
        first, last = amount_text(float(held[0])), amount_text(float(held[-1]))
        return f"{first} {self.unit}" if first == last else f"{first} to {last} {self.unit}"

    def sentence(self) -> str:
        """The outcome in words, with where it was resolved and what the band still allows."""
        more, less, metric = self.sign > 0, self.sign < 0, bare(self.metric)
        cheaper, dearer = f"is cheaper than {self.control} at {self.span(more)}", f"costs more at {self.span(less)}"
        match self.outcome:
            case "better" | "mixed":
                also = f" and {dearer}" if less.any() else ""
                return f"{self.arm} {cheaper}{also}, for the same {metric}."
            case "worse":
                also = f" and {cheaper}" if more.any() else ""
                where = f"costs more than {self.control} at {self.span(less)}"
                return f"{self.arm} {where}{also}, for the same {metric}."
            case "no effect":
                return f"No effect in this range: at {self.span(self.observed())} the band {self._allowed()}."
            case "no interval":
                return "Too few seeds for an interval: there is a number and no verdict."
            case _:
                return f"Not comparable: {self.arm} and {self.control} were never tested at the same {metric}."

    def _allowed(self) -> str:
        """The widest ends of the band; one at the end of the control's tested range is open."""
        seen = np.flatnonzero(self.observed())
        low, high = int(seen[np.argmin(self.band_low[seen])]), int(seen[np.argmax(self.band_high[seen])])
        ends = ("<= " * bool(self.band_open_low[low]), ">= " * bool(self.band_open_high[high]))
        least, most = f"{ends[0]}{self.band_low[low]:.2g}", f"{ends[1]}{self.band_high[high]:.2g}"
        return f"of the multiplier does not exclude 1 (it allows {least} to {most})"


def bands(log_value: Array, reach: float | None = None, comparisons: int = 1) -> tuple[Array, Array, Array, Array]:
    """Pointwise and simultaneous 95 % ends (K,) from log draws (1 + B, K), the point first.

    The simultaneous band is the pointwise one, each side stretched about the point by one factor for the whole curve.
    reach: that factor; None takes a quantile over draws of the largest standardised deviation anywhere (95 %, or more
    for several ``comparisons``, Bonferroni), which is right when the draws know their own spread (a law of many runs)
    and far too small for a few seeds.
    """
    point, deviation = log_value[0], log_value[1:] - log_value[0]
    low, high = np.percentile(deviation, [2.5, 97.5], axis=0)
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if reach is None:
        side = np.where(deviation < 0, -low, high)
        size = np.abs(deviation) / np.maximum(side, 1e-9)
        reach = max(float(np.percentile(size.max(axis=1), 100.0 - 5.0 / comparisons)), 1.0)
    return point + low, point + high, point + reach * low, point + reach * high


def from_draws(
    log_value: Array, mark: Array, ends: tuple[Array, Array], at_edge: NDArray[np.bool_], cost: Array, result: Array,
    names: Mapping[str, str], rungs: bool,
    reach: float | None = None, comparisons: int = 1,
) -> Multiplier:  # fmt: skip
    """A curve from log multipliers (1 + B, K), the point first; B = 0 gives no intervals.

    ends: log multipliers (K,) at the two ends of the control's tested range, which no value or interval passes. reach,
    comparisons: see ``bands``.
    """
    first, last = ends
    held = np.clip(log_value, first, last)
    if len(held) > 1:
        low, high, band_low, band_high = (np.clip(b, first, last) for b in bands(held, reach, comparisons))
    else:
        low = high = band_low = band_high = np.full(len(cost), math.nan)
    up, down = (band_low > 0) & (band_low > first + _AT_END), (band_high < 0) & (band_high < last - _AT_END)
    counted = _interior(np.asarray(mark == OBSERVED), at_edge, cost)
    up, down = up & counted, down & counted
    return Multiplier(
        **names,
        cost=cost,
        result=result,
        value=np.exp(held[0]),
        low=np.exp(low),
        high=np.exp(high),
        band_low=np.exp(band_low),
        band_high=np.exp(band_high),
        mark=tuple(map(str, mark)),
        open_low=np.asarray(low <= first + _AT_END),
        open_high=np.asarray(high >= last - _AT_END),
        band_open_low=np.asarray(band_low <= first + _AT_END),
        band_open_high=np.asarray(band_high >= last - _AT_END),
        at_edge=np.asarray(at_edge, dtype=bool),
        sign=np.where(up, 1, np.where(down, -1, 0)),
        rungs=rungs,
    )


def _interior(observed: NDArray[np.bool_], at_edge: NDArray[np.bool_], cost: Array) -> NDArray[np.bool_]:
    """Which costs (K,) may carry a verdict: those off the edge, or all where these span less than a factor of 2."""
    inner = cost[observed & ~at_edge]
    enough = len(inner) > 1 and inner[-1] >= MIN_SPAN * inner[0]
    return ~at_edge if enough else np.ones_like(at_edge)
