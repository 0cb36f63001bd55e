"""The questions a reader brings, each answered in one card: verdict, 95 % interval, validated range."""

from __future__ import annotations

from analysis.decisions.verdicts import (
    Comparison,
    bound_text,
    crossing_text,
    difference_text,
    edge_text,
    forms_text,
    headline,
    multiplier_text,
    range_text,
)
from analysis.notation import compute_text, parameter, with_interval
from analysis.report.cards import approaches_card, budget_card, identified_card, law_card, validated_card
from analysis.report.evidence import Evidence
from analysis.report.page import Card, paragraph
from analysis.result import FitResult
from analysis.rows.table import RunTable
from analysis.study import Study

GOAL_HELD_OUT = 2.0
LIKELY_CROSSING = 0.1


def cards(table: RunTable, study: Study, evidence: Evidence) -> list[str]:
    """Which group is better, how loss falls, what is identified, whether it predicts, what a budget should buy, whether
    E is found, whether runs learned to look."""
    target = study.targets[0]
    found: list[Card | None] = [_pair_card(c) for c in study.comparisons if c.target == target]
    found += [law_card(one) for one in evidence.values()]
    found += [identified_card(evidence), validated_card(evidence), _prediction_card(study, target)]
    found += [budget_card(evidence), approaches_card(evidence), _entropy_card(study), _plateau_card(table, study)]
    called = "" if target == "loss" else f"For {target}. "
    head = paragraph(f"{called}Every interval is 95 %.", "soft")
    return [head, *(card.html() for card in found if card is not None)]


def _pair_card(c: Comparison) -> Card:
    question = f"{c.left} or {c.right} at equal compute?"
    if c.status != "ok":
        shown = ", ".join(c.refused[:6]) + (" ..." if len(c.refused) > 6 else "")
        return Card(question, headline(c), note=f"on the plateau: {shown}" if shown else "", alarm=True)
    label, number = difference_text(c)
    likely = c.outcome != "unresolved" and (c.crossing_probability or 0.0) >= LIKELY_CROSSING
    crossing = crossing_text(c) if likely else ""
    told = (bound_text(c), multiplier_text(c), _exponents(c), crossing, edge_text(c), forms_text(c), c.pairing)
    return Card(question, headline(c), (number,), label, range_text(c), "; ".join(part for part in told if part))


def _exponents(c: Comparison) -> str:
    """Differences of the exponents of N and D that are known, in a few words."""
    known = [item for item in c.exponents if item.difference.known and item.name in ("alpha", "beta")]
    parts = [f"{item.name} {with_interval(item.difference)}" for item in known]
    return f"exponents of {c.right} less those of {c.left}: {', '.join(parts)}" if parts else ""


def _entropy_card(study: Study) -> Card | None:
    fits = [f for f in study.fits if f.form == "free" and f.known_entropy is not None and "E" in f.ci]
    if not fits:
        return None
    known = [f for f in fits if "E" not in f.unidentified]
    inside = [f for f in known if f.ci["E"].low <= (f.known_entropy or 0.0) <= f.ci["E"].high]
    verdict = f"yes in {len(inside)} of {len(fits)} fits" if inside else "no"
    if len(known) < len(fits):
        verdict += f"; not identified in {len(fits) - len(known)}"
    if len(inside) < len(known):
        verdict += f"; wrong in {len(known) - len(inside)}"
    shown = [f for f in fits if f.target == study.targets[0]]
    note = (
        ""
        if len(inside) == len(fits)
        else ("E is an extrapolation from these losses; the reason of each fit stands in the tables below")
    )
    truth = f" (known: {shown[0].known_entropy:.4f})" if shown else ""
    numbers = tuple(f"{f.group} {parameter(f, 'E')}" for f in shown)
    question = "Does a fit with E free find the known entropy?"
    return Card(question, verdict, numbers, f"fitted E{truth}", _above(shown), note, alarm=len(inside) < len(fits))


def _above(fits: list[FitResult]) -> str:
    ratios = [f.min_excess_ratio for f in fits if f.min_excess_ratio is not None]
    return f"lowest losses {100 * min(ratios):.0f} to {100 * max(ratios):.0f} % above E" if ratios else ""


def _prediction_card(study: Study, target: str) -> Card | None:
    fits = [f for g in study.groups if (f := study.main_form(g, target)) is not None and "size" in f.holdouts]
    if not fits:
        return None
    held = [(f.group, f.holdouts["size"]) for f in fits]
    worst = max(h.mean_error for _, h in held)
    names = [f"{group} " if len(held) > 1 else "" for group, _ in held]
    numbers = tuple(
        f"{name}{h.mean_error:.1f} % (max {h.max_error:.1f} %)" for name, (_, h) in zip(names, held, strict=True)
    )
    steps = ", ".join(sorted({f"{h.distance:.3g}x" for _, h in held}))
    return Card(
        "Does it predict a size it has not seen?",
        f"within {worst:.1f} % of the loss on average",
        numbers,
        "error on the largest size, held out",
        f"one step of {steps} in N beyond the fitted sizes",
        alarm=worst > GOAL_HELD_OUT,
    )


def _plateau_card(table: RunTable, study: Study) -> Card | None:
    if "on_plateau" not in table.every_row:
        return None
    refused = sum(len(runs) for runs in study.refused.values())
    total = len(table.every_row)
    question = "Did every run leave the vision plateau?"
    tested = f"D from {compute_text(float(table.every_row[study.columns.tokens].min()))} tokens"
    if not refused:
        return Card(question, f"yes, all {total}", tested=tested)
    shown = "; ".join(f"{group}: {', '.join(runs[:6])}" for group, runs in study.refused.items())
    return Card(question, f"no: {refused} of {total} sit on it and are refused", tested=tested, note=shown, alarm=True)
