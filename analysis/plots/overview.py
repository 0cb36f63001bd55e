"""The pictures of a study of groups: loss against tokens and compute, residuals, and the vision plateau."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.decisions.allocate import frontier_curves
from analysis.plots.style import ALARM, FAINT, HELD_OUT, INK, label_ends, label_y, legend, log_axis, panels, styled
from analysis.report.marks import (
    FORM_WORDS,
    GATE_NATS,
    GATE_TOKENS,
    Colour,
    group_colour,
    short,
    size_colours,
)
from analysis.result import FitResult
from analysis.rows.table import RunTable, Sample
from analysis.study import Study


def loss_vs_tokens(
    samples: dict[str, Sample], fits: dict[str, FitResult], excess: bool = False, narrow: bool = False
) -> Figure:
    """Loss, or with ``excess`` loss above the known entropy on log axes, against tokens: one panel per group.

    Points are runs, lines the fitted law at each size, bands its 95 % interval where the fit has draws.
    """
    with styled():
        figure, axes = panels(len(samples), narrow, 3.9)
        labels = []
        for panel, (group, sample) in zip(axes, samples.items(), strict=True):
            floor = sample.entropy if excess and sample.entropy is not None else np.zeros(len(sample))
            colours = size_colours(sample.size)
            panel.set_xscale("log")
            panel.set_yscale("log" if excess else "linear")
            ends = []
            for size, colour in colours.items():
                rows = sample.size == size
                panel.plot(
                    sample.tokens[rows], (sample.loss - floor)[rows], "o", color=colour, ms=5, mec="white", mew=0.6
                )
                if group in fits:
                    x, y = _draw_curve(panel, fits[group], size, float(floor.mean()), colour)
                    ends.append((x, y, short(size), colour))
            _finish_tokens_panel(panel, group, sample, excess)
            labels.append(ends)
        for panel, ends in zip(axes, labels, strict=True):
            label_ends(panel, ends)
        label_y(axes, narrow, "excess over entropy (nats / token)" if excess else "validation loss (nats / token)")
        return figure


def _draw_curve(panel: Axes, fit: FitResult, size: float, floor: float, colour: Colour) -> tuple[float, float]:
    tokens = np.geomspace(*fit.tokens_range, 40)
    loss = fit.predict(size, tokens) - floor
    panel.plot(tokens, loss, color=colour, lw=1.6)
    if fit.draws is not None:
        low, high = fit.band(np.full(40, size), tokens)
        panel.fill_between(tokens, np.maximum(low - floor, 1e-4), high - floor, color=colour, alpha=0.16, lw=0)
    return float(tokens[-1]), float(loss[-1])


def _finish_tokens_panel(panel: Axes, group: str, sample: Sample, excess: bool) -> None:
    panel.set_title(group)
    panel.set_xlabel("training tokens D")
    log_axis(panel.xaxis, "words")
    if excess:
        panel.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 3.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.2g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    elif sample.entropy is not None:
        known = float(sample.entropy.mean())
        panel.axhline(known, color=INK, lw=1.1, ls=(0, (5, 3)))
        panel.annotate(
            f"known entropy {known:.3f}",
            (0.02, known),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )


def loss_vs_compute(
    samples: dict[str, Sample], fits: dict[str, FitResult], study: Study, target: str, narrow: bool = False,
    given: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Runs and fitted frontier of every group against FLOPs, and under it the difference to the first group.

    given: values of columns of the laws beyond N, D and C.
    """
    pairs = [c for c in study.comparisons if c.target == target and c.status == "ok" and c.left == study.groups[0]]
    with styled():
        count = 2 if pairs else 1
        size = (4.3, 3.6 * count) if narrow else (9.0, 3.4 * count)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        rows = list(figure.subplots(count, 1, sharex=True, squeeze=False).ravel())
        ends = []
        for group, sample in samples.items():
            colour = group_colour(group, study.groups)
            rows[0].plot(sample.compute, sample.loss, "o", color=colour, ms=4, alpha=0.4, mec="none")
            if group in fits:
                refused = group in study.refused
                x, y = _draw_frontier(rows[0], fits[group], colour, "--" if refused else "-", given)
                ends.append((x, y, f"{group} (refused)" if refused else group, colour))
        rows[0].set_xscale("log")
        rows[0].set_ylabel("validation loss (nats / token)")
        rows[0].set_title("lowest loss at each compute")
        label_ends(rows[0], ends, gap=0.08)
        if pairs:
            _draw_differences(rows[1], pairs, study)
        rows[-1].set_xlabel("training compute C (FLOPs)")
        log_axis(rows[-1].xaxis)
        return figure


def _draw_frontier(
    panel: Axes, fit: FitResult, colour: str, style: str, given: Mapping[str, float] | None
) -> tuple[float, float]:
    compute = np.geomspace(*fit.compute_range, 60)
    log = frontier_curves(fit, compute, given)
    use = np.isfinite(log[0])
    compute, log = compute[use], log[:, use]
    panel.plot(compute, np.exp(log[0]), color=colour, lw=2, ls=style)
    if len(log) > 1:
        low, high = np.percentile(np.exp(log[1:]), [2.5, 97.5], axis=0)
        panel.fill_between(compute, low, high, color=colour, alpha=0.17, lw=0)
    return float(compute[-1]), float(np.exp(log[0, -1]))


def _draw_differences(panel: Axes, pairs: Sequence, study: Study) -> None:
    ends = []
    for pair in pairs:
        colour = group_colour(pair.right, study.groups)
        panel.plot(pair.compute, pair.difference, color=colour, lw=2)
        panel.fill_between(pair.compute, pair.low, pair.high, color=colour, alpha=0.17, lw=0)
        ends.append((pair.compute[-1], pair.difference[-1], pair.right, colour))
    panel.axhline(0, color=INK, lw=1)
    panel.set_ylabel(f"loss against {pairs[0].left} (%)")
    panel.set_title(f"difference at equal compute\n(above 0: {pairs[0].left} is better)")
    panel.yaxis.set_major_locator(MaxNLocator(6))
    label_ends(panel, ends, gap=0.08)


def residuals(samples: dict[str, Sample], fits: dict[str, FitResult], narrow: bool = False) -> Figure:
    """(predicted - observed) / observed against observed loss: fitted rows, and rows of the largest size held out."""
    with styled():
        figure, axes = panels(len(fits), narrow, 3.4)
        for panel, (group, fit) in zip(axes, fits.items(), strict=True):
            sample = samples[group]
            usable = np.isin(np.array(sample.run_ids), fit.excluded, invert=True)
            observed = sample.loss[usable]
            panel.axhspan(-2, 2, color="#eeeeee", lw=0, zorder=0)
            panel.axhline(0, color=INK, lw=1)
            panel.plot(observed, 100 * (np.array(fit.fitted) / observed - 1), "o", color=FAINT, ms=4.5, mec="none")
            if held := fit.holdouts.get("size"):
                seen = np.array(held.observed)
                panel.plot(
                    seen, 100 * (np.array(held.predicted) / seen - 1), "D", color=HELD_OUT, mfc="white", ms=6, mew=1.5
                )
            panel.set_title(f"{group}, {FORM_WORDS.get(fit.form, fit.form).split(' (')[0]}")
            panel.set_xlabel("observed loss (nats / token)")
        label_y(axes, narrow, "predicted - observed (%)")
        entries: list[dict[str, Any]] = [
            {"color": FAINT, "marker": "o", "ls": "", "label": "fitted rows"},
            {
                "color": HELD_OUT,
                "marker": "D",
                "mfc": "white",
                "mew": 1.5,
                "ls": "",
                "label": "largest size, held out",
            },
            {"color": "#dddddd", "lw": 8, "label": "within 2 %"},
        ]
        legend(figure, entries, 1 if narrow else 3)
        return figure


def vision_plateau(table: RunTable, narrow: bool = False) -> Figure:
    """Colour excess of every run against its tokens, with the gate: below 1 nat by 1M tokens. Crosses were refused."""
    frame, columns = table.every_row, table.columns
    refused = {e.run_id for e in table.exclusions if e.kind == "plateau"}
    with styled():
        figure, axes = panels(len(table.groups), narrow, 3.5)
        for panel, group in zip(axes, table.groups, strict=True):
            rows = frame[frame[columns.group].astype(str) == group].sort_values(columns.tokens)
            colours = size_colours(rows[columns.size])
            panel.set_xscale("log")
            for _, trunk in rows.groupby(columns.cluster, sort=False):
                colour = colours[trunk[columns.size].iloc[0]]
                panel.plot(trunk[columns.tokens], trunk["colour_excess"], "-o", color=colour, ms=3.5, lw=1, alpha=0.9)
            crossed = rows[rows["run_id"].astype(str).isin(refused)]
            panel.plot(crossed[columns.tokens], crossed["colour_excess"], "x", color=ALARM, ms=9, mew=2.2)
            panel.plot(
                [GATE_TOKENS, max(frame[columns.tokens].max(), 2 * GATE_TOKENS)], [GATE_NATS] * 2, color=ALARM, lw=1.6
            )
            panel.plot([GATE_TOKENS] * 2, [GATE_NATS, GATE_NATS + 0.15], color=ALARM, lw=1.6)
            panel.annotate(
                "gate: below 1 nat by 1M tokens",
                (1, GATE_NATS),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="top",
                xytext=(0, -4),
                textcoords="offset points",
                fontsize=9,
                color=ALARM,
            )
            panel.set_title(f"{group}: {len(crossed)} refused of {len(rows)}")
            panel.set_xlabel("training tokens D")
            log_axis(panel.xaxis, "words")
            _size_bar(panel, colours)
        label_y(axes, narrow, "colour excess (nats / token)")
        top = float(np.nanmax(frame["colour_excess"].to_numpy(dtype=float)))
        for panel in axes:
            panel.set_ylim(0, 1.45 * max(top, GATE_NATS + 0.2))
        return figure


def _size_bar(panel: Axes, colours: dict[float, Colour]) -> None:
    handles = [Line2D([], [], color=c, lw=2, label=short(size)) for size, c in colours.items()]
    panel.legend(handles=handles, fontsize=9, loc="upper right", ncols=3, handlelength=1.2, columnspacing=1.0)
