"""Compute multipliers: how many times the compute one group needs for the loss the other reaches, over compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.plots.inputs import as_arrays
from analysis.plots.style import (
    BAND_ALPHA,
    FAINT,
    HELD_OUT,
    INK,
    label_y,
    legend,
    log_axis,
    panel_grid,
    sentence,
    styled,
)
from analysis.report.marks import group_colour
from analysis.result import Interval

_DASHED = (0, (3, 1.5))


@dataclass(frozen=True)
class Multiplier:
    """One pair over compute (k,) in FLOPs of ``left``: the compute ``right`` needs over it at equal loss.

    low, high: 95 % interval at each compute; band_low, band_high: band that covers the whole curve at once.
    bound (k,): 1 where ``right`` needs more than was tested for it, so that the value is only a lower bound; -1 where
    it needs less, an upper bound; 0 where both were seen at that loss. edge (k,): True where an optimum sits on the
    border of the tests, so that missing runs and not the recipe may cost the compute.
    crossover: compute at which the two are equal, ends not finite where open; None where they do not cross.
    Raises ``ValueError`` when an array has not the length of ``compute``.
    """

    left: str
    right: str
    compute: Array
    value: Array
    low: Array
    high: Array
    band_low: Array | None = None
    band_high: Array | None = None
    bound: Array | None = None
    edge: Array | None = None
    crossover: Interval | None = None

    def __post_init__(self) -> None:
        names = ("compute", "value", "low", "high", "band_low", "band_high", "bound", "edge")
        as_arrays(self, *names)
        for name in names:
            values = getattr(self, name)
            if values is not None and (values.shape != self.compute.shape or values.ndim != 1):
                where = f"of {self.right} against {self.left}"
                raise ValueError(f"{name} {where} has shape {values.shape}, compute {self.compute.shape}")


def multiplier_curves(pairs: Sequence[Multiplier], groups: Sequence[str] = (), narrow: bool = False) -> Figure:
    """One panel per pair on log axes with the line at 1, both intervals, censored stretches hatched, and the crossover.

    groups: all groups of the study in order, so that colours agree with the other pictures.
    """
    if not any(np.isfinite(pair.value).any() for pair in pairs):
        return sentence("At no compute do both groups reach the same loss: there is no multiplier to draw.", narrow)
    order = list(groups) or list(dict.fromkeys(name for p in pairs for name in (p.left, p.right)))
    with styled():
        figure, axes = panel_grid(len(pairs), 3, narrow, 3.9, share=True)
        for panel, pair in zip(axes, pairs, strict=True):
            panel.set(xscale="log", yscale="log", xlabel=f"compute of {pair.left} (FLOPs)")
            panel.set_title(f"{pair.right} against {pair.left}")
            _draw_pair(panel, pair, group_colour(pair.right, order))
        _limit(axes, pairs)
        for panel, pair in zip(axes, pairs, strict=True):
            _draw_crossover(panel, pair.crossover)
            log_axis(panel.xaxis, most=5)
            log_axis(panel.yaxis, "plain")
            where: dict[str, Any] = {"transform": panel.transAxes, "fontsize": 9, "color": INK}
            panel.text(0.02, 0.98, f"{pair.right} needs more compute", va="top", **where)
            panel.text(0.02, 0.02, f"{pair.right} needs less compute", va="bottom", **where)
        label_y(axes, narrow, "compute for equal loss (factor)")
        _explain(figure, pairs, narrow)
        return figure


def _draw_pair(panel: Axes, pair: Multiplier, colour: str) -> None:
    panel.axhline(1.0, color=INK, lw=1.3)
    if pair.band_low is not None and pair.band_high is not None:
        panel.fill_between(pair.compute, pair.band_low, pair.band_high, color=colour, alpha=0.13, lw=0)
        for end in (pair.band_low, pair.band_high):
            panel.plot(pair.compute, end, color=colour, lw=0.9, ls=(0, (1, 1.5)))
    panel.fill_between(pair.compute, pair.low, pair.high, color=colour, alpha=BAND_ALPHA + 0.1, lw=0)
    bound, edge = (np.zeros(len(pair.compute)) if b is None else b for b in (pair.bound, pair.edge))
    seen = (bound == 0) & (edge == 0)
    panel.plot(pair.compute, pair.value, color=colour, lw=2.2, ls=_DASHED, zorder=3)
    panel.plot(pair.compute, np.where(seen, pair.value, np.nan), color=colour, lw=2.2, zorder=3)
    for low, high in _stretches(pair.compute, bound != 0):
        panel.axvspan(low, high, facecolor="none", edgecolor=FAINT, hatch="////", alpha=0.45, lw=0, zorder=0)
    for sign, marker in ((1, "^"), (-1, "v")):
        at = np.flatnonzero(bound == sign)
        at = at[:: max(1, math.ceil(len(at) / 3))]
        panel.plot(pair.compute[at], pair.value[at], marker, color=colour, ms=7, mec="white", mew=0.6, zorder=4)


def _stretches(x: Array, mask: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Runs of True as (first, last) of x, ends half way (in logs) to the neighbours."""
    if not len(x):
        return []
    between = np.sqrt(x[1:] * x[:-1])
    edges = np.concatenate([[x[0]], between, [x[-1]]])
    change = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(float(edges[a]), float(edges[b])) for a, b in zip(change[::2], change[1::2], strict=True)]


def _limit(axes: Sequence[Axes], pairs: Sequence[Multiplier]) -> None:
    """The view holds every curve and its pointwise interval, but no more than a factor of 8 beyond the curve."""
    curves = np.concatenate([p.value[np.isfinite(p.value)] for p in pairs] + [np.ones(1)])
    ends = np.concatenate([e[np.isfinite(e) & (e > 0)] for p in pairs for e in _ends(p)] + [np.ones(1)])
    low = max(float(ends.min()), float(curves.min()) / 8)
    high = min(float(ends.max()), float(curves.max()) * 8)
    margin = max((high / low) ** 0.22, 1.05)
    axes[0].set_ylim(low / margin, high * margin)


def _ends(pair: Multiplier) -> list[Array]:
    return [end for end in (pair.low, pair.high, pair.band_low, pair.band_high) if end is not None]


def _draw_crossover(panel: Axes, crossover: Interval | None) -> None:
    """A diamond on the line at 1 with its interval; an open end is an arrow to the edge of the panel."""
    if crossover is None or not np.isfinite(crossover.value):
        return
    edges = panel.get_xlim()
    ends = [e if np.isfinite(e) else edge for e, edge in zip((crossover.low, crossover.high), edges, strict=True)]
    panel.plot(np.clip(ends, *edges), [1, 1], color=HELD_OUT, lw=4, alpha=0.55, zorder=4, solid_capstyle="butt")
    for end, at in zip((crossover.low, crossover.high), edges, strict=True):
        if not np.isfinite(end) or not edges[0] <= end <= edges[1]:
            arrow = {"arrowstyle": "-|>", "color": HELD_OUT, "lw": 2, "shrinkA": 0, "shrinkB": 0}
            panel.annotate("", (at, 1), (np.sqrt(at * crossover.value), 1), arrowprops=arrow, zorder=4)
    panel.plot([crossover.value], [1], "D", color=HELD_OUT, mfc="white", ms=8, mew=1.8, zorder=5)
    panel.set_xlim(edges)


def _explain(figure: Figure, pairs: Sequence[Multiplier], narrow: bool) -> None:
    entries: list[dict[str, Any]] = [
        {"color": INK, "lw": 2.2, "label": "multiplier"},
        {"color": INK, "lw": 8, "alpha": 0.35, "label": "95 % at each compute"},
    ]
    if any(p.band_low is not None for p in pairs):
        entries.append({"color": INK, "lw": 8, "alpha": 0.13, "label": "95 % for the whole curve"})
    if any(p.edge is not None and np.any(p.edge > 0) for p in pairs):
        entries.append({"color": INK, "lw": 2.2, "ls": _DASHED, "label": "optimum at the edge of the tests"})
    if any(p.bound is not None and np.any(p.bound != 0) for p in pairs):
        bound = {"color": INK, "lw": 2.2, "ls": _DASHED, "marker": "^", "ms": 7}
        entries.append(bound | {"label": "censored (hatched): only a bound"})
    if any(p.crossover is not None for p in pairs):
        entries.append(
            {"color": HELD_OUT, "marker": "D", "mfc": "white", "mew": 1.8, "lw": 3, "label": "crossover, 95 %"}
        )
    legend(figure, entries, 1 if narrow else 3)
