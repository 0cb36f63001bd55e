"""The questions a reader brings, each answered in one card: verdict, 95 % interval, validated range."""

from __future__ import annotations

from analysis.notation import compute_text, parameter
from analysis.page import Card, paragraph
from analysis.result import FitResult
from analysis.study import Study
from analysis.table import RunTable
from analysis.verdicts import (
    Comparison,
    difference_text,
    forms_text,
    headline,
    multiplier_text,
    range_text,
)

GOAL_HELD_OUT = 2.0


def cards(table: RunTable, study: Study) -> list[str]:
    """Which group is better, how loss falls, whether E is found, whether it predicts, whether runs learned to look."""
    target = study.targets[0]
    found: list[Card | None] = [_pair_card(c) for c in study.comparisons if c.target == target]
    found += [_law_card(fit) for group in study.groups if (fit := study.main_form(group, target)) is not None]
    found += [_entropy_card(study), _prediction_card(study, target), _plateau_card(table, study)]
    head = paragraph(f"For the loss called {target}; every interval is 95 %.", "soft")
    return [head, *(card.html() for card in found if card is not None)]


def _pair_card(c: Comparison) -> Card:
    question = f"{c.left} or {c.right} at equal compute?"
    if c.status != "ok":
        shown = ", ".join(c.refused[:6]) + (" ..." if len(c.refused) > 6 else "")
        return Card(question, headline(c), note=f"on the plateau: {shown}" if shown else "", alarm=True)
    label, number = difference_text(c)
    note = "; ".join(part for part in (multiplier_text(c), forms_text(c)) if part)
    return Card(question, headline(c), (number,), label, range_text(c), note)


def _law_card(fit: FitResult) -> Card:
    verdict = "size and data exponents not told apart"
    alpha, beta = fit.ci.get("alpha"), fit.ci.get("beta")
    if alpha is not None and beta is not None and alpha.known and beta.known:
        if alpha.low > beta.high:
            verdict = "falls faster with size than with data"
        elif beta.low > alpha.high:
            verdict = "falls faster with data than with size"
    sizes, tokens = (" to ".join(map(compute_text, span)) for span in (fit.size_range, fit.tokens_range))
    quality = "" if fit.r2_log_excess is None else f"R2 of ln excess {fit.r2_log_excess:.4f}; "
    form = "E fixed to the known entropy" if fit.form == "known" else "E fitted"
    return Card(
        f"How does the loss of {fit.group} fall?",
        verdict,
        tuple(f"{name} {parameter(fit, name)}" for name in ("alpha", "beta")),
        "exponents of N and D",
        f"N {sizes}, D {tokens}",
        f"{quality}{form}; {fit.n_rows} runs of {fit.n_sizes} sizes, {fit.n_clusters} independent trunks",
        alarm=bool(fit.unidentified),
    )


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
    ratios = [f.min_excess_ratio for f in fits if f.min_excess_ratio is not None]
    tested = f"lowest losses {100 * min(ratios):.0f} to {100 * max(ratios):.0f} % above E" if ratios else ""
    truth = f" (known: {shown[0].known_entropy:.4f})" if shown else ""
    numbers = tuple(f"{f.group} {parameter(f, 'E')}" for f in shown)
    note = (
        ""
        if len(inside) == len(fits)
        else ("E is an extrapolation from these losses; the reason of each fit stands in the tables below")
    )
    question = "Does a fit with E free find the known entropy?"
    return Card(question, verdict, numbers, f"fitted E{truth}", tested, note, alarm=len(inside) < len(fits))


def _prediction_card(study: Study, target: str) -> Card | None:
    fits = [f for g in study.groups if (f := study.main_form(g, target)) is not None and "size" in f.holdouts]
    if not fits:
        return None
    held = [(f.group, f.holdouts["size"]) for f in fits]
    worst = max(h.mean_error for _, h in held)
    numbers = tuple(f"{group} {h.mean_error:.1f} % (max {h.max_error:.1f} %)" for group, h in held)
    steps = ", ".join(sorted({f"{h.distance:.1f}x" for _, h in held}))
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
