"""Multipliers of interventions as pictures: what the control would have to spend, over what the arm spent.

Shapes: K costs. Intervals are 95 %; bounds are triangles, points that were trained are dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.plots.style import BAND_ALPHA, FAINT, INK, legend, log_axis, panel_grid, readable, sentence, styled

_DASHED = (0, (3, 1.5))


@dataclass(frozen=True)
class Worth:
    """A multiplier over costs (K,): value, pointwise and simultaneous ends (NaN without), bound (+1 at least, -1 at
    most, 0 seen), edge (K,), rungs: points that were trained."""

    arm: str
    cost: Array
    value: Array
    low: Array
    high: Array
    band_low: Array
    band_high: Array
    bound: Array
    edge: NDArray[np.bool_]
    rungs: bool


def worth_curves(
    worths: Sequence[Worth],
    colours: dict[str, str],
    x_label: str,
    control: str,
    narrow: bool = False,
    what: str = "cost",
) -> Figure:
    """Multiplier against cost on log axes, a panel an arm, the line at 1, both intervals; bounds as triangles.

    what: what is counted on both sides, for the label of the y axis.
    """
    shown = [worth for worth in worths if np.isfinite(worth.value).any()]
    if not shown:
        return sentence("At no cost do the arms reach the same result: there is no multiplier to draw.", narrow)
    with styled():
        figure, axes = panel_grid(len(shown), 3, narrow, 3.7, share=True)
        if not narrow and len(shown) == 1:
            figure.set_size_inches(8.6, 4.2)
        for panel, worth in zip(axes, shown, strict=True):
            panel.set(xscale="log", yscale="log")
            panel.set_title(worth.arm)
            _draw_worth(panel, worth, colours[worth.arm])
        _limit(axes, shown)
        for panel in axes:
            log_axis(panel.xaxis, "power" if _largest_cost(shown) > 1e9 else "words", most=4)
            log_axis(panel.yaxis, "plain", most=7)
            panel.text(0.03, 0.97, "cheaper than the control", va="top", **_corner(panel))
            panel.text(0.03, 0.03, "costs more", va="bottom", **_corner(panel))
        figure.supxlabel(x_label, fontsize=10.5, color=INK)
        for i, panel in enumerate(axes):
            if narrow or i % 3 == 0:
                panel.set_ylabel(f"{what} of {control} /\n{what} of the arm")
        _explain(figure, shown, narrow)
        return figure


def _corner(panel: Axes) -> dict[str, Any]:
    return {"transform": panel.transAxes, "fontsize": 9, "color": FAINT}


def _largest_cost(worths: Sequence[Worth]) -> float:
    return max(float(worth.cost[-1]) for worth in worths)


def _draw_worth(panel: Axes, worth: Worth, colour: str) -> None:
    panel.axhline(1.0, color=INK, lw=1.3)
    seen = worth.bound == 0
    for low, high, alpha in ((worth.band_low, worth.band_high, 0.13), (worth.low, worth.high, BAND_ALPHA + 0.1)):
        where = (seen & np.isfinite(low)).tolist()
        if sum(where) > 1:
            panel.fill_between(worth.cost, low, high, where=where, color=colour, alpha=alpha, lw=0)
        if worth.rungs:
            panel.vlines(worth.cost[where], low[where], high[where], color=colour, alpha=min(1.0, alpha * 3), lw=2)
    inner = seen & ~worth.edge
    panel.plot(worth.cost, np.where(seen, worth.value, np.nan), color=colour, lw=1.8, ls=_DASHED, zorder=3)
    panel.plot(worth.cost, np.where(inner, worth.value, np.nan), color=colour, lw=2.3, zorder=3)
    if worth.rungs:
        panel.plot(worth.cost[seen], worth.value[seen], "o", color=colour, ms=6, mec="white", mew=0.8, zorder=4)
    for sign, marker in ((1, "^"), (-1, "v")):
        at = np.flatnonzero(worth.bound == sign)
        at = at if worth.rungs else at[:: max(1, -(-len(at) // 3))]
        panel.plot(
            worth.cost[at], worth.value[at], marker, color="white", mec=readable(colour), ms=8, mew=1.6, zorder=4
        )


def _limit(axes: Sequence[Axes], worths: Sequence[Worth]) -> None:
    """The view holds every curve and its intervals, but no more than a factor of 4 beyond the curves."""
    curves = np.concatenate([w.value[np.isfinite(w.value)] for w in worths] + [np.ones(1)])
    ends = [e[np.isfinite(e) & (e > 0)] for w in worths for e in (w.band_low, w.band_high)]
    every = np.concatenate([*ends, curves])
    low, high = max(every.min(), curves.min() / 4), min(every.max(), curves.max() * 4)
    margin = max((high / low) ** 0.16, 1.06)
    axes[0].set_ylim(low / margin, high * margin)


def _explain(figure: Figure, worths: Sequence[Worth], narrow: bool) -> None:
    entries: list[dict[str, Any]] = [{"color": INK, "lw": 2.3, "label": "multiplier"}]
    if any(np.isfinite(w.low).any() for w in worths):
        entries.append({"color": INK, "lw": 8, "alpha": 0.35, "label": "95 % at each cost"})
        entries.append({"color": INK, "lw": 8, "alpha": 0.13, "label": "95 % for the whole curve"})
    if any((w.edge & (w.bound == 0)).any() for w in worths):
        entries.append({"color": INK, "lw": 1.8, "ls": _DASHED, "label": "at the edge of the tests"})
    for sign, marker, words in ((1, "^", "at least this much"), (-1, "v", "at most this much")):
        if any((w.bound == sign).any() for w in worths):
            entries.append(
                {"color": "white", "mec": INK, "mew": 1.6, "marker": marker, "ms": 8, "lw": 0, "label": words}
            )
    legend(figure, entries, 1 if narrow else 3)
