"""What all pictures share: style, panels, legends, ticks of logarithmic axes, labels at curve ends, and SVG."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import (
    BoundaryNorm,
    Colormap,
    LinearSegmentedColormap,
    ListedColormap,
    LogNorm,
    Normalize,
    to_rgba,
)
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullFormatter, NullLocator

from analysis.report.marks import Colour, short, size_colours

INK, FAINT, HELD_OUT, ALARM, SHADE = "#222222", "#8a8a8a", "#7B3294", "#C00000", "#eeeeee"
BAND_ALPHA = 0.17
WIDE, NARROW = 10.6, 4.3
_MOST_SIZES = 8
# Paths and places of an SVG in points: the third decimal is invisible and half of the file.
_MARKER = re.compile(r'(<use xlink:href="[^"]+" x="[^"]+" y="[^"]+") style="([^"]+)"/>')
_LENGTHS, _DECIMALS = re.compile(r'\b(?:d|x|y)="[^"]+"'), re.compile(r"(\.\d\d)\d+")
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.7,
    "svg.fonttype": "path",
    "svg.hashsalt": "nmm",
    "legend.frameon": False,
}


def styled() -> AbstractContextManager[None]:
    """The style of every picture."""
    return matplotlib.rc_context(_STYLE)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document, text drawn as outlines, the same bytes for the same figure."""
    stream = io.StringIO()
    with styled():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _smaller(stream.getvalue())


def _smaller(svg: str) -> str:
    """The same picture in a third of the bytes: two decimals of a point, and the styles of markers as classes."""
    svg = _LENGTHS.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), svg)
    names: dict[str, str] = {}
    svg = _MARKER.sub(lambda found: f'{found[1]} class="{names.setdefault(found[2], f"m{len(names)}")}"/>', svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    return svg.replace("<defs>", f"<defs><style>{rules}</style>", 1)


def panels(count: int, narrow: bool, height: float, share: bool = True) -> tuple[Figure, list[Axes]]:
    """An empty figure with ``count`` panels in a row, or stacked when narrow; height in inches per panel."""
    return panel_grid(count, 1 if narrow else count, narrow, height, share)


def panel_grid(count: int, columns: int, narrow: bool, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty figure with ``count`` panels, ``columns`` in a row (one when narrow); height in inches per panel."""
    columns = 1 if narrow else min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    if narrow and isinstance(engine, ConstrainedLayoutEngine):
        # The layout does not count a tick label that reaches past the end of its axis.
        engine.set(rect=(0.0, 0.0, 0.975, 1.0))
    axes = figure.subplots(rows, columns, sharex=share and not narrow, sharey=share, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    for panel in axes[:count]:
        panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure, list(axes[:count])


def sentence(text: str, narrow: bool = False) -> Figure:
    """A figure that says in words why there is nothing to draw."""
    with styled():
        figure, (panel,) = panels(1, narrow, 1.4)
        panel.axis("off")
        broken = "\n".join(textwrap.wrap(text, 42 if narrow else 96))
        panel.text(0.0, 0.5, broken, transform=panel.transAxes, va="center", color=INK)
        return figure


def legend(figure: Figure, entries: Sequence[dict[str, Any]], columns: int) -> None:
    """A legend above the panels, in reading order; an entry holds the keywords of a line and its ``label``."""
    handles = [Line2D([], [], **entry) for column in range(columns) for entry in entries[column::columns]]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9.5, handlelength=2.4)


def footnote(figure: Figure, text: str, narrow: bool = False) -> None:
    """A remark under all panels; nothing when it is empty."""
    if text:
        broken = "\n".join(textwrap.wrap(text, 56 if narrow else 140))
        figure.supxlabel(broken, x=0.01, ha="left", fontsize=9, color=INK)


def readable(colour: Colour | str) -> Colour:
    """The colour, darkened where text in it would be too light on white."""
    red, green, blue, _ = to_rgba(colour)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    shade = min(1.0, 0.52 / max(light, 1e-9))
    return red * shade, green * shade, blue * shade, 1.0


def label_y(axes: Sequence[Axes], narrow: bool, text: str) -> None:
    """One label for a row of panels that share their y axis; one each when they are stacked."""
    for panel in axes if narrow else axes[:1]:
        panel.set_ylabel(text)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Colour | str]], gap: float = 0.062) -> None:
    """Labels to the right of curve ends (x, y, text, colour), pushed apart so that none overlap.

    Called when everything is plotted: heights are fractions of the final limits, which shared axes have in common.
    """
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((to_axes.transform((x, y))[1], x, y, text, colour) for x, y, text, colour in ends)
    heights = np.array([p[0] for p in placed])
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    if len(heights):
        heights -= max(0.0, heights[-1] - 1.0)
    for height, (_, x, y, text, colour) in zip(heights, placed, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.02, height),
            textcoords="axes fraction",
            color=readable(colour),
            va="center",
            fontsize=9.5,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "shrinkA": 2,
                "shrinkB": 2,
                "relpos": (0.0, 0.5),
            },
            annotation_clip=False,
        )


class _LogTicks(Locator):
    """At most ``most`` round ticks, whatever the span: linear steps, then 1-2-5, 1-3, whole decades, every k-th."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self) -> Any:
        assert self.axis is not None, "a locator is asked only after it was given to an axis"
        low, high = sorted(self.axis.get_view_interval())
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        if not 0 < vmin < vmax < math.inf:
            return []
        if math.log10(vmax / vmin) < 0.7:
            ticks = MaxNLocator(self.most, steps=[1, 2, 2.5, 5, 10]).tick_values(vmin, vmax)
            return [t for t in ticks if vmin <= t <= vmax]
        decades = range(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            ticks = [part * 10.0**k for k in decades for part in parts if vmin <= part * 10.0**k <= vmax]
            if len(ticks) <= self.most:
                return ticks
        return ticks[:: math.ceil(len(ticks) / self.most)]


class _LogWords(Formatter):
    """19k and 3.4B for "words"; 0.25 for "plain"; for "power" 10^19 where all ticks are decades, else 2e19."""

    def __init__(self, form: Literal["words", "plain", "power"]) -> None:
        self.form = form

    def __call__(self, x: float, pos: int | None = None) -> str:
        if self.form == "words":
            return short(x)
        if self.form == "plain":
            return f"{x:g}"
        if all(abs(math.log10(t) % 1) in (0.0, 1.0) for t in self.locs if t > 0):
            return f"$10^{{{round(math.log10(x))}}}$"
        mantissa, power = f"{x:.2e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"


def log_axis(axis: Any, form: Literal["words", "plain", "power"] = "power", most: int = 6) -> None:
    """Readable ticks on a logarithmic axis of any span."""
    axis.set_major_locator(_LogTicks(most))
    axis.set_major_formatter(_LogWords(form))
    axis.set_minor_formatter(NullFormatter())


def size_scale(sizes: Iterable[float]) -> tuple[Normalize, Colormap]:
    """How sizes become colours, light for small, dark for large: by rank up to 8 sizes, by their logarithm beyond."""
    found = size_colours(sizes)
    ordered = list(found)
    if len(ordered) > _MOST_SIZES:
        colours = LinearSegmentedColormap.from_list("sizes", list(size_colours(range(8)).values()))
        return LogNorm(ordered[0], ordered[-1]), colours
    edges = np.sqrt(np.array(ordered[:-1]) * np.array(ordered[1:]))
    return BoundaryNorm([ordered[0] / 2, *edges, ordered[-1] * 2], len(ordered)), ListedColormap(list(found.values()))


def bar_aspect(axes: Sequence[Axes]) -> float:
    """Length over width of a colour bar beside these panels, so that it is equally thin beside one row and many."""
    rows = {panel.get_subplotspec().rowspan.start for panel in axes}  # type: ignore[union-attr]
    return 28.0 * len(rows)


def size_bar(figure: Figure, axes: Sequence[Axes], sizes: Iterable[float]) -> None:
    """A colour bar of model sizes to the right of all panels."""
    ordered = sorted(set(sizes))
    norm, colours = size_scale(ordered)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), aspect=bar_aspect(axes), pad=0.02)
    bar.set_label("model size N (parameters)")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    if len(ordered) > _MOST_SIZES:
        log_axis(bar.ax.yaxis, "words")
        return
    edges = np.asarray(norm.boundaries)  # type: ignore[attr-defined]
    bar.set_ticks(((edges[1:] + edges[:-1]) / 2).tolist(), labels=[short(size) for size in ordered])
    bar.ax.tick_params(axis="y", length=0)
