"""The loss surface over N and D, with the runs, lines of equal compute, and the optimal path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from analysis.approaches.frontier import six_nd
from analysis.engine.jet import Array
from analysis.plots.inputs import Span, as_arrays, columns, left_out_text
from analysis.plots.labels import HALO, lay_out
from analysis.plots.style import INK, bar_aspect, footnote, legend, log_axis, panel_grid, sentence, styled
from analysis.report.marks import group_colour

_LEVELS = 12
# From a grey on which ink and colours still stand out (low loss) to near white.
_GREYS = LinearSegmentedColormap.from_list("greys", ["#8d8d8d", "#fafafa"])


@dataclass(frozen=True)
class OptimalPath:
    """The optimal path: N*(C) and D*(C), (k,) each in ascending compute (FLOPs).

    low, high: (N, D) pairs (2, k), the ends of the 95 % interval at each compute, on the line of equal compute.
    tested: range of compute of the runs; the path is dashed and its band hatched beyond.
    Raises ``ValueError`` when the arrays differ in length.
    """

    compute: Array
    size: Array
    tokens: Array
    tested: Span
    low: Array | None = None
    high: Array | None = None

    def __post_init__(self) -> None:
        as_arrays(self, "compute", "size", "tokens", "low", "high")
        for name, values in (("size", self.size), ("tokens", self.tokens)):
            if values.shape != self.compute.shape:
                raise ValueError(f"{name} of the path has shape {values.shape}, compute {self.compute.shape}")


@dataclass(frozen=True)
class LossMap:
    """One group: its runs (n,), the fitted loss (q, p) in nats / token on grids of D (q,) and N (p,), and the path.

    Raises ``ValueError`` when the surface has not the shape of its grids, or a grid has fewer than two points.
    """

    group: str
    size: ArrayLike
    tokens: ArrayLike
    loss: ArrayLike
    grid_size: Array
    grid_tokens: Array
    grid_loss: Array
    path: OptimalPath | None = None

    def __post_init__(self) -> None:
        as_arrays(self, "grid_size", "grid_tokens", "grid_loss")
        need = (len(self.grid_tokens), len(self.grid_size))
        if self.grid_loss.shape != need or min(need) < 2:
            shape = self.grid_loss.shape
            raise ValueError(f"grid_loss of {self.group} has shape {shape}; D by N is {need}, at least 2 by 2")


def loss_contour(
    maps: Sequence[LossMap], flops: Callable[[Array, Array], Array] = six_nd, narrow: bool = False
) -> Figure:
    """One panel per group: the fitted surface in grey, runs in the same shades, equal compute dotted, the path on top.

    A run whose shade stands out from its surroundings is one the law misses. flops(N, D): FLOPs element by element.
    """
    parts = [columns(("size", "tokens", "loss"), size=m.size, tokens=m.tokens, loss=m.loss) for m in maps]
    surfaces = [np.where(m.grid_loss > 0, m.grid_loss, np.nan) for m in maps]
    if not any(np.isfinite(s).any() for s in surfaces):
        return sentence("The fitted loss is nowhere finite on this grid: no surface to draw.", narrow)
    with styled():
        figure, axes = panel_grid(len(maps), 3, narrow, 4.4)
        levels = _levels(surfaces)
        norm = LogNorm(levels[0], levels[-1])
        groups = [m.group for m in maps]
        for panel, one, part, surface in zip(axes, maps, parts, surfaces, strict=True):
            _draw_surface(panel, one, surface, levels, norm)
            panel.scatter(
                part["size"], part["tokens"], c=part["loss"], cmap=_GREYS, norm=norm, s=30, ec=INK, lw=0.8, zorder=4
            )
            if one.path is not None:
                _draw_path(panel, one.path, group_colour(one.group, groups))
            _finish(panel, one)
        axes[0].set_ylabel("training data D (tokens)")
        _bar(figure, axes, levels, norm)
        _explain(figure, maps, narrow)
        left_out = sum(len(p["left_out"]) for p in parts)
        footnote(figure, left_out_text(left_out, left_out + sum(len(p["size"]) for p in parts)), narrow)
        lay_out(figure)
        for panel, one in zip(axes, maps, strict=True):
            _draw_equal_compute(panel, one, flops)
        return figure


def _levels(surfaces: Sequence[Array]) -> Array:
    low, high = (float(f([f(s[np.isfinite(s)]) for s in surfaces])) for f in (min, max))
    return np.geomspace(low, max(high, low * 1.001), _LEVELS + 1)


def _draw_surface(panel: Axes, one: LossMap, surface: Array, levels: Array, norm: LogNorm) -> None:
    panel.grid(visible=False)
    panel.set(xscale="log", yscale="log")
    filled = panel.contourf(one.grid_size, one.grid_tokens, surface, levels, cmap=_GREYS, norm=norm, zorder=0)
    filled.set_edgecolor("face")
    panel.contour(one.grid_size, one.grid_tokens, surface, levels, colors="white", linewidths=0.7, zorder=1)


def _draw_path(panel: Axes, path: OptimalPath, colour: str) -> None:
    parts = [((0.0, path.tested[0]), False), (path.tested, True), ((path.tested[1], np.inf), False)]
    for (low, high), inside in parts:
        at = np.flatnonzero((path.compute >= low) & (path.compute <= high))
        if not len(at):
            continue
        at = np.arange(max(at[0] - (not inside), 0), min(at[-1] + 1 + (not inside), len(path.compute)))
        style = "-" if inside else (0, (3, 1.5))
        panel.plot(path.size[at], path.tokens[at], color="white", lw=4.0, zorder=4.5)
        panel.plot(path.size[at], path.tokens[at], color=colour, lw=2.4, ls=style, zorder=5)
        if path.low is not None and path.high is not None:
            ends = np.concatenate([path.low[:, at], path.high[:, at][:, ::-1]], axis=1)
            if inside:
                panel.fill(ends[0], ends[1], facecolor=colour, alpha=0.35, lw=0, zorder=3)
            else:
                panel.fill(ends[0], ends[1], fill=False, ec=colour, hatch="////", lw=0, alpha=0.7, zorder=3)


def _finish(panel: Axes, one: LossMap) -> None:
    panel.set_title(one.group)
    panel.set_xlabel("model size N (parameters)")
    panel.set_xlim(one.grid_size[0], one.grid_size[-1])
    panel.set_ylim(one.grid_tokens[0], one.grid_tokens[-1])
    log_axis(panel.xaxis, "words", most=4)
    log_axis(panel.yaxis, "words")


def _draw_equal_compute(panel: Axes, one: LossMap, flops: Callable[[Array, Array], Array]) -> None:
    """Dotted lines at powers of ten of compute, each with its label at the upper left end."""
    size, tokens = np.meshgrid(one.grid_size, one.grid_tokens)
    cost = np.log10(np.maximum(flops(size, tokens), 1e-300))
    powers = np.arange(np.ceil(cost.min()), np.floor(cost.max()) + 1)
    powers = powers[:: max(1, int(np.ceil(len(powers) / 6)))]
    if not len(powers):
        return
    lines = panel.contour(size, tokens, cost, powers, colors=INK, linewidths=0.9, linestyles=":", zorder=2)
    for power, segments in zip(powers, lines.allsegs, strict=True):
        if segments and len(segments[0]) > 2:
            _label_line(panel, np.asarray(segments[0]), f"$10^{{{int(power)}}}$")


def _label_line(panel: Axes, line: Array, text: str) -> None:
    """``text`` a little inside the left end of a line, along it."""
    pixels = panel.transData.transform(line)
    pixels = pixels[np.argsort(pixels[:, 0])]
    run = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T))])
    room = 24.0 * panel.figure.dpi / 72.0
    if run[-1] < 3 * room:
        return
    spot, ahead = (np.array([np.interp(at, run, pixels[:, i]) for i in (0, 1)]) for at in (room, 1.3 * room))
    angle = float(np.degrees(np.arctan2(*(ahead - spot)[::-1])))
    x, y = panel.transData.inverted().transform(spot)
    panel.text(
        x,
        y,
        text,
        rotation=angle,
        rotation_mode="anchor",
        ha="center",
        va="center",
        fontsize=9,
        path_effects=HALO,
        zorder=6,
    )


def _bar(figure: Figure, axes: Sequence[Axes], levels: Array, norm: LogNorm) -> None:
    bar = figure.colorbar(ScalarMappable(norm, _GREYS), ax=list(axes), aspect=bar_aspect(axes), pad=0.02)
    bar.set_label("loss (nats / token)")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(levels[::2].tolist())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))


def _explain(figure: Figure, maps: Sequence[LossMap], narrow: bool) -> None:
    entries: list[dict[str, Any]] = [
        {"color": INK, "marker": "o", "mfc": "#bbbbbb", "ls": "", "label": "runs, shade is the observed loss"},
        {"color": INK, "ls": ":", "lw": 1.2, "label": "equal compute (FLOPs)"},
    ]
    if any(m.path is not None for m in maps):
        entries.append({"color": INK, "lw": 2.4, "label": "optimal path, 95 % band"})
        entries.append({"color": INK, "lw": 2.4, "ls": (0, (3, 1.5)), "label": "beyond the tested compute"})
    legend(figure, entries, 1 if narrow else len(entries))
