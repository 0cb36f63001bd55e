"""Pictures that all method pages share: curves over cost, paired differences, means, multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis import plots
from analysis.engine.jet import Array
from analysis.interventions import curve
from analysis.interventions.blocks import Figure
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, Multiplier
from analysis.interventions.paired import Paired, by_seed, mean
from analysis.interventions.rows import Data, Metric, bare
from analysis.plots import intervention as pictures
from analysis.plots import worth as worth_pictures
from analysis.report.marks import short

Where = Mapping[str, Any] | None
_BOUND = {AT_LEAST: 1.0, AT_MOST: -1.0}


def curves_figure(
    data: Data, name: str, metric: str = "", axis: str = "total", arms: Sequence[str] | None = None, title: str = "",
    caption: str = "", where: Where = None, rung: str = "", axis_label: str = "", log_y: bool = False,
) -> Figure:  # fmt: skip
    """Metric against cost, one line an arm with its band over seeds and the seeds as points."""
    chosen = data.metric(metric)
    names = list(arms or data.arms)
    ladders = [curve.ladder(data, arm, metric, axis, rung, where, axis_label) for arm in names]
    lines = [
        pictures.Line(x.arm, x.cost, x.mean, _inside(chosen, x.low), _inside(chosen, x.high), x.values) for x in ladders
    ]
    colours = pictures.arm_colours(data.arms, data.control, names)
    label = ladders[0].axis if ladders else axis

    def draw(narrow: bool) -> plots.Figure:
        return pictures.metric_curves(lines, colours, label, chosen.label, narrow, log_y)

    words = caption or f"Mean over seeds with its 95 % t interval; dashes are seeds; {chosen.better} is better."
    return Figure(name, title or f"{_capital(chosen.bare)} against {bare(label)}", words, draw)


def forest_figure(name: str, gaps: Sequence[Paired], title: str = "", caption: str = "") -> Figure:
    """Paired differences with intervals around a line at zero. All of one metric and one control."""
    rows = [
        pictures.Gap(
            gap.arm, gap.difference.value, gap.difference.low, gap.difference.high, gap.corrected.low,
            gap.corrected.high, np.array([value for _, value in gap.per_seed]), gap.outcome, gap.difference.n,
        )
        for gap in gaps
    ]  # fmt: skip
    if len({(gap.metric, gap.control) for gap in gaps}) != 1:
        raise ValueError("a forest needs differences of one metric from one control")
    label = f"{gaps[0].metric.label}: arm minus {gaps[0].control}"

    def draw(narrow: bool) -> plots.Figure:
        return pictures.paired_forest(rows, label, gaps[0].metric.better, narrow)

    words = caption or (
        f"Paired by seed. Thick: 95 % of one difference; thin: 95 % for all {gaps[0].comparisons} together, which "
        "decides the colour (green better, red worse, grey not resolved). Ticks are seeds."
    )
    return Figure(name, title or f"Differences from {gaps[0].control}", words, draw)


def bars_figure(
    data: Data, name: str, metric: str = "", arms: Sequence[str] | None = None, title: str = "", caption: str = "",
    where: Where = None, group: str = "",
) -> Figure:  # fmt: skip
    """Mean of every arm with its interval and the seeds as ticks. group: column whose values stand side by side."""
    chosen, names = data.metric(metric), list(arms or data.arms)
    used = data.where(None, **dict(where or {}))
    bars = []
    for level in used.levels(group) if group else [None]:
        part = used.where(None, **({group: level} if group else {}))
        for arm in names:
            values = list(by_seed(part, arm, metric).values())
            if values:
                item = mean(values)
                text = f"{group} {short(level)}" if isinstance(level, (int, float)) else str(level or "")
                ends = float(_inside(chosen, item.low)), float(_inside(chosen, item.high))
                bars.append(pictures.Bar(arm, item.value, *ends, np.array(values), text))
    colours = pictures.arm_colours(data.arms, data.control, names)

    def draw(narrow: bool) -> plots.Figure:
        return pictures.mean_bars(bars, colours, chosen.label, data.control, narrow)

    words = caption or f"Mean and 95 % t interval over seeds (ticks); {chosen.better} is better."
    return Figure(name, title or f"{_capital(chosen.bare)} by arm", words, draw)


def multiplier_figure(
    name: str, curves: Sequence[Multiplier], title: str = "", caption: str = "", data: Data | None = None
) -> Figure:
    """Multiplier curves with their bands and a line at 1, a panel an arm. All against one control and one axis.

    data: the study, so that arms have the colours of the other pictures. Raises ``ValueError`` for no curve.
    """
    worths = [
        worth_pictures.Worth(
            w.arm, w.cost, w.value, w.low, w.high, w.band_low, w.band_high,
            np.array([_BOUND.get(mark, 0.0) for mark in w.mark]), w.at_edge, w.rungs,
        )
        for w in curves
    ]  # fmt: skip
    arms = [w.arm for w in curves]
    if not curves:
        raise ValueError("a picture of multipliers needs at least one curve")
    axis = curves[0].axis if len(curves) == 1 else curves[0].axis.replace(f" of {arms[0]}", " of the arm")
    order = data.arms if data is not None else (curves[0].control, *arms)
    colours = pictures.arm_colours(order, data.control if data is not None else curves[0].control, arms)
    what = "cost" if curves[0].unit == "FLOPs" else curves[0].unit

    def draw(narrow: bool) -> plots.Figure:
        return worth_pictures.worth_curves(worths, colours, axis, curves[0].control, narrow, what)

    words = caption or (
        f"What {curves[0].control} would have to spend for the same {bare(curves[0].metric)}, over what the arm spent. "
        "Triangles are bounds: the control was not tested at that result."
    )
    return Figure(name, title or f"Worth of the arm in cost of {curves[0].control}", words, draw)


def _inside(metric: Metric, ends: ArrayLike) -> Array:
    """Ends of intervals as they are drawn: those of shares within 0 .. 1, which a t interval may leave."""
    values = np.asarray(ends, dtype=float)
    return np.clip(values, 0.0, 1.0) if "(share of" in metric.label else values


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
