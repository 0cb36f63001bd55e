"""Forest plots: exponents and fitted E of every fit, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis import plots
from analysis.marks import FORM_MARKERS, FORM_WORDS, forest_rows, group_colour
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
    forms = [form for form in FORM_MARKERS if any(fit.form == form for fit in fits)]
    solid = [
        {"color": plots.INK, "marker": FORM_MARKERS[f], "ms": 5.2, "lw": 1.6, "label": FORM_WORDS[f]} for f in forms
    ]
    hollow = {"color": plots.INK, "marker": "o", "mfc": "white", "ls": _DOTTED, "lw": 1, "label": "not identified"}
    return [*solid, hollow]


def exponents_forest(study: Study, narrow: bool = False) -> plots.Figure:
    """alpha and beta with 95 % intervals for every data type, group and form; hollow and dotted: not identified."""
    rows = forest_rows(study)
    with plots.styled():
        figure, axes = plots.panels(2, narrow, 1.2 + 0.44 * len(rows), share=False)
        for panel, name in zip(axes, ("alpha", "beta"), strict=True):
            for fit in study.fits:
                y = rows.index((fit.target, fit.group)) + {"known": -0.24, "free": 0.0, "interaction": 0.24}[fit.form]
                item = fit.ci.get(name, Interval(fit.params[name], fit.params[name], fit.params[name]))
                known = name not in fit.unidentified
                _draw_interval(panel, y, item, group_colour(fit.group, study.groups), FORM_MARKERS[fit.form], known)
            _forest_axis(panel, rows, labels=narrow or name == "alpha")
            panel.set_xlabel(f"{name}, exponent of {'parameters N' if name == 'alpha' else 'tokens D'}")
            panel.set_xlim(0, min(1.6, 1.05 * max(_reach(study, name), 0.3)))
        plots.legend(figure, _form_entries(study.fits), 1 if narrow else 4)
        return figure


def _reach(study: Study, name: str) -> float:
    return max(f.ci[name].high if name in f.ci else f.params[name] for f in study.fits)


def entropy_forest(study: Study, narrow: bool = False) -> plots.Figure:
    """Fitted E with 95 % intervals beside the known entropy of the same evaluation tokens."""
    rows = forest_rows(study)
    fits = [f for f in study.fits if "E" in f.params]
    with plots.styled():
        figure, (panel,) = plots.panels(1, narrow, 1.3 + 0.40 * len(rows))
        for fit in fits:
            row = rows.index((fit.target, fit.group))
            item = fit.ci.get("E", Interval(fit.params["E"], fit.params["E"], fit.params["E"]))
            y, known = row + (-0.16 if fit.form == "free" else 0.16), "E" not in fit.unidentified
            _draw_interval(panel, y, item, group_colour(fit.group, study.groups), FORM_MARKERS[fit.form], known)
            if fit.known_entropy is not None:
                panel.plot([fit.known_entropy] * 2, [row - 0.42, row + 0.42], color=plots.INK, lw=2.2)
        _forest_axis(panel, rows, labels=True)
        panel.set_xlim(left=0)
        panel.set_xlabel("E (nats / token)")
        bar = {"color": plots.INK, "marker": "|", "ms": 11, "mew": 2.2, "ls": "", "label": "known entropy"}
        plots.legend(figure, [*_form_entries(fits), bar], 1 if narrow else 4)
        return figure
