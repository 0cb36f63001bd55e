"""Bootstrap clouds: pairs of parameters over all resamples, with 95 % regions, the fit itself, and the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from scipy import ndimage, stats

from analysis.engine.jet import Array
from analysis.plots.inputs import Span, columns, left_out_text
from analysis.plots.style import ALARM, INK, footnote, legend, log_axis, panel_grid, sentence, styled

_CLOUD, _REGION = "#0072B2", "#D55E00"
_CELLS, _ENOUGH = 72, 300
_MOST_POINTS = 800
_AT_BOUND = 1e-6


def bootstrap_clouds(
    draws: Mapping[str, ArrayLike],
    best: Mapping[str, float],
    pairs: Sequence[tuple[str, str]],
    *,
    log: Sequence[str] = (),
    bounds: Mapping[str, Span] | None = None,
    units: Mapping[str, str] | None = None,
    narrow: bool = False,
) -> Figure:
    """One panel per pair (x, y): the draws (B,) of both, the fit, and a region around 95 % of the draws.

    The region follows the cloud's own shape from 300 draws on; below, it is an ellipse of their covariance (in logs
    where ``log`` says so). bounds: limits of the search, drawn where draws come near. units: such as {"E": "nats"}.
    Raises ``ValueError`` for a pair that names no draws.
    """
    bounds, units = bounds or {}, units or {}
    for name in {name for pair in pairs for name in pair} - set(draws):
        raise ValueError(f"no draws of {name!r}; there are {', '.join(draws)}")
    clouds = [_pair(draws, pair, log) for pair in pairs]
    if not any(len(cloud["x"]) > 1 for cloud in clouds):
        return sentence("Fewer than two finite resamples: no cloud to draw.", narrow)
    with styled():
        figure, axes = panel_grid(len(pairs), 3, narrow, 3.4)
        for panel, (x, y), cloud in zip(axes, pairs, clouds, strict=True):
            line = _draw_cloud(panel, cloud, (x in log, y in log))
            _draw_best(panel, best.get(x), best.get(y))
            for name, axis in ((x, "x"), (y, "y")):
                _finish_axis(panel, axis, name, units.get(name, ""), name in log)
                _draw_bounds(panel, axis, bounds.get(name))
            _clip(panel, line, bounds.get(x), bounds.get(y))
        _explain(figure, draws, bounds, clouds, narrow)
        return figure


def _pair(draws: Mapping[str, ArrayLike], pair: tuple[str, str], log: Sequence[str]) -> dict[str, Array]:
    """Both columns under the names x and y."""
    positive = [axis for axis, name in zip("xy", pair, strict=True) if name in log]
    return columns(positive, x=draws[pair[0]], y=draws[pair[1]])


def _draw_cloud(panel: Axes, cloud: dict[str, Array], logs: tuple[bool, bool]) -> Artist | None:
    """Draws the points, and returns the line around 95 % of them."""
    x, y = cloud["x"], cloud["y"]
    some = np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).astype(int)
    panel.plot(x[some], y[some], "o", color=_CLOUD, ms=2.6, mec="none", alpha=0.35, zorder=2)
    if logs[0]:
        panel.set_xscale("log")
    if logs[1]:
        panel.set_yscale("log")
    flat = [np.log(v) if is_log else v for v, is_log in zip((x, y), logs, strict=True)]
    if len(x) < 4 or min(np.ptp(v) for v in flat) == 0:
        return None
    back = [np.exp if is_log else np.asarray for is_log in logs]
    if len(x) >= _ENOUGH:
        grid, density, level = _region(np.array(flat))
        place = [f(g) for f, g in zip(back, grid, strict=True)]
        return panel.contour(*place, density, [level], colors=_REGION, linewidths=1.7, zorder=3)
    ring = _ellipse(flat[0], flat[1])
    return panel.plot(back[0](ring[0]), back[1](ring[1]), color=_REGION, lw=1.7, zorder=3)[0]


def _region(points: Array) -> tuple[Array, Array, float]:
    """A smooth density of points (2, B) on a grid (2, cells, cells), and the level above which 95 % of the points lie.

    Smoothed along the principal axes, by Scott's width, so that a narrow ridge stays narrow.
    """
    centre = points.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(points))
    axes = vectors * np.sqrt(np.maximum(values, 1e-12 * values.max()))
    flat = np.linalg.solve(axes, points - centre)
    reach = np.minimum(np.abs(flat).max(axis=1), 5.0) + 1.0
    edges = [np.linspace(-r, r, _CELLS + 1) for r in reach]
    counts, _, _ = np.histogram2d(flat[0], flat[1], bins=edges)
    width = points.shape[1] ** (-1 / 6)
    density = ndimage.gaussian_filter(counts, [width * _CELLS / (2 * r) for r in reach])
    cell = [np.clip(np.searchsorted(e, v) - 1, 0, _CELLS - 1) for e, v in zip(edges, flat, strict=True)]
    middles = np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij")
    grid = centre[..., None] + np.tensordot(axes, np.array(middles), axes=1)
    return grid, density, float(np.percentile(density[cell[0], cell[1]], 5))


def _ellipse(x: Array, y: Array) -> Array:
    """Points (2, 120) of the 95 % ellipse of a normal cloud with the sample's mean and covariance."""
    values, vectors = np.linalg.eigh(np.cov(x, y))
    angle = np.linspace(0, 2 * np.pi, 120)
    circle = np.sqrt(stats.chi2.ppf(0.95, 2)) * np.sqrt(np.maximum(values, 0))[:, None] * [np.cos(angle), np.sin(angle)]
    return np.array([[x.mean()], [y.mean()]]) + vectors @ circle


def _draw_best(panel: Axes, x: float | None, y: float | None) -> None:
    if x is not None and y is not None and np.isfinite([x, y]).all():
        panel.plot([x], [y], "P", color=INK, ms=10, mec="white", mew=1.2, zorder=5)


def _finish_axis(panel: Axes, axis: str, name: str, unit: str, log: bool) -> None:
    text = f"{name} ({unit})" if unit else f"{name} (no unit)"
    panel.set(**{f"{axis}label": text})
    if log:
        log_axis(panel.xaxis if axis == "x" else panel.yaxis, "power" if _is_wide(panel, axis) else "plain", 5)


def _is_wide(panel: Axes, axis: str) -> bool:
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    return low < 1e-3 or high > 1e5


def _draw_bounds(panel: Axes, axis: str, bounds: Span | None) -> None:
    """A red line at a bound that lies within the view or that draws have reached, hatched behind it."""
    if bounds is None:
        return
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    line, span = (panel.axvline, panel.axvspan) if axis == "x" else (panel.axhline, panel.axhspan)
    for bound, beyond in ((bounds[0], low), (bounds[1], high)):
        if not np.isfinite(bound) or not low <= bound <= high:
            continue
        line(bound, color=ALARM, lw=1.6, zorder=4)
        span(*sorted((bound, beyond)), facecolor="none", edgecolor=ALARM, hatch="////", alpha=0.35, lw=0, zorder=1)
    panel.set(**{f"{axis}lim": (low, high)})


def _clip(panel: Axes, line: Artist | None, x: Span | None, y: Span | None) -> None:
    """Keep the smoothed region inside the bounds, where the draws are."""
    if line is None:
        return
    views = ((x, panel.get_xlim()), (y, panel.get_ylim()))
    spans = [view if b is None else (max(b[0], view[0]), min(b[1], view[1])) for b, view in views]
    corner = (spans[0][0], spans[1][0])
    size = [high - low for low, high in spans]
    line.set_clip_path(Rectangle(corner, size[0], size[1], transform=panel.transData))


def _explain(
    figure: Figure,
    draws: Mapping[str, ArrayLike],
    bounds: Mapping[str, Span],
    clouds: Sequence[dict[str, Array]],
    narrow: bool,
) -> None:
    stuck = {name: _share_at(np.asarray(draws[name], dtype=float), bounds[name]) for name in bounds if name in draws}
    entries = [
        {"color": _CLOUD, "marker": "o", "ms": 4, "ls": "", "label": f"resamples ({len(clouds[0]['x'])})"},
        {"color": _REGION, "lw": 2, "label": "holds 95 % of them"},
        {"color": INK, "marker": "P", "ms": 9, "mec": "white", "ls": "", "label": "the fit"},
    ]
    if any(share > 0 for share in stuck.values()):
        entries.append({"color": ALARM, "lw": 1.6, "label": "bound of the search"})
    legend(figure, entries, 2 if narrow else 4)
    lost = max(len(cloud["left_out"]) for cloud in clouds)
    at = [f"{100 * share:.0f} % of the resamples have {name} at a bound." for name, share in stuck.items() if share > 0]
    footnote(figure, " ".join([*at, left_out_text(lost, len(clouds[0]["x"]) + lost)]).strip(), narrow)


def _share_at(values: Array, bounds: Span) -> float:
    near = [np.abs(values - b) <= _AT_BOUND * max(abs(b), 1.0) for b in bounds if np.isfinite(b)]
    return float(np.mean(np.any(near, axis=0))) if near else 0.0
