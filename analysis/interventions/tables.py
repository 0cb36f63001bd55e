"""Tables that all method pages share: arms, means, paired differences, multipliers, laws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.interventions import lawcheck
from analysis.interventions.blocks import Table, table
from analysis.interventions.lawfit import ArmLaws
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, Multiplier
from analysis.interventions.numbers import amount_text, cost_text, estimate_text, gap_text
from analysis.interventions.paired import Estimate, Paired, means
from analysis.interventions.rows import Data, bare
from analysis.notation import parameter, shown

Where = Mapping[str, Any] | None


def arms_table(data: Data) -> Table:
    """Every arm: role, what it is, seeds, runs, FLOPs of a run, charged FLOPs."""
    rows = []
    for name in data.arms:
        mine, arm = data.where(name), data.arm(name)
        flops, charged = ([float(v) for v in mine.values(column)] for column in ("flops", "charged"))
        seeds = str(len(mine.seeds()))
        rows.append((name, arm.role, arm.what, seeds, str(len(mine.rows)), cost_text(flops), cost_text(charged)))
    header = ("arm", "role", "what it is", "seeds", "rows", "FLOPs of a run", "charged FLOPs")
    notes = [
        f"The reference arm is {data.control}. Charged: spent for the arm before its own run; part of every total cost."
    ]
    absent = [arm.name for arm in data.study.arms if arm.name not in data.arms]
    notes += [f"Without a row, and so on no picture: {', '.join(absent)}."] if absent else []
    return table(header, rows, "lllrrrr", notes, wrap=("what it is",))


def means_table(
    data: Data, metrics: Sequence[str] = (), arms: Sequence[str] | None = None, where: Where = None
) -> Table:
    """Mean of every metric with its 95 % t interval over seeds, one row an arm; (n) behind it where seeds differ."""
    chosen = [data.metric(name) for name in (metrics or [m.name for m in data.study.metrics])]
    names = list(arms or data.arms)
    found = {m.name: means(data, m.name, names, where) for m in chosen}
    counts = {e.n for one in found.values() for e in one.values()}
    rows = [
        (name, *(_mean_cell(found[m.name].get(name), len(counts) > 1) for m in chosen))
        for name in names
        if any(name in found[m.name] for m in chosen)
    ]
    header = ("arm", *(f"{m.label}, {m.better} is better" for m in chosen))
    seeds = f"{counts.pop()} seeds" if len(counts) == 1 else "n seeds"
    return table(header, rows, "l" + "r" * len(chosen), [f"Mean and 95 % t interval over {seeds}."])


def _mean_cell(item: Estimate | None, with_n: bool) -> str:
    return "-" if item is None else estimate_text(item, with_n)


_OUTCOMES = {"better": "better", "worse": "worse", "unresolved": "no difference resolved", "one seed": "one seed: none"}


def paired_table(gaps: Sequence[Paired]) -> Table:
    """Differences with intervals, plain and corrected for the family, wins and losses, verdicts."""
    rows = [
        (
            gap.arm,
            gap.control,
            gap.metric.label,
            gap_text(gap.difference),
            gap_text(gap.corrected),
            f"{gap.wins} / {gap.losses}" + (f" / {gap.ties}" if gap.ties else ""),
            f"{gap.sign_p:.2g}",
            _OUTCOMES[gap.outcome],
        )
        for gap in gaps
    ]
    several = max((gap.comparisons for gap in gaps), default=1)
    corrected = f"95 % for all {several}" if several > 1 else "95 %, alone"
    header = (
        "arm",
        "against",
        "metric",
        "difference, 95 %",
        corrected,
        "seeds better / worse",
        "sign test p",
        "verdict",
    )
    counts = sorted({gap.difference.n for gap in gaps})
    seeds = " to ".join(str(n) for n in ([counts[0], counts[-1]] if len(counts) > 1 else counts))
    notes = [
        f"Arm minus control, paired by seed (n = {seeds}), t intervals; the verdict is that of the interval for all "
        "differences together (Bonferroni). With so few seeds the sign test alone cannot reach 0.05 below n = 6."
    ]
    return table(header, rows, "lllrrrrl", notes)


def multiplier_table(curves: Sequence[Multiplier], rows: int = 6) -> Table:
    """Up to ``rows`` costs of every curve with intervals and marks."""
    cells = []
    for worth in curves:
        for k in np.unique(np.linspace(0, len(worth.cost) - 1, min(rows, len(worth.cost))).round().astype(int)):
            result = worth.result[k]
            whole = f"{worth.band_low[k]:.2g} to {worth.band_high[k]:.2g}" if np.isfinite(worth.band_low[k]) else "-"
            cells.append((
                worth.arm, f"{amount_text(float(worth.cost[k]))} {worth.unit}",
                f"{result:.4g}" if np.isfinite(result) else "-", worth.text(k),
                "-" if worth.mark[k] else whole,
                "at the edge of the tests" if worth.at_edge[k] else _MARKS[worth.mark[k]],
            ))  # fmt: skip
    metric = curves[0].metric if curves else "result"
    header = ("arm", "cost of the arm", metric, "multiplier, 95 %", "95 % for the whole curve", "remark")
    notes = [
        f"Cost of {w.control} over cost of {w.arm} for the same {bare(w.metric)}; above 1 {w.arm} is cheaper "
        f"({w.basis})."
        for w in curves
    ]
    return table(header, cells, "lrrrrl", notes)


_MARKS = {"": "", AT_LEAST: "the control never got there", AT_MOST: "the control was there at its smallest cost"}


def law_table(laws: ArmLaws) -> Table:
    """What the laws say of every arm: its worth in data under both laws, and how well it is described.

    Further columns check that one floor and one size term are enough (size of the residuals, and their mean over the
    runs with the most data, where a floor of an arm's own would show first), and that runs are independent.
    """
    fit = laws.fit
    names = [name for name in fit.shape.names if not name.startswith("B_")]
    numbers = [f"{n} {fit.fixed[n]:g} (known)" if n in fit.fixed else f"{n} {parameter(fit, n)}" for n in names]
    kinds = ("an exponent each", "one exponent") if laws.own_beta else ("one exponent", "an exponent each")
    worth = (f"worth in data, {kinds[0]}", f"the same, {kinds[1]}")
    header = ("arm", *worth, "residual (rms)", "at the most data", "seeds alike, p", "law")
    notes = [
        f"{fit.shape.formula}: {', '.join(numbers)}.",
        f"{laws.why} Worth in data: data of {laws.control} per datum of the arm at equal loss; intervals refit "
        f"{fit.n_clusters} resampled blocks of runs, a block being what the arms share (size, data, seed).",
        "An arm is missed when its runs with the most data lie off its law by more than chance (95 %, each by itself): "
        "its floor is then not the shared one, and its ladder says more than its law. Seeds alike: a small p says that "
        "all runs of one seed of the arm move together; the arm's intervals are wider the more they do.",
    ]
    return table(header, [_law_row(laws, arm) for arm in laws.arms], "lrrrrrl", notes)


def _law_row(laws: ArmLaws, arm: str) -> tuple[str, ...]:
    late = lawcheck.at_most_data(laws.sample, laws.fit, arm)
    other = laws.shared if laws.own_beta else laws.own
    worths, together = ["1 (the reference)"] * 2, "-"
    if arm != laws.control:
        worths = [shown(laws.data_multiplier(arm), False)]
        worths += ["-" if other is None else shown(laws.data_multiplier(arm, other), False)]
        chance = lawcheck.seed_effect(laws.sample, laws.fit, arm, laws.control).chance
        together = f"{chance:.2g}" if math.isfinite(chance) else "-"
    mine = lawcheck.residuals(laws.sample, laws.fit)[lawcheck.rows_of(laws.sample, arm)]
    spread = f"{100 * float(np.sqrt(np.mean(mine**2))):.2g} %"
    return arm, *worths, spread, f"{gap_text(late)} %", together, "missed" if lawcheck.is_missed(late) else "described"
