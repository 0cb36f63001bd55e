"""Profile curves: how much the objective rises when one parameter is held away from its best value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.plots.inputs import columns
from analysis.plots.style import ALARM, BAND_ALPHA, INK, legend, log_axis, panel_grid, sentence, styled
from analysis.result import Interval

_LINE = "#0072B2"
_HEADROOM = 2.2


@dataclass(frozen=True)
class Profile:
    """One parameter or derived quantity.

    value (k,): where it was held; rise (k,): the objective's increase over its minimum there, in units of the
    threshold's. interval: best value and both ends; an end that is not finite is open. ``interval.known`` False means
    that the data do not identify it, ``why`` in words. unit: as in "nats / token", empty for pure numbers.
    log: draw the value on a logarithmic axis.
    """

    name: str
    value: ArrayLike
    rise: ArrayLike
    interval: Interval
    unit: str = ""
    log: bool = False


def profile_curves(
    profiles: Sequence[Profile], threshold: float, rise_unit: str = "chi-square", narrow: bool = False
) -> Figure:
    """One panel per parameter: the curve, the 95 % threshold dashed, the interval shaded.

    An open end has an arrow and the words "not identified". threshold: rise at which a 95 % interval ends.
    Raises ``ValueError`` when the threshold is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; the rise at which the interval ends must be above 0")
    if not profiles:
        return sentence("No parameter was profiled: nothing to draw.", narrow)
    with styled():
        figure, axes = panel_grid(len(profiles), 3, narrow, 2.9)
        for panel, profile in zip(axes, profiles, strict=True):
            _draw_profile(panel, profile, threshold)
        per_row = 1 if narrow else min(3, len(profiles))
        for panel in axes[::per_row]:
            panel.set_ylabel(f"rise of the objective\n({rise_unit})")
        entries = [
            {"color": _LINE, "lw": 2, "label": "objective above its minimum"},
            {"color": INK, "lw": 1.2, "ls": (0, (4, 2)), "label": "95 % threshold"},
            {"color": _LINE, "lw": 8, "alpha": 0.25, "label": "95 % interval"},
        ]
        if any(_is_open(p.interval) for p in profiles):
            entries.append({"color": ALARM, "lw": 8, "alpha": 0.25, "label": "not identified"})
        legend(figure, entries, 1 if narrow else 4)
        return figure


def _draw_profile(panel: Axes, profile: Profile, threshold: float) -> None:
    positive = ("value",) if profile.log else ()
    part = columns(positive, value=profile.value, rise=profile.rise)
    order = np.argsort(part["value"])
    x, y = part["value"][order], part["rise"][order]
    panel.set_title(profile.name)
    panel.set_xlabel(f"{profile.name} ({profile.unit})" if profile.unit else f"{profile.name} (no unit)")
    panel.set_ylim(0, _HEADROOM * threshold)
    if len(x) < 2:
        panel.set_yticks([])
        panel.set_xticks([])
        panel.text(0.5, 0.5, "fewer than two finite points", transform=panel.transAxes, ha="center", color=INK)
        return
    x, y = _up_to(x, y, 1.15 * _HEADROOM * threshold)
    panel.plot(x, y, color=_LINE, lw=2, zorder=3)
    panel.axhline(threshold, color=INK, lw=1.2, ls=(0, (4, 2)))
    if profile.log:
        panel.set_xscale("log")
        log_axis(panel.xaxis, "plain" if x[0] > 1e-3 and x[-1] < 1e5 else "power", 5)
    panel.set_xlim(x[0], x[-1])
    _shade(panel, profile.interval, x, threshold)


def _up_to(x: Array, y: Array, most: float) -> tuple[Array, Array]:
    """The stretch around the minimum that fits into the panel, and one point more at either end."""
    low = np.flatnonzero(y <= most)
    first, last = max(low[0] - 1, 0), min(low[-1] + 2, len(x))
    return x[first:last], y[first:last]


def _is_open(interval: Interval) -> bool:
    return not interval.known or not np.isfinite([interval.low, interval.high]).all()


def _shade(panel: Axes, interval: Interval, x: Array, threshold: float) -> None:
    open_low, open_high = not np.isfinite(interval.low), not np.isfinite(interval.high)
    low, high = (x[0] if open_low else interval.low), (x[-1] if open_high else interval.high)
    colour = ALARM if _is_open(interval) else _LINE
    panel.axvspan(low, high, color=colour, alpha=BAND_ALPHA, lw=0, zorder=1)
    if np.isfinite(interval.value) and x[0] <= interval.value <= x[-1]:
        panel.plot([interval.value] * 2, [0, threshold], color=INK, lw=1.6, zorder=4)
    height = 0.62
    for is_open, at, inner in ((open_low, 0.0, 0.16), (open_high, 1.0, 0.84)):
        if is_open:
            arrow = {"arrowstyle": "-|>", "color": ALARM, "lw": 2.2, "shrinkA": 0, "shrinkB": 0}
            panel.annotate("", (at, height), (inner, height), xycoords="axes fraction", arrowprops=arrow)
    if _is_open(interval):
        where = {(True, True): "both ends open", (True, False): "lower end open", (False, True): "upper end open"}
        text = f"not identified\n{where.get((open_low, open_high), interval.why)}".strip()
        side = {(True, False): (0.03, "left"), (False, True): (0.97, "right")}.get(
            (open_low, open_high), (0.5, "center")
        )
        panel.text(side[0], 0.95, text, transform=panel.transAxes, ha=side[1], va="top", fontsize=9.5, color=ALARM)
