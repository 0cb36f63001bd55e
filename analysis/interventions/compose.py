"""Ready-made blocks that all method pages share: opening and verdicts; tables and pictures by name from here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.interventions.blocks import Block, Bullets, Heading, Text, Verdict
from analysis.interventions.figures import bars_figure, curves_figure, forest_figure, multiplier_figure
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import amount_text, gap_text
from analysis.interventions.paired import Paired
from analysis.interventions.rows import Data
from analysis.interventions.tables import (
    Where,
    arms_table,
    law_table,
    means_table,
    multiplier_table,
    paired_table,
)

__all__ = ["Where", "arms_table", "bars_figure", "curves_figure", "forest_figure", "law_table", "means_table",
           "multiplier_figure", "multiplier_table", "multiplier_verdict", "opening", "paired_table",
           "paired_verdict"]  # fmt: skip


def opening(data: Data, verdicts: Sequence[Verdict], limits: Sequence[str]) -> list[Block]:
    """The start of every page: verdicts, the claim and its source, the arms, what it was measured on, its limits."""
    study = data.study
    return [
        *verdicts,
        Heading("What was claimed"),
        Text(study.claim),
        Heading("The arms"),
        arms_table(data),
        Heading("What it was measured on"),
        Text(f"{study.measured_on} The intervention acts on: {study.acts_on}."),
        Heading("Where it stops holding"),
        Bullets(tuple(limits)),
    ]


def multiplier_verdict(
    worth: Multiplier, question: str, note: str = "", expected: Sequence[str] = ("better", "no effect")
) -> Verdict:
    """A verdict box from a multiplier curve: the sentence, the multiplier at the largest cost both were tested at, or
    the strongest bound.

    expected: outcomes (``Multiplier.outcome``) that do not contradict the claim; any other is marked as an alarm.
    """
    item, at = worth.headline()
    index = worth.strongest_bound() if item is None else int(np.flatnonzero(worth.cost == at)[0])
    numbers: tuple[str, ...] = ()
    if index is not None:
        numbers = (f"{worth.text(index)} at {amount_text(float(worth.cost[index]))} {worth.unit}",)
    note = " ".join(part for part in (note, worth.caution) if part)
    tested = worth.span(np.ones(len(worth.cost), dtype=bool))
    total = worth.axis.startswith("total cost")
    label = "multiplier at equal total cost, 95 %" if total else f"multiplier in {worth.unit}, 95 %"
    return Verdict(
        question, worth.sentence(), numbers, label, f"{tested} of {worth.arm}; {worth.basis}", note,
        worth.outcome not in expected,
    )  # fmt: skip


def paired_verdict(
    gap: Paired, question: str, note: str = "", expected: Sequence[str] = ("better", "unresolved")
) -> Verdict:
    """A verdict box from a paired difference. expected: outcomes (``Paired.outcome``) that are no alarm."""
    on = f"{gap.control} on {gap.metric.bare}"
    words = {
        "better": f"{gap.arm} is better than {on}.",
        "worse": f"{gap.arm} is worse than {on}.",
        "unresolved": f"No effect resolved: {gap.arm} against {on}, the interval holds 0.",
        "one seed": f"No verdict: {gap.arm} against {on} has one seed, so a difference and no interval.",
    }
    family = f", 95 % for all {gap.comparisons} comparisons" if gap.comparisons > 1 else ", 95 %"
    tested = f"{gap.difference.n} paired seeds; better in {gap.wins}, worse in {gap.losses}"
    return Verdict(
        question, words[gap.outcome], (gap_text(gap.corrected),), f"difference{family}", tested, note,
        gap.outcome not in expected,
    )  # fmt: skip
