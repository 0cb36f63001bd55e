"""Predicted against observed loss with held-out runs marked, and the error against the distance from the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.engine.jet import Array
from analysis.plots.inputs import columns, left_out_text
from analysis.plots.style import (
    FAINT,
    HELD_OUT,
    INK,
    SHADE,
    footnote,
    legend,
    log_axis,
    panel_grid,
    sentence,
    styled,
)

_MANY = 150


@dataclass(frozen=True)
class Predictions:
    """Rows (n,): observed and predicted loss in nats / token; ``held`` is True for rows that the fit never saw.

    distance (n,): how far a row lies beyond the fitted range, as a factor (1 at its edge or inside); ``axis`` names
    what the factor is of, such as "N". low, high (n,): 95 % prediction interval, NaN where there is none.
    goal: relative error in per cent that a claim allows, shaded.
    """

    observed: ArrayLike
    predicted: ArrayLike
    held: ArrayLike
    distance: ArrayLike | None = None
    axis: str = "N"
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    goal: float = 2.0


def predicted_against_observed(rows: Predictions, title: str = "", narrow: bool = False) -> Figure:
    """Both losses with the identity, MAE and R2 of either kind of rows; and, with distances, errors against distance.

    Raises ``ValueError`` when the columns differ in length, or a distance is below 1.
    """
    part = _checked(rows)
    total = len(part["observed"]) + len(part["left_out"])
    if not len(part["observed"]):
        return sentence("No row has both a finite observed and a finite predicted loss: nothing to draw.", narrow)
    with_distance = rows.distance is not None
    with styled():
        figure, axes = panel_grid(2 if with_distance else 1, 2, narrow, 4.2)
        _draw_identity(axes[0], part)
        axes[0].set_title(title or "predicted and observed")
        if with_distance:
            _draw_distance(axes[1], part, rows.axis, rows.goal)
        held = part["held"] > 0.5
        entries = [
            {"color": FAINT, "marker": "o", "ms": 5, "ls": "", "label": f"fitted rows ({int((~held).sum())})"},
            {
                "color": HELD_OUT,
                "marker": "D",
                "mfc": "white",
                "mew": 1.5,
                "ls": "",
                "label": f"held out ({int(held.sum())})",
            },
            {"color": INK, "lw": 1.2, "label": "perfect prediction"},
        ]
        if with_distance:
            entries.append({"color": "#dddddd", "lw": 8, "label": f"within {rows.goal:g} %"})
        legend(figure, entries, 2 if narrow else 4)
        footnote(figure, left_out_text(len(part["left_out"]), total), narrow)
        return figure


def _checked(rows: Predictions) -> dict[str, Array]:
    given = {"held": np.asarray(rows.held, dtype=float)}
    if rows.distance is not None:
        given["distance"] = np.asarray(rows.distance, dtype=float)
        if np.any(given["distance"] < 1):
            least = float(np.nanmin(given["distance"]))
            raise ValueError(f"distance holds {least:.3g}; it is a factor beyond the fitted range, 1 inside it")
    part = columns(("observed", "predicted"), observed=rows.observed, predicted=rows.predicted, **given)
    count = len(part["observed"]) + len(part["left_out"])
    for name, values in (("low", rows.low), ("high", rows.high)):
        whole = np.full(count, np.nan) if values is None else np.asarray(values, dtype=float)
        if whole.shape != (count,):
            raise ValueError(f"{name} has shape {whole.shape}; give one number per row, {count} in all")
        part[name] = np.delete(whole, part["left_out"].astype(int))
    return part


def _draw_identity(panel: Axes, part: dict[str, Array]) -> None:
    x, y, held = part["observed"], part["predicted"], part["held"] > 0.5
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    ends = ends * np.array([0.985, 1.015])
    panel.plot(ends, ends, color=INK, lw=1.2, zorder=1)
    panel.plot(x[~held], y[~held], "o", color=FAINT, ms=4.5, mec="none", alpha=0.8)
    for i in np.flatnonzero(held & np.isfinite(part["low"]) & np.isfinite(part["high"])):
        panel.plot([x[i]] * 2, [part["low"][i], part["high"][i]], color=HELD_OUT, lw=1.2, zorder=2)
    panel.plot(x[held], y[held], "D", color=HELD_OUT, mfc="white", zorder=3, **_marks(held))
    panel.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    panel.set(xlabel="observed loss (nats / token)", ylabel="predicted loss (nats / token)")
    for axis in (panel.xaxis, panel.yaxis):
        log_axis(axis, "plain")
    lines = [_summary("fitted", x[~held], y[~held]), _summary("held out", x[held], y[held])]
    text = "\n".join(line for line in lines if line)
    panel.text(0.03, 0.97, text, transform=panel.transAxes, va="top", fontsize=9.5, color=INK, linespacing=1.4)


def _marks(held: NDArray[np.bool_]) -> dict[str, Any]:
    """Size and edge of the marks of held-out rows: thinner where there are many."""
    many = int(held.sum()) > _MANY
    return {"ms": 3.2, "mew": 0.7, "alpha": 0.7} if many else {"ms": 6, "mew": 1.5}


def _summary(name: str, observed: Array, predicted: Array) -> str:
    """MAE in nats, mean relative error, and R2 of the loss where there are three rows or more."""
    if not len(observed):
        return ""
    miss = predicted - observed
    text = f"{name}: MAE {np.mean(np.abs(miss)):.2g} nats, {100 * np.mean(np.abs(miss) / observed):.2g} %"
    spread = float(np.sum((observed - observed.mean()) ** 2))
    if len(observed) < 3 or spread == 0:
        return text
    return f"{text}, R2 {1 - float(np.sum(miss**2)) / spread:.4f}"


def _draw_distance(panel: Axes, part: dict[str, Array], axis: str, goal: float) -> None:
    """Relative error in per cent; held-out rows only move right of 1."""
    x, held = _apart(part["distance"]), part["held"] > 0.5
    error = 100 * (part["predicted"] / part["observed"] - 1)
    panel.axhspan(-goal, goal, color=SHADE, lw=0, zorder=0)
    panel.axhline(0, color=INK, lw=1)
    panel.plot(x[~held], error[~held], "o", color=FAINT, ms=4.5, mec="none", alpha=0.6)
    ends = [100 * (part[name] / part["observed"] - 1) for name in ("low", "high")]
    for i in np.flatnonzero(held & np.isfinite(ends[0]) & np.isfinite(ends[1])):
        panel.plot([x[i]] * 2, [ends[0][i], ends[1][i]], color=HELD_OUT, lw=1.2, zorder=2)
    panel.plot(x[held], error[held], "D", color=HELD_OUT, mfc="white", zorder=3, **_marks(held))
    panel.set_xscale("log")
    panel.set_xlim(0.88, max(2.0, 1.15 * float(x.max())))
    log_axis(panel.xaxis, "plain")
    panel.margins(y=0.12)
    panel.set_title("error against distance")
    panel.set_xlabel(f"{axis} over the largest fitted {axis} (factor)")
    panel.set_ylabel("predicted - observed (%)")


def _apart(distance: Array) -> Array:
    """Rows at one distance moved apart by up to 5 %, so that their marks and intervals can be told apart."""
    moved = distance.copy()
    for value in np.unique(distance):
        same = np.flatnonzero(distance == value)
        if len(same) > 1:
            moved[same] *= np.exp(np.linspace(-0.05, 0.05, len(same)))
    return moved
