"""Where a law misses: residuals against what could explain them, and their distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.engine.jet import Array
from analysis.plots.inputs import columns, left_out_text
from analysis.plots.labels import label_points, lay_out
from analysis.plots.style import ALARM, INK, SHADE, footnote, legend, log_axis, panel_grid, sentence, styled

Mask = NDArray[np.bool_]
_POINT = "#4a6f8a"
_MOST_LABELS = 5
_MOST_LETTERS = 56


@dataclass(frozen=True)
class Residuals:
    """Rows (n,) of one fit. residual: ln of observed over predicted loss; fitted: predicted loss in nats / token.

    run: the name of the run a row belongs to (rows of one run share it). sigma: robust standard deviation of residual;
    None: 1.4826 times the median absolute residual. size, tokens: None to leave that panel out. others: further
    columns by their axis label with a unit, such as "unique data U (tokens)". relative: False where ``residual`` is
    observed minus predicted of a response without a unit, such as an accuracy.
    """

    residual: ArrayLike
    fitted: ArrayLike
    size: ArrayLike | None
    tokens: ArrayLike | None
    run: Sequence[str]
    sigma: float | None = None
    outlier: float = 4.0
    others: Mapping[str, ArrayLike] = field(default_factory=dict)
    relative: bool = True


def residual_panels(rows: Residuals, title: str = "", narrow: bool = False) -> Figure:
    """Residuals in per cent against fitted loss, every column and run, one robust sigma shaded, and a normal QQ panel.

    Rows further than ``outlier`` sigmas from 0 are red, the largest five carry the name of their run.
    Raises ``ValueError`` when the columns differ in length.
    """
    if len(rows.run) != len(np.asarray(rows.residual)):
        raise ValueError(f"run has {len(rows.run)} names and residual {len(np.asarray(rows.residual))} values")
    part, shown = _checked(rows)
    count = len(part["residual"])
    if not count:
        return sentence("No row has a finite residual: nothing to draw.", narrow)
    names = np.delete(np.array(rows.run, dtype=object), part["left_out"].astype(int))
    unit = 100.0 if rows.relative else 1.0
    y = unit * part["residual"]
    sigma = unit * rows.sigma if rows.sigma else 1.4826 * float(np.median(np.abs(y)))
    far = np.abs(y) > rows.outlier * sigma if sigma > 0 else np.zeros(count, bool)
    with styled():
        figure, axes = panel_grid(len(shown) + 2, 3, narrow, 3.0)
        run_panel, qq_panel = axes[len(shown) :]
        _spread_run_panel(axes, narrow)
        runs = _order(names, part["size"] if "size" in part else part["fitted"])
        for panel, (name, label, form) in zip(axes, shown, strict=False):
            _draw_panel(panel, part[name], y, sigma, far)
            panel.set_xlabel(label)
            if form and part[name].min() > 0 and np.ptp(part[name]) > 0:
                panel.set_xscale("log")
                log_axis(panel.xaxis, form, 5)  # type: ignore[arg-type]
        _draw_panel(run_panel, runs, y, sigma, far)
        _name_runs(run_panel, names, runs, "N" if "size" in part else "the prediction")
        _draw_qq(qq_panel, y, sigma, far)
        against = [*axes[: len(shown)], run_panel]
        for i, panel in enumerate(against):
            if narrow or i % 3 == 0 or (panel is run_panel and len(shown) == 3):
                panel.set_ylabel("observed over predicted (%)" if rows.relative else "observed - predicted (no unit)")
        _explain(figure, f"{sigma:.2g}{' %' if rows.relative else ''}", int(far.sum()), rows.outlier, narrow)
        axes[0].set_title(title)
        _finish(figure, against, [*(part[name] for name, _, _ in shown), runs], y, far, names)
        footnote(figure, left_out_text(len(part["left_out"]), count + len(part["left_out"])), narrow)
        return figure


_Shown = tuple[str, str, str]


def _checked(rows: Residuals) -> tuple[dict[str, Array], list[_Shown]]:
    """Finite columns, and (name, axis label, form of a logarithmic axis or "") of those to draw residuals against."""
    given = {"residual": rows.residual, "fitted": rows.fitted}
    fitted = "predicted loss (nats / token)" if rows.relative else "predicted response (no unit)"
    shown: list[_Shown] = [("fitted", fitted, "plain" if rows.relative else "")]
    for name, label, values in (
        ("size", "model size N (parameters)", rows.size),
        ("tokens", "training data D (tokens)", rows.tokens),
    ):
        if values is not None:
            given[name] = values
            shown.append((name, label, "words"))
    for label, values in rows.others.items():
        given[label] = values
        wide = np.ptp(np.log(np.maximum(np.asarray(values, dtype=float), 1e-300)))
        shown.append((label, label, "power" if 1.0 < wide < 300.0 else ""))
    positive = [name for name in ("fitted",) if rows.relative] + [n for n in ("size", "tokens") if n in given]
    return columns(positive, **given), shown


def _spread_run_panel(axes: list[Axes], narrow: bool) -> None:
    """On wide figures the panel of runs takes the room of two."""
    if narrow or len(axes) != 5:
        return
    grid = axes[3].get_gridspec()
    assert grid is not None
    axes[3].set_subplotspec(grid[1, 0:2])
    axes[4].set_subplotspec(grid[1, 2:3])


def _order(names: Array, size: Array) -> Array:
    """1, 2, ... for every run in order of its mean size, one value a row."""
    distinct, code = np.unique(names.astype(str), return_inverse=True)
    mean = np.bincount(code, size) / np.bincount(code)
    rank = np.empty(len(distinct))
    rank[np.argsort(mean, kind="stable")] = np.arange(1, len(distinct) + 1)
    return rank[code]


def _draw_panel(panel: Axes, x: Array, y: Array, sigma: float, far: Mask) -> None:
    panel.axhspan(-sigma, sigma, color=SHADE, lw=0, zorder=0)
    panel.axhline(0, color=INK, lw=1)
    panel.plot(x[~far], y[~far], "o", color=_POINT, ms=4, mec="none", alpha=0.75)
    panel.plot(x[far], y[far], "X", color=ALARM, ms=7, mec="white", mew=0.6)
    panel.margins(y=0.14)


def _name_runs(panel: Axes, names: Array, runs: Array, order: str) -> None:
    distinct = dict(sorted(zip(runs, names, strict=True)))
    longest = max(len(str(name)) for name in distinct.values())
    panel.set_xlim(0.4, len(distinct) + 0.6)
    if len(distinct) * longest <= _MOST_LETTERS:
        panel.set_xticks(list(distinct), [str(name) for name in distinct.values()])
        panel.set_xlabel(f"run (in order of {order})")
    else:
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.set_xlabel(f"run (1 to {len(distinct)}, in order of {order})")


def _draw_qq(panel: Axes, y: Array, sigma: float, far: Mask) -> None:
    """Ordered residuals over sigma against normal quantiles; shaded where 95 % of normal samples put each point."""
    scale = sigma if sigma > 0 else 1.0
    order = np.argsort(y)
    count = len(y)
    rank = np.arange(1, count + 1)
    expected = stats.norm.ppf((rank - 0.375) / (count + 0.25))
    low, high = (stats.norm.ppf(stats.beta.ppf(q, rank, count + 1 - rank)) for q in (0.025, 0.975))
    panel.fill_between(expected, low, high, color=SHADE, lw=0, zorder=0)
    panel.plot(expected, expected, color=INK, lw=1)
    z, red = (y / scale)[order], far[order]
    panel.plot(expected[~red], z[~red], "o", color=_POINT, ms=4, mec="none", alpha=0.75)
    panel.plot(expected[red], z[red], "X", color=ALARM, ms=7, mec="white", mew=0.6)
    panel.set(xlabel="normal quantile (sigmas)", ylabel="residual (sigmas)")


def _explain(figure: Figure, sigma: str, num_far: int, outlier: float, narrow: bool) -> None:
    entries = [
        {"color": _POINT, "marker": "o", "ms": 5, "ls": "", "label": "rows"},
        {"color": "#dddddd", "lw": 8, "label": f"one robust sigma, {sigma} (QQ: 95 % of normal samples)"},
    ]
    if num_far:
        text = f"beyond {outlier:g} sigmas: {num_far}"
        entries.append({"color": ALARM, "marker": "X", "ms": 7, "mec": "white", "ls": "", "label": text})
    legend(figure, entries, 1 if narrow else 3)


def _finish(figure: Figure, axes: Sequence[Axes], xs: Sequence[Array], y: Array, far: Mask, names: Array) -> None:
    """Names of the largest outliers, each once in every panel of residuals."""
    lay_out(figure)
    worst = np.argsort(-np.abs(y))[: min(_MOST_LABELS, int(far.sum()))]
    for panel, x in zip(axes, xs, strict=False):
        label_points(panel, [(float(x[i]), float(y[i]), str(names[i])) for i in worst], np.column_stack([x, y]))
