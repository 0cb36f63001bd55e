"""Numbers side by side: the exponents of the three approaches, and parameters over the choices of a fit."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import ALARM, BAND_ALPHA, HELD_OUT, INK, footnote, legend, panel_grid, sentence, styled
from analysis.report.marks import group_colour
from analysis.result import Interval

_DEFAULT = "#0072B2"
_DOTTED = (0, (1, 1.5))


@dataclass(frozen=True)
class Estimate:
    """Exponents of N* ~ C^a and D* ~ C^b by one method for one group; None with ``why`` where the method refused."""

    group: str
    method: str
    a: Interval | None
    b: Interval | None
    why: str = ""


@dataclass(frozen=True)
class Setting:
    """One way to fit: the kind of choice ("objective", "delta", "rows", "N"), its label, and what it gives by name.

    Ends that are NaN with ``known`` True mean that no interval was computed; a name that is missing, that it gave none.
    """

    kind: str
    label: str
    values: Mapping[str, Interval]
    is_default: bool = False
    why: str = ""


def approaches_forest(estimates: Sequence[Estimate], narrow: bool = False) -> Figure:
    """Exponents a and b, one row per method, one colour per group, with 95 % intervals; refusals in words.

    Hollow and dotted: not identified.
    """
    if not estimates:
        return sentence("No approach gave an exponent: nothing to draw.", narrow)
    methods = list(dict.fromkeys(e.method for e in estimates))
    groups = list(dict.fromkeys(e.group for e in estimates))
    rows = [(m, g) for m in methods for g in groups if any((e.method, e.group) == (m, g) for e in estimates)]
    with styled():
        figure, axes = panel_grid(2, 2, narrow, 1.3 + 0.36 * len(rows))
        for panel, name, what in zip(axes, "ab", ("N*", "D*"), strict=True):
            found = [getattr(e, name) for e in estimates]
            _limit(panel, [f for f in found if f is not None])
            for estimate, item in zip(estimates, found, strict=True):
                y = rows.index((estimate.method, estimate.group))
                if item is None:
                    _write(panel, y, "refused, see below", narrow)
                else:
                    _draw_interval(panel, y, item, group_colour(estimate.group, groups))
            _name_rows(panel, rows, narrow or name == "a", len(groups) > 1)
            panel.set_xlabel(f"{name} in {what} ~ C^{name} (no unit)")
        entries: list[dict[str, Any]] = [
            {"color": group_colour(g, groups), "marker": "o", "lw": 1.8, "label": f"{g}, 95 %"} for g in groups
        ]
        if any(i is not None and not i.known for e in estimates for i in (e.a, e.b)):
            entries.append(
                {"color": INK, "marker": "o", "mfc": "white", "ls": _DOTTED, "lw": 1, "label": "not identified"}
            )
        legend(figure, entries, 2 if narrow else 4)
        footnote(figure, _reasons(estimates), narrow)
        return figure


def _reasons(estimates: Sequence[Estimate]) -> str:
    """Every refusal in full, each reason once with the rows it stands for."""
    by_reason: dict[str, list[str]] = {}
    for e in estimates:
        if e.a is None or e.b is None:
            by_reason.setdefault(e.why or "no estimate", []).append(f"{e.method}, {e.group}")
    return " ".join(f"Refused ({'; '.join(rows)}): {why}." for why, rows in by_reason.items())


def sensitivity_forest(
    choices: Sequence[Setting], units: Mapping[str, str] | None = None, narrow: bool = False
) -> Figure:
    """One panel per parameter, one row per choice, grouped by kind; the default's interval is shaded.

    A red diamond lies outside the default's interval. Raises ``ValueError`` unless exactly one choice is the default.
    """
    defaults = [c for c in choices if c.is_default]
    if not choices:
        return sentence("No other choice was tried: nothing to compare.", narrow)
    if len(defaults) != 1:
        raise ValueError(f"{len(defaults)} of {len(choices)} choices have is_default; mark exactly one")
    names, units = list(defaults[0].values), units or {}
    if not names:
        raise ValueError(f"the default ({defaults[0].label}) has no values; nothing can be compared with it")
    ordered = sorted(choices, key=lambda c: (not c.is_default, [o.kind for o in choices].index(c.kind)))
    with styled():
        columns = min(len(names), 4)
        figure, axes = panel_grid(len(names), columns, narrow, 1.2 + 0.3 * len(ordered))
        for i, (panel, name) in enumerate(zip(axes, names, strict=True)):
            _draw_settings(panel, name, ordered, narrow)
            _name_choices(panel, ordered, narrow or i % columns == 0)
            panel.set_xlabel(f"{name} ({units.get(name, 'no unit')})")
        legend(figure, _sensitivity_entries(), 1 if narrow else 4)
        return figure


def _draw_settings(panel: Axes, name: str, ordered: Sequence[Setting], narrow: bool) -> None:
    """One parameter over all settings; the first is the default."""
    items = [setting.values.get(name) for setting in ordered]
    _limit(panel, [item for item in items if item is not None])
    base = items[0]
    assert base is not None, "the panels are named after the values of the default"
    low, high = (e if np.isfinite(e) else x for e, x in zip((base.low, base.high), panel.get_xlim(), strict=True))
    panel.axvspan(low, high, color=_DEFAULT, alpha=BAND_ALPHA, lw=0, zorder=0)
    for y, (setting, item) in enumerate(zip(ordered, items, strict=True)):
        if item is None:
            _write(panel, y, setting.why or "no value", narrow, 26)
        elif low <= item.value <= high:
            _draw_interval(panel, y, item, _DEFAULT if setting.is_default else INK)
        else:
            _draw_interval(panel, y, item, ALARM, "D")


def _limit(panel: Axes, items: Sequence[Interval]) -> None:
    """Limits that hold every value and every interval that is not ten times as long as the spread of the values."""
    values = np.array([i.value for i in items if np.isfinite(i.value)])
    if not len(values):
        return
    ends = np.array([e for i in items for e in (i.low, i.high) if np.isfinite(e)])
    width = np.median([i.high - i.low for i in items if np.isfinite([i.low, i.high]).all()] or [0.0])
    reach = max(float(np.ptp(values)), 2.5 * float(width), 1e-3 * abs(float(values.mean())))
    low = max(float(np.concatenate([values, ends]).min()), float(values.min()) - reach)
    high = min(float(np.concatenate([values, ends]).max()), float(values.max()) + reach)
    margin = 0.06 * max(high - low, 1e-9)
    panel.set_xlim(low - margin, high + margin)


def _draw_interval(panel: Axes, y: float, item: Interval, colour: str, marker: str = "o") -> None:
    """Value and interval; an end outside the panel or open becomes an arrow at the edge."""
    left, right = panel.get_xlim()
    if item.known and np.isnan(item.low) and np.isnan(item.high):
        item = replace(item, low=item.value, high=item.value)
    low, high = (e if np.isfinite(e) else x for e, x in zip((item.low, item.high), (left, right), strict=True))
    style: dict[str, Any] = {"lw": 1.8} if item.known else {"lw": 1.0, "ls": _DOTTED}
    panel.plot(np.clip([low, high], left, right), [y, y], color=colour, **style)
    for end, given, edge, sign in ((low, item.low, left, "<"), (high, item.high, right, ">")):
        if not np.isfinite(given) or (end < left if sign == "<" else end > right):
            panel.plot([edge], [y], sign, color=colour, ms=7, clip_on=False, zorder=5)
    panel.plot(
        [item.value], [y], marker, color=colour, mfc=colour if item.known else "white", ms=5.6, mew=1.2, zorder=4
    )


def _write(panel: Axes, y: float, text: str, narrow: bool, most: int = 46) -> None:
    short = textwrap.shorten(text, 38 if narrow else most, placeholder=" ...")
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9, "color": HELD_OUT}
    panel.annotate(short, (0.02, y), **where)


def _name_rows(panel: Axes, rows: Sequence[tuple[str, str]], labels: bool, several: bool) -> None:
    texts = [f"{method}  {group}" if several else method for method, group in rows]
    _finish(panel, texts if labels else [], len(rows), 6)
    for i in range(1, len(rows)):
        if rows[i][0] != rows[i - 1][0] and several:
            panel.axhline(i - 0.5, color="#c8c8c8", lw=0.8)


def _name_choices(panel: Axes, ordered: Sequence[Setting], labels: bool) -> None:
    texts = [f"default: {c.label}" if c.is_default else f"{c.kind}: {c.label}" for c in ordered]
    _finish(panel, [textwrap.shorten(t, 34, placeholder=" ...") for t in texts] if labels else [], len(ordered), 4)
    for i in range(1, len(ordered)):
        if ordered[i].kind != ordered[i - 1].kind or ordered[i - 1].is_default:
            panel.axhline(i - 0.5, color="#c8c8c8", lw=0.8)


def _finish(panel: Axes, texts: Sequence[str], count: int, ticks: int) -> None:
    panel.set_ylim(count - 0.4, -0.6)
    panel.set_yticks(range(count) if texts else [], texts)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)
    panel.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))


def _sensitivity_entries() -> list[dict[str, Any]]:
    return [
        {"color": _DEFAULT, "marker": "o", "lw": 1.8, "label": "default, 95 %"},
        {"color": _DEFAULT, "lw": 8, "alpha": 0.25, "label": "interval of the default"},
        {"color": INK, "marker": "o", "lw": 1.8, "label": "another choice, 95 %"},
        {"color": ALARM, "marker": "D", "lw": 1.8, "label": "outside the default's interval"},
    ]
