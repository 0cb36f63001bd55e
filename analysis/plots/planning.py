"""What to run next and how many runs a question needs: expected interval widths, and the share of right verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.plots.inputs import columns, left_out_text
from analysis.plots.labels import label_points, lay_out
from analysis.plots.style import BAND_ALPHA, INK, footnote, label_ends, legend, log_axis, panel_grid, sentence, styled

_PLAN, _OTHER = "#0072B2", ("#0072B2", "#D55E00", "#007D5C", "#CC79A7", "#B8860B")
_MARKS = "osD^v"


@dataclass(frozen=True)
class Additions:
    """Runs to add in order (k,): FLOPs spent after each (cumulative), expected width of the 95 % interval then.

    labels (k,): what each run is, such as "N 2M, D 40M". low, high (k,): interval of the expected width over designs
    or draws, if known. label: the name of this way to spend; one with a single point is drawn as a mark.
    """

    flops: ArrayLike
    width: ArrayLike
    labels: Sequence[str] = ()
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    label: str = "proposed runs"


@dataclass(frozen=True)
class Power:
    """How often a verdict was right in simulated studies of ``runs`` (k,) runs.

    share (k,): from 0 to 1, with its 95 % binomial interval low, high (k,). trials: simulations behind each share.
    """

    label: str
    runs: ArrayLike
    share: ArrayLike
    low: ArrayLike
    high: ArrayLike
    trials: int | None = None


def design_curve(
    plans: Sequence[Additions], baseline: float, quantity: str, unit: str = "", narrow: bool = False
) -> Figure:
    """Expected width of the interval of ``quantity`` against FLOPs spent, with the run that each step adds.

    baseline: width today, dashed. The first plan carries its labels; up to five plans.
    Raises ``ValueError`` for a baseline that is not positive, or labels that do not fit the runs.
    """
    if not (np.isfinite(baseline) and baseline > 0):
        raise ValueError(f"baseline is {baseline}; the present width of the interval must be a positive number")
    parts = [_checked_plan(plan) for plan in plans]
    if not any(len(p["flops"]) for p in parts):
        return sentence("No run can be added within the budget: nothing to draw.", narrow)
    with styled():
        figure, (panel,) = panel_grid(1, 1, narrow, 4.2)
        panel.axhline(baseline, color=INK, lw=1.4, ls=(0, (4, 2)))
        for plan, part, colour, mark in zip(plans, parts, _OTHER, _MARKS, strict=False):
            _draw_plan(panel, plan, part, colour, mark)
        panel.set_xscale("log")
        panel.set_ylim(0, 1.18 * max(baseline, *(float(p["width"].max()) for p in parts if len(p["width"]))))
        log_axis(panel.xaxis)
        panel.set_xlabel("compute spent on added runs (FLOPs)")
        label = f"expected 95 % width of {quantity} ({unit or 'no unit'})"
        panel.set_ylabel("\n".join(textwrap.wrap(label, 38)))
        _explain_plans(figure, plans, parts, baseline, narrow)
        lost = sum(len(p["left_out"]) for p in parts)
        footnote(figure, left_out_text(lost, lost + sum(len(p["flops"]) for p in parts)), narrow)
        _label_runs(figure, panel, plans, parts)
        return figure


def _checked_plan(plan: Additions) -> dict[str, Array]:
    part = columns(("flops",), flops=plan.flops, width=plan.width)
    count = len(part["flops"]) + len(part["left_out"])
    if plan.labels and len(plan.labels) != count:
        raise ValueError(f"{plan.label} has {len(plan.labels)} labels and {count} runs; give one each")
    return part


def _draw_plan(panel: Axes, plan: Additions, part: dict[str, Array], colour: str, mark: str) -> None:
    panel.plot(part["flops"], part["width"], marker=mark, color=colour, lw=2, ms=6.5, mec="white", mew=0.8, zorder=3)
    if plan.low is not None and plan.high is not None:
        keep = np.delete(np.arange(len(np.asarray(plan.flops))), part["left_out"].astype(int))
        low, high = (np.asarray(end, dtype=float)[keep] for end in (plan.low, plan.high))
        panel.fill_between(part["flops"], low, high, color=colour, alpha=BAND_ALPHA, lw=0)


def _explain_plans(
    figure: Figure, plans: Sequence[Additions], parts: Sequence[dict[str, Array]], baseline: float, narrow: bool
) -> None:
    entries = []
    for plan, part, colour, mark in zip(plans, parts, _OTHER, _MARKS, strict=False):
        gain = f", to {100 * float(part['width'][-1]) / baseline:.0f} %" if len(part["width"]) else ""
        entries.append({"color": colour, "marker": mark, "ms": 6.5, "lw": 2, "label": f"{plan.label}{gain}"})
    entries.append({"color": INK, "lw": 1.4, "ls": (0, (4, 2)), "label": f"today, {baseline:.3g}"})
    legend(figure, entries, 1 if narrow else 4)


def _label_runs(figure: Figure, panel: Axes, plans: Sequence[Additions], parts: Sequence[dict[str, Array]]) -> None:
    lay_out(figure)
    every = np.concatenate([_along(p["flops"], p["width"]) for p in parts if len(p["flops"])])
    plan, part = plans[0], parts[0]
    if not plan.labels:
        return
    texts = np.delete(np.array(plan.labels, dtype=object), part["left_out"].astype(int))
    labels = [(float(x), float(y), str(t)) for x, y, t in zip(part["flops"], part["width"], texts, strict=True)]
    label_points(panel, labels, every)


def _along(x: Array, y: Array) -> Array:
    """Points (m, 2) close together along a line on a logarithmic x axis, for labels to keep away from."""
    at = np.linspace(0, len(x) - 1, 40 * len(x))
    knots = np.arange(len(x))
    return np.column_stack([np.exp(np.interp(at, knots, np.log(x))), np.interp(at, knots, y)])


def power_curve(powers: Sequence[Power], goal: float = 0.8, narrow: bool = False) -> Figure:
    """Share of right verdicts (%) against the number of runs, with 95 % binomial intervals; the goal is a line.

    Raises ``ValueError`` where a share lies outside its interval or outside 0 to 1.
    """
    parts = [_checked_power(p) for p in powers]
    if not any(len(p["runs"]) for p in parts):
        return sentence("No study was simulated: there is no power to draw.", narrow)
    with styled():
        figure, (panel,) = panel_grid(1, 1, narrow, 4.0)
        panel.axhline(100 * goal, color=INK, lw=1.4, ls=(0, (4, 2)))
        ends = []
        for i, (power, part) in enumerate(zip(powers, parts, strict=True)):
            colour, mark = _OTHER[i % len(_OTHER)], _MARKS[i % len(_MARKS)]
            if not len(part["runs"]):
                continue
            _draw_power(panel, part, colour, mark)
            ends.append((float(part["runs"][-1]), 100 * float(part["share"][-1]), power.label, colour))
        panel.set_ylim(-3, 103)
        panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        panel.set_xlabel("runs in the study (count)")
        panel.set_ylabel("studies with the right verdict (%)")
        panel.margins(x=0.05)
        label_ends(panel, ends, 0.075)
        trials = sorted({p.trials for p in powers if p.trials is not None})
        span = " to ".join(str(t) for t in dict.fromkeys(trials[:1] + trials[-1:]))
        entries = [
            {
                "color": INK,
                "marker": "o",
                "lw": 1.6,
                "label": f"share of {span + ' ' if span else ''}simulated studies, 95 % binomial",
            },
            {"color": INK, "lw": 1.4, "ls": (0, (4, 2)), "label": f"goal, {100 * goal:g} %"},
        ]
        legend(figure, entries, 1 if narrow else 2)
        lost = sum(len(p["left_out"]) for p in parts)
        footnote(figure, left_out_text(lost, lost + sum(len(p["runs"]) for p in parts)), narrow)
        return figure


def _checked_power(power: Power) -> dict[str, Array]:
    part = columns(("runs",), runs=power.runs, share=power.share, low=power.low, high=power.high)
    ends = np.stack([part["low"], part["share"], part["high"]])
    if np.any(np.diff(ends, axis=0) < -1e-9) or np.any((ends < -1e-9) | (ends > 1 + 1e-9)):
        raise ValueError(
            f"{power.label}: need 0 <= low <= share <= high <= 1 for every row; shares are {ends[1].tolist()}"
        )
    order = np.argsort(part["runs"], kind="stable")
    return part | {name: part[name][order] for name in ("runs", "share", "low", "high")}


def _draw_power(panel: Axes, part: dict[str, Array], colour: str, mark: str) -> None:
    runs, share, low, high = part["runs"], *(100 * part[name] for name in ("share", "low", "high"))
    panel.fill_between(runs, low, high, color=colour, alpha=BAND_ALPHA, lw=0)
    panel.vlines(runs, low, high, color=colour, lw=1.4, zorder=3)
    panel.plot(runs, share, marker=mark, color=colour, lw=1.8, ms=6, mec="white", mew=0.8, zorder=4)
