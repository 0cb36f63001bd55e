"""Loss against compute: runs by size, and the lowest loss the fitted law reaches at each compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.plots.inputs import Curve, Span, columns, draw_curve, left_out_text, tested_entries
from analysis.plots.style import (
    INK,
    footnote,
    label_y,
    legend,
    log_axis,
    panel_grid,
    sentence,
    size_bar,
    size_scale,
    styled,
)
from analysis.report.marks import group_colour


@dataclass(frozen=True)
class Frontier:
    """One group: its runs (n,), and the fitted frontier L*(C) in nats / token against C in FLOPs.

    tested: smallest and largest compute of the runs. entropy: known floor of the loss in nats / token, if any.
    """

    group: str
    size: ArrayLike
    compute: ArrayLike
    loss: ArrayLike
    curve: Curve
    tested: Span
    entropy: float | None = None


def compute_frontier(frontiers: Sequence[Frontier], excess: bool = False, narrow: bool = False) -> Figure:
    """One panel per group, both axes logarithmic; ``excess`` subtracts the known entropy.

    Points are runs coloured by size; the line is the frontier, solid inside the tested compute and dashed beyond, with
    its 95 % band. Raises ``ValueError`` where ``excess`` is asked for and a group has no known entropy.
    """
    missing = [f.group for f in frontiers if f.entropy is None]
    if excess and missing:
        raise ValueError(f"no known entropy for {', '.join(missing)}; draw the loss itself (excess=False)")
    parts = [_points(f, excess) for f in frontiers]
    if not any(len(p["loss"]) for p in parts):
        return sentence("No run has a finite size, compute and loss above the floor: no frontier to draw.", narrow)
    with styled():
        figure, axes = panel_grid(len(frontiers), 3, narrow, 4.3, share=True)
        sizes = sorted({float(size) for p in parts for size in p["size"]})
        scale = size_scale(sizes)
        groups, curves = [f.group for f in frontiers], []
        for panel, frontier, part in zip(axes, frontiers, parts, strict=True):
            _draw_points(panel, part, scale)
            floor = float(frontier.entropy or 0.0) if excess else 0.0
            colour = group_colour(frontier.group, groups)
            curves.append(frontier.curve.minus(floor))
            draw_curve(panel, curves[-1], colour, frontier.tested)
            panel.set(xscale="log", yscale="log", title=frontier.group, xlabel="training compute C (FLOPs)")
        _frame(axes[0], parts, curves)
        for panel in axes:
            log_axis(panel.xaxis, most=5)
            log_axis(panel.yaxis, "plain")
        label_y(axes, narrow, "excess over entropy (nats / token)" if excess else "loss (nats / token)")
        legend(figure, tested_entries(INK, "fitted frontier"), 1 if narrow else 3)
        size_bar(figure, axes, sizes)
        left_out = sum(len(p["left_out"]) for p in parts)
        footnote(figure, left_out_text(left_out, left_out + sum(len(p["loss"]) for p in parts)), narrow)
        return figure


def _points(frontier: Frontier, excess: bool) -> dict[str, Array]:
    floor = frontier.entropy or 0.0
    loss = np.asarray(frontier.loss, dtype=float) - (floor if excess else 0.0)
    return columns(("size", "compute", "loss"), size=frontier.size, compute=frontier.compute, loss=loss)


def _draw_points(panel: Axes, part: dict[str, Array], scale: tuple[Normalize, Colormap]) -> None:
    norm, colours = scale
    style: dict[str, Any] = {
        "c": part["size"],
        "cmap": colours,
        "norm": norm,
        "s": 26,
        "linewidths": 0.5,
        "edgecolors": "white",
    }
    panel.scatter(part["compute"], part["loss"], zorder=2.5, **style)


def _frame(panel: Axes, parts: Sequence[dict[str, Array]], curves: Sequence[Curve]) -> None:
    """Limits of the shared axis from points and curves, not from a band that may reach 0."""
    seen = np.concatenate([p["loss"] for p in parts] + [c.value[np.isfinite(c.value)] for c in curves])
    margin = max((float(seen.max()) / float(seen.min())) ** 0.06, 1.01)
    panel.set_ylim(float(seen.min()) / margin, float(seen.max()) * margin)
