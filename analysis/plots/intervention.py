"""Pictures of interventions: metric against cost, paired differences, means of arms. Multipliers are in ``worth``.

Shapes: K costs, S seeds. Every seed is drawn; intervals are 95 %.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.engine.jet import Array
from analysis.plots.style import (
    BAND_ALPHA,
    FAINT,
    INK,
    label_ends,
    legend,
    log_axis,
    panels,
    sentence,
    styled,
)

# Okabe and Ito's colours, the control always dark grey, so that it reads as the reference on every page.
CONTROL = "#4d4d4d"
_COLOURS = ("#0072B2", "#D55E00", "#007D5C", "#CC79A7", "#B8860B", "#56B4E9", "#7B3294", "#A6611A")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")
_DASHED = (0, (3, 1.5))
_MOST_DIRECT = 8
_DPI = 150


@dataclass(frozen=True)
class Line:
    """One arm over costs (K,), ascending: mean with interval ends (NaN for one seed) and its seeds (K, S)."""

    arm: str
    cost: Array
    mean: Array
    low: Array
    high: Array
    values: Array


@dataclass(frozen=True)
class Gap:
    """A row of a forest: label, difference, its interval, the wider interval of the whole family, the seeds (S,).

    outcome: better, worse, unresolved or one seed; it chooses the colour. n: seeds.
    """

    label: str
    value: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    seeds: Array
    outcome: str
    n: int


@dataclass(frozen=True)
class Bar:
    """An arm's mean with its interval (NaN for one seed) and its seeds (S,). group: bars of one stand together."""

    arm: str
    value: float
    low: float
    high: float
    seeds: Array
    group: str = ""


def arm_colours(arms: Sequence[str], control: str, shown: Sequence[str] = ()) -> dict[str, str]:
    """A colour per arm: grey for the control, the next one for every other, in their order.

    shown: the arms of this picture (default: all). They keep their colour of the study unless one before them in the
    picture has it already: then they get the next that is free, while there is one.
    """
    others = [arm for arm in arms if arm != control]
    own = {arm: _COLOURS[i % len(_COLOURS)] for i, arm in enumerate(others)}
    found: dict[str, str] = {}
    for arm in (arm for arm in (shown or others) if arm != control):
        free = [colour for colour in (own[arm], *_COLOURS) if colour not in found.values()]
        found[arm] = free[0] if free else own[arm]
    return {control: CONTROL} | found


def arm_markers(arms: Sequence[str]) -> dict[str, str]:
    """A marker per arm, in their order."""
    return {arm: _MARKERS[i % len(_MARKERS)] for i, arm in enumerate(arms)}


def metric_curves(
    lines: Sequence[Line], colours: dict[str, str], x_label: str, y_label: str, narrow: bool = False,
    log_y: bool = False, y_span: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Metric against cost on a log axis: means joined, bands over seeds, seeds as dashes, arms named at the ends.

    y_span: what the y axis shows at least.
    """
    if not any(np.isfinite(line.mean).any() for line in lines):
        return sentence("No arm has a number for this metric: there is no curve to draw.", narrow)
    markers = arm_markers([line.arm for line in lines])
    with styled():
        figure, (panel,) = panels(1, narrow, 4.4)
        if not narrow:
            figure.set_size_inches(8.6, 4.8)
        panel.set(xscale="log", xlabel=wrapped(x_label, narrow), ylabel=wrapped(y_label, narrow))
        for line in lines:
            _draw_line(panel, line, colours[line.arm], markers[line.arm])
        if log_y and all(np.nanmin(line.values) > 0 for line in lines):
            panel.set_yscale("log")
            log_axis(panel.yaxis, "plain")
        panel.margins(x=0.04)
        _limit(panel, lines)
        if y_span is not None:
            low, high = panel.get_ylim()
            panel.set_ylim(min(low, y_span[0]), max(high, y_span[1]))
        log_axis(panel.xaxis, "power" if _largest(lines) > 1e9 else "words", most=4 if narrow else 6)
        direct = not narrow and len(lines) <= _MOST_DIRECT
        if direct:
            label_ends(panel, [(line.cost[-1], line.mean[-1], line.arm, colours[line.arm]) for line in lines])
        else:
            entries = [
                {"color": colours[x.arm], "marker": markers[x.arm], "ms": 5, "lw": 2, "label": x.arm} for x in lines
            ]
            legend(figure, entries, 2 if narrow else 4)
        return figure


def wrapped(label: str, narrow: bool) -> str:
    """A label of an axis on as many lines as it needs."""
    return "\n".join(textwrap.wrap(label, 42 if narrow else 60))


def _limit(panel: Axes, lines: Sequence[Line]) -> None:
    """The view holds all seeds, and of the bands no more than as much again on either side: with two seeds a band may
    be many times as wide as everything that was measured."""
    points = np.concatenate([np.concatenate([line.values.ravel(), line.mean]) for line in lines])
    points = points[np.isfinite(points)]
    span = float(np.ptp(points))
    if span > 0:
        low, high = panel.get_ylim()
        low, high = max(low, float(points.min()) - span), min(high, float(points.max()) + span)
        if panel.get_yscale() == "linear":
            panel.set_ylim(low, high)


def _largest(lines: Sequence[Line]) -> float:
    return max(float(line.cost[-1]) for line in lines)


def _draw_line(panel: Axes, line: Line, colour: str, marker: str) -> None:
    known = np.isfinite(line.low)
    if known.sum() > 1:
        panel.fill_between(line.cost, line.low, line.high, where=known.tolist(), color=colour, alpha=BAND_ALPHA, lw=0)
    if known.sum() == 1:
        at = np.flatnonzero(known)
        panel.vlines(line.cost[at], line.low[at], line.high[at], color=colour, lw=1.4)
    spread = np.repeat(line.cost[:, None], line.values.shape[1], axis=1)
    panel.plot(spread.ravel(), line.values.ravel(), "_", color=colour, ms=10, mew=1.2, alpha=0.75, ls="none")
    panel.plot(line.cost, line.mean, marker=marker, color=colour, lw=2.1, ms=5.5, mec="white", mew=0.7, zorder=3)


def paired_forest(gaps: Sequence[Gap], x_label: str, better: str, narrow: bool = False) -> Figure:
    """Differences from the control, one row an arm: thick 95 %, thin the family's, seeds as ticks, a line at zero.

    better: "lower" or "higher", for the words at the two sides.
    """
    colours = {"better": "#007D5C", "worse": "#C0392B"}
    with styled():
        figure, (panel,) = panels(1, narrow, 1.25 + 0.46 * len(gaps))
        if not narrow:
            figure.set_size_inches(8.6, 1.35 + 0.46 * len(gaps))
            panel.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        panel.axvline(0.0, color=INK, lw=1.3, zorder=1)
        for y, gap in enumerate(gaps):
            colour = colours.get(gap.outcome, "#5b6770")
            panel.plot([gap.wide_low, gap.wide_high], [y, y], color=colour, lw=1.2, zorder=2)
            panel.plot([gap.low, gap.high], [y, y], color=colour, lw=4.2, solid_capstyle="butt", alpha=0.65, zorder=2)
            panel.plot(gap.seeds, np.full(len(gap.seeds), y + 0.26), "|", color=colour, ms=6, mew=1.2, alpha=0.8)
            panel.plot([gap.value], [y], "o", color=colour, ms=7, mec="white", mew=0.8, zorder=3)
        panel.set_ylim(len(gaps) - 0.35, -0.75)
        panel.set_yticks(range(len(gaps)), [_wrapped(gap.label, 18 if narrow else 34) for gap in gaps])
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(wrapped(x_label, narrow))
        sides = ("better", "worse") if better == "lower" else ("worse", "better")
        for x, side, word in ((0.0, "left", f"← {sides[0]}"), (1.0, "right", f"{sides[1]} →")):
            panel.text(x, 1.0, word, ha=side, va="bottom", transform=panel.transAxes, fontsize=9.5, color=FAINT)
        return figure


def _wrapped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head, _, tail = text[: width + 1].rpartition(" ")
    return f"{head}\n{text[len(head) + 1 :]}" if head else f"{text[:width]}\n{text[width:]}"


def mean_bars(
    bars: Sequence[Bar], colours: dict[str, str], y_label: str, control: str = "", narrow: bool = False
) -> Figure:
    """Mean of every arm as a dot with its interval, seeds beside it; the control's mean runs through as a line.

    Bars with a group stand side by side within it. Dots instead of filled bars: the axis need not start at zero.
    """
    groups = list(dict.fromkeys(bar.group for bar in bars))
    arms = list(dict.fromkeys(bar.arm for bar in bars))
    single = len(groups) == 1
    markers = dict.fromkeys(arms, "o") if single else arm_markers(arms)
    if single and len(arms) > _MOST_DIRECT:
        colours = {arm: CONTROL if arm == control else _COLOURS[0] for arm in arms}
    with styled():
        figure, (panel,) = panels(1, narrow, 1.25 + 0.42 * (len(bars) if single else len(groups) * (len(arms) + 1) / 2))
        if not narrow:
            figure.set_size_inches(8.6, figure.get_size_inches()[1] + 0.1)
            panel.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        for bar in bars:
            y = arms.index(bar.arm) if single else _place(groups.index(bar.group), arms.index(bar.arm), len(arms))
            _draw_bar(panel, bar, y, colours[bar.arm], markers[bar.arm])
        if single:
            for bar in bars:
                if bar.arm == control:
                    panel.axvline(bar.value, color=CONTROL, lw=1.1, ls=_DASHED, zorder=1)
            panel.set_yticks(range(len(arms)), [_wrapped(arm, 18 if narrow else 34) for arm in arms])
            panel.set_ylim(len(arms) - 0.4, -0.6)
        else:
            panel.set_yticks(range(len(groups)), [_wrapped(group, 18 if narrow else 34) for group in groups])
            panel.set_ylim(len(groups) - 0.45, -0.55)
            entries = [{"color": colours[a], "marker": markers[a], "ms": 6, "lw": 1.6, "label": a} for a in arms]
            legend(figure, entries, 2 if narrow else 4)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(wrapped(y_label, narrow))
        return figure


def _place(group: int, arm: int, arms: int) -> float:
    return group + (arm - (arms - 1) / 2) * 0.8 / max(arms, 1)


def _draw_bar(panel: Axes, bar: Bar, y: float, colour: str, marker: str) -> None:
    panel.plot([bar.low, bar.high], [y, y], color=colour, lw=3.2, alpha=0.6, solid_capstyle="butt", zorder=2)
    panel.plot(bar.seeds, np.full(len(bar.seeds), y), "|", color=colour, ms=9, mew=1.1, alpha=0.75, zorder=2)
    panel.plot([bar.value], [y], marker, color=colour, ms=7, mec="white", mew=0.8, zorder=3)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG of about 1300 pixels, the same bytes for the same figure."""
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()
