"""Forest plots: exponents and fitted E of every fit, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis import plots
from analysis.fit import FORMS
from analysis.report.marks import FORM_WORDS, forest_rows, form_markers, group_colour
from analysis.result import FitResult, Interval
from analysis.study import Study

_DOTTED = (0, (1, 1.5))


def _draw_interval(panel: plots.Axes, y: float, item: Interval, colour: str, marker: str, known: bool) -> None:
    style: dict[str, Any] = {"lw": 1.6} if known else {"lw": 1.0, "ls": _DOTTED}
    panel.plot([item.low, item.high], [y, y], color=colour, **style)
    panel.plot([item.value], [y], marker, color=colour, mfc=colour if known else "white", ms=5.2, mew=1.2)


def _forest_axis(panel: plots.Axes, rows: list[tuple[str, str]], labels: bool) -> None:
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_yticks(range(len(rows)), [f"{target}  {group}" for target, group in rows] if labels else [])
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)
    for i in range(1, len(rows)):
        if rows[i][0] != rows[i - 1][0]:
            panel.axhline(i - 0.5, color="#c8c8c8", lw=0.8)


def _form_entries(fits: Sequence[FitResult]) -> list[dict[str, Any]]:
    markers = form_markers([fit.form for fit in fits])
    solid = [
        {"color": plots.INK, "marker": marker, "ms": 5.2, "lw": 1.6, "label": FORM_WORDS.get(form, form)}
        for form, marker in markers.items()
    ]
    hollow = {"color": plots.INK, "marker": "o", "mfc": "white", "ls": _DOTTED, "lw": 1, "label": "not identified"}
    return [*solid, hollow]


def exponent_names(study: Study) -> list[str]:
    """alpha and beta for the forms of one law; else the exponents that most fits have, at most four."""
    if all(fit.form in FORMS for fit in study.fits):
        return ["alpha", "beta"]
    names = [name for fit in study.fits for name in fit.shape.exponents if name not in fit.fixed]
    return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))[:4]


def exponents_forest(study: Study, narrow: bool = False) -> plots.Figure:
    """Exponents with 95 % intervals for every data type, group and form; hollow and dotted: not identified."""
    rows, names = forest_rows(study), exponent_names(study)
    markers = form_markers([fit.form for fit in study.fits])
    shifts = np.linspace(-0.24, 0.24, len(markers)) if len(markers) > 1 else np.zeros(1)
    with plots.styled():
        figure, axes = plots.panels(len(names), narrow, 1.2 + 0.44 * len(rows), share=False)
        for panel, name in zip(axes, names, strict=True):
            fits = [fit for fit in study.fits if name in fit.params]
            for fit in fits:
                y = rows.index((fit.target, fit.group)) + float(shifts[list(markers).index(fit.form)])
                item = fit.ci.get(name, Interval(fit.params[name], fit.params[name], fit.params[name]))
                known = name not in fit.unidentified
                _draw_interval(panel, y, item, group_colour(fit.group, study.groups), markers[fit.form], known)
            _forest_axis(panel, rows, labels=narrow or name == names[0])
            what = {"alpha": ", exponent of parameters N", "beta": ", exponent of tokens D"}.get(name, "")
            panel.set_xlabel(f"{name}{what if len(names) < 3 else ''}")
            panel.set_xlim(*_limits(fits, name))
        plots.legend(figure, _form_entries(study.fits), 1 if narrow else 4)
        return figure


def _limits(fits: Sequence[FitResult], name: str) -> tuple[float, float]:
    """From 0, or from below it where an exponent may be negative, to the ends of the intervals, within reason."""
    ends = [(f.ci[name].low, f.ci[name].high) if name in f.ci else (f.params[name],) * 2 for f in fits]
    furthest = max(1.6, *(1.1 * abs(fit.params[name]) for fit in fits))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return max(-furthest, min(0.0, 1.05 * low)), min(furthest, 1.05 * max(high, 0.3))


def entropy_forest(study: Study, narrow: bool = False) -> plots.Figure:
    """Fitted E with 95 % intervals beside the known entropy of the same evaluation tokens."""
    rows = forest_rows(study)
    fits = [f for f in study.fits if "E" in f.params and f.known_entropy is not None]
    markers = form_markers([fit.form for fit in fits])
    shifts = np.linspace(-0.16, 0.16, len(markers)) if len(markers) > 1 else np.zeros(1)
    with plots.styled():
        figure, (panel,) = plots.panels(1, narrow, 1.3 + 0.40 * len(rows))
        for fit in fits:
            row = rows.index((fit.target, fit.group))
            item = fit.ci.get("E", Interval(fit.params["E"], fit.params["E"], fit.params["E"]))
            y, known = row + float(shifts[list(markers).index(fit.form)]), "E" not in fit.unidentified
            _draw_interval(panel, y, item, group_colour(fit.group, study.groups), markers[fit.form], known)
            if fit.known_entropy is not None:
                panel.plot([fit.known_entropy] * 2, [row - 0.42, row + 0.42], color=plots.INK, lw=2.2)
        _forest_axis(panel, rows, labels=True)
        panel.set_xlim(left=0)
        panel.set_xlabel("E (nats / token)")
        bar = {"color": plots.INK, "marker": "|", "ms": 11, "mew": 2.2, "ls": "", "label": "known entropy"}
        plots.legend(figure, [*_form_entries(fits), bar], 1 if narrow else 4)
        return figure
