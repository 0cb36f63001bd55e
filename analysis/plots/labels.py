"""Labels beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from analysis.engine.jet import Array
from analysis.plots.style import INK

HALO = [withStroke(linewidth=2.6, foreground="white")]
_ANGLES = (40, 140, -40, -140, 0, 180, 90, -90)
_REACHES = (9.0, 18.0, 30.0, 46.0)
_CLEAR = 2.5

Label = tuple[float, float, str]


def lay_out(figure: Figure) -> None:
    """Give every panel its final place, so that lengths on paper can be measured."""
    figure.draw_without_rendering()


def label_points(panel: Axes, labels: Sequence[Label], avoid: Array | None = None, colour: Any = INK) -> list[str]:
    """Write ``text`` near each (x, y, text), with a thin line to the point where it stands apart.

    avoid: (k, 2) points in data units that no label may cover. Call after ``lay_out`` and after everything else is
    plotted. Returns the texts for which there was no room, which are not drawn.
    """
    to_pixels = panel.transData.transform
    points = np.empty((0, 2)) if avoid is None or not len(avoid) else to_pixels(np.asarray(avoid, dtype=float))
    taken = [t.get_window_extent() for t in panel.texts if t.get_text()]
    left: list[str] = []
    middle = panel.bbox.y0 + panel.bbox.height / 2
    height = {label: float(to_pixels(label[:2])[1]) - middle for label in labels}
    # From the outside in, and away from the middle, so that the lines of neighbours do not cross.
    for x, y, text in sorted(labels, key=lambda label: -abs(height[label])):
        up = 1.0 if height[x, y, text] > 0 else -1.0
        label = _place(panel, (x, y), text, points, taken, colour, up)
        if label is None:
            left.append(text)
    return left


def _place(
    panel: Axes, point: tuple[float, float], text: str, points: Array, taken: list[Bbox], colour: Any, up: float
) -> Annotation | None:
    where: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "color": colour, "zorder": 6}
    for reach in _REACHES:
        for angle in _ANGLES:
            dx, dy = reach * np.cos(np.radians(angle)), up * reach * np.sin(np.radians(angle))
            side = "left" if dx > 1 else "right" if dx < -1 else "center"
            level = "bottom" if dy > 1 else "top" if dy < -1 else "center"
            label = panel.annotate(text, point, (dx, dy), ha=side, va=level, path_effects=HALO, **where)
            label.set_in_layout(False)
            box = label.get_window_extent()
            if _is_free(box, panel.bbox, points, taken):
                taken.append(box)
                _join(panel, point, (dx, dy), colour)
                return label
            label.remove()
    return None


def _join(panel: Axes, point: tuple[float, float], offset: tuple[float, float], colour: Any) -> None:
    """A thin line from the point to its text."""
    style = {"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
    panel.annotate("", point, offset, textcoords="offset points", arrowprops=style, zorder=5).set_in_layout(False)


def _is_free(box: Bbox, inside: Bbox, points: Array, taken: Sequence[Bbox]) -> bool:
    if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
        return False
    grown = box.padded(_CLEAR)
    if any(grown.overlaps(other) for other in taken):
        return False
    hit = (points[:, 0] > grown.x0) & (points[:, 0] < grown.x1) & (points[:, 1] > grown.y0) & (points[:, 1] < grown.y1)
    return not hit.any()
