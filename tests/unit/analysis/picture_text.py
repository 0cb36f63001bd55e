"""Whether the text of a picture can be read: nothing outside the picture, nothing on top of other text."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def assert_readable(figure: Figure) -> None:
    """Fail when a drawn string leaves the picture or covers another one."""
    figure.canvas.draw()
    boxes = visible_text_boxes(figure)
    assert boxes
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        for other, second in boxes[:i]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            tall = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert wide < 2 or tall < 3, f"{text!r} covers {other!r}"


def visible_text_boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """(text, extent in pixels) of every string that is drawn."""
    labels = [text for axes in figure.axes for text in _texts_of(axes)]
    labels += figure.texts
    for legend in figure.legends:
        labels += legend.get_texts()
    return [(t.get_text(), Text.get_window_extent(t)) for t in labels if t.get_text() and t.get_visible()]


def _texts_of(axes: Axes) -> list[Text]:
    labels = [axes.title, axes._left_title, *axes.texts]
    if not axes.axison:
        return labels
    low, high = axes.bbox.extents[:2] - 2, axes.bbox.extents[2:] + 2
    labels += [axes.xaxis.label, axes.yaxis.label]
    for tick in (t for axis in (axes.xaxis, axes.yaxis) for t in axis.get_major_ticks()):
        for label in (tick.label1, tick.label2):
            box = label.get_window_extent()
            middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
            shown = low[0] <= middle[0] <= high[0] or low[1] <= middle[1] <= high[1]
            labels += [label] if shown and label.get_visible() else []
    return labels
