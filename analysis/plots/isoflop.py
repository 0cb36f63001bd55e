"""IsoFLOP slices: loss against size at each budget, the parabola's minimum and its bias, and the law's own minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.plots.inputs import Curve, columns, left_out_text
from analysis.plots.style import (
    ALARM,
    FAINT,
    HELD_OUT,
    INK,
    SHADE,
    footnote,
    label_ends,
    legend,
    log_axis,
    panel_grid,
    sentence,
    styled,
)
from analysis.report.marks import Colour, size_colours
from analysis.result import Interval

_DASHED = (0, (4, 2))


@dataclass(frozen=True)
class IsoflopSlice:
    """One budget: its runs (n,), the curves through them, and where they are lowest.

    parabola: loss (nats / token) against N by approach 2; law: the same by the fitted law at this compute.
    raw, corrected: N* of the parabola before and after the correction of its bias; ``known`` False where the minimum
    was refused (at the edge of the sizes, say), with ``why``. best: N* of the law.
    """

    compute: float
    size: ArrayLike
    loss: ArrayLike
    parabola: Curve | None = None
    law: Curve | None = None
    raw: Interval | None = None
    corrected: Interval | None = None
    best: Interval | None = None


def isoflop_slices(slices: Sequence[IsoflopSlice], narrow: bool = False) -> Figure:
    """Loss against N at each budget; and N* of the parabola relative to that of the law, with the correction as arrows.

    The second panel is left out where no slice has the law's minimum.
    """
    slices = sorted(slices, key=lambda s: s.compute)
    parts = [columns(("size",), size=s.size, loss=s.loss) for s in slices]
    if not any(len(p["size"]) for p in parts):
        return sentence("No run has a finite size and loss: no isoFLOP slice to draw.", narrow)
    compared = [s for s in slices if s.best is not None and (s.raw is not None or s.corrected is not None)]
    with styled():
        figure, axes = panel_grid(2 if compared else 1, 2, narrow, 4.6)
        colours = size_colours([s.compute for s in slices])
        ends = []
        for piece, part in zip(slices, parts, strict=True):
            ends += _draw_slice(axes[0], piece, part, colours[piece.compute])
        axes[0].set(xscale="log", xlabel="model size N (parameters)", ylabel="loss (nats / token)")
        axes[0].set_title("loss at equal compute")
        log_axis(axes[0].xaxis, "words")
        label_ends(axes[0], ends, 0.055)
        if compared:
            _draw_bias(axes[1], slices)
        _explain(figure, slices, bool(compared), narrow)
        left_out = sum(len(p["left_out"]) for p in parts)
        remark = left_out_text(left_out, left_out + sum(len(p["size"]) for p in parts))
        footnote(figure, f"{_refusals(slices)} {remark}".strip(), narrow)
        return figure


def _draw_slice(
    panel: Axes, piece: IsoflopSlice, part: dict[str, Array], colour: Colour
) -> list[tuple[float, float, str, Colour]]:
    """One budget, and its label at the right end."""
    panel.plot(part["size"], part["loss"], "o", color=colour, ms=5, mec="white", mew=0.6, zorder=3)
    for curve, style, width in ((piece.parabola, _DASHED, 1.3), (piece.law, "-", 1.8)):
        if curve is not None:
            panel.plot(curve.x, curve.value, color=colour, ls=style, lw=width, zorder=2)
            if curve.low is not None and curve.high is not None:
                panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.14, lw=0, zorder=1)
    if piece.raw is not None and not piece.raw.known:
        _mark_refused(panel, piece.raw, piece.parabola, part)
    elif piece.raw is not None:
        _mark_minimum(panel, piece.raw, piece.parabola, "s", colour)
    if piece.best is not None:
        _mark_minimum(panel, piece.best, piece.law, "D", colour)
    curve = piece.law or piece.parabola
    x, y = (part["size"], part["loss"]) if curve is None else (curve.x, curve.value)
    last = np.flatnonzero(np.isfinite(y))
    return [(float(x[last[-1]]), float(y[last[-1]]), _flops(piece.compute), colour)] if len(last) else []


def _mark_minimum(panel: Axes, at: Interval, curve: Curve | None, marker: str, colour: Colour) -> None:
    if curve is None or not np.isfinite(at.value):
        return
    y = float(np.interp(np.log(at.value), np.log(curve.x), curve.value))
    if np.isfinite([at.low, at.high]).all():
        panel.plot([at.low, at.high], [y, y], color=INK, lw=1.6, zorder=4)
    filled = colour if marker == "D" else "white"
    panel.plot([at.value], [y], marker, color=INK, mfc=filled, ms=6, mew=1.2, zorder=5)


def _mark_refused(panel: Axes, at: Interval, curve: Curve | None, part: dict[str, Array]) -> None:
    """A cross on the refused minimum, or where it has no place, on the lowest run."""
    if not len(part["size"]):
        return
    lowest = int(np.argmin(part["loss"]))
    x, y = float(part["size"][lowest]), float(part["loss"][lowest])
    if curve is not None and curve.x[0] <= at.value <= curve.x[-1]:
        x, y = at.value, float(np.interp(np.log(at.value), np.log(curve.x), curve.value))
    panel.plot([x], [y], "X", color=ALARM, ms=9, mec="white", mew=0.8, zorder=6)


def _draw_bias(panel: Axes, slices: Sequence[IsoflopSlice]) -> None:
    """Row per budget: N* over the law's N*, in per cent; the arrow is the correction of the parabola's bias."""
    for row, piece in enumerate(slices):
        if piece.raw is not None and not piece.raw.known:
            where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "color": ALARM, "fontsize": 9.5}
            panel.annotate("refused, see below", (0.03, row), va="center", **where)
            continue
        if piece.best is None:
            continue
        unit = piece.best.value
        panel.fill_betweenx([row - 0.36, row + 0.36], *_percent(piece.best, unit)[1:], color=SHADE, lw=0, zorder=1)
        panel.plot([0, 0], [row - 0.36, row + 0.36], color=INK, lw=1.6, zorder=2)
        places = []
        for item, marker, fill, y in ((piece.raw, "s", "white", row - 0.13), (piece.corrected, "s", INK, row + 0.13)):
            if item is None or not item.known:
                continue
            value, low, high = _percent(item, unit)
            panel.plot([low, high], [y, y], color=INK, lw=1.4, zorder=3)
            panel.plot([value], [y], marker, color=INK, mfc=fill, ms=6, mew=1.2, zorder=5)
            places.append((value, y))
        if len(places) == 2:
            arrow = {"arrowstyle": "-|>", "color": HELD_OUT, "lw": 1.6, "shrinkA": 4, "shrinkB": 4}
            panel.annotate("", places[1], places[0], arrowprops=arrow, zorder=6)
    panel.set_ylim(-0.6, len(slices) - 0.4)
    panel.set_yticks(range(len(slices)), [_flops(s.compute) for s in slices])
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)
    panel.set(xlabel="N* against that of the law (%)", ylabel="compute C (FLOPs)", title="minimum of the parabola")


def _refusals(slices: Sequence[IsoflopSlice]) -> str:
    """Every refusal in full, for under the panels."""
    refused = [s for s in slices if s.raw is not None and not s.raw.known]
    return " ".join(f"Refused at {_flops(s.compute)}: {s.raw.why or 'no minimum'}." for s in refused if s.raw)


def _percent(item: Interval, unit: float) -> tuple[float, float, float]:
    """(value, low, high) over ``unit``, in per cent; an end that is not finite counts as the value."""
    low, high = (end if np.isfinite(end) else item.value for end in (item.low, item.high))
    return 100 * (item.value / unit - 1), 100 * (low / unit - 1), 100 * (high / unit - 1)


def _explain(figure: Figure, slices: Sequence[IsoflopSlice], compared: bool, narrow: bool) -> None:
    entries = []
    if any(s.parabola is not None for s in slices):
        line = {"color": INK, "ls": _DASHED, "lw": 1.3, "marker": "s", "mfc": "white"}
        entries.append(line | {"label": "parabola, its N* (approach 2)"})
    if any(s.law is not None for s in slices):
        entries.append(
            {"color": INK, "lw": 1.8, "marker": "D", "mfc": FAINT, "label": "fitted law, its N* (approach 3)"}
        )
    if compared and any(s.corrected is not None for s in slices):
        entries.append(
            {"color": HELD_OUT, "marker": r"$\rightarrow$", "ms": 13, "ls": "", "label": "correction of its bias"}
        )
        entries.append({"color": INK, "marker": "s", "ls": "", "label": "parabola, corrected"})
    if any(s.raw is not None and not s.raw.known for s in slices):
        entries.append({"color": ALARM, "marker": "X", "ms": 8, "mec": "white", "ls": "", "label": "minimum refused"})
    if entries:
        legend(figure, entries, 1 if narrow else 3)


def _flops(value: float) -> str:
    mantissa, power = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"
