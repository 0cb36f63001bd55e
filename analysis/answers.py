"""The questions a reader brings, each answered in one card: verdict, 95 % interval, validated range."""

from __future__ import annotations

from analysis import page
from analysis.notation import compute_text, parameter
from analysis.result import FitResult
from analysis.study import Study
from analysis.table import RunTable
from analysis.verdicts import forms_text, headline, interval_text, multiplier_text, tested_text


def cards(table: RunTable, study: Study) -> list[str]:
    """Which group is better, how loss falls, whether E is found, whether it predicts, whether runs learned to look."""
    target = study.targets[0]
    parts = [page.paragraph(f"Headline target: {target}. Every interval is 95 %.", "soft")]
    parts += _pair_cards(study, target)
    parts += [_law_card(fit) for g in study.groups if (fit := study.main_form(g, target)) is not None]
    parts.append(_entropy_card(study))
    parts.append(_prediction_card(study, target))
    parts.append(_plateau_card(table, study))
    return [part for part in parts if part]


def _pair_cards(study: Study, target: str) -> list[str]:
    found = []
    for c in study.comparisons:
        if c.target != target:
            continue
        note = "; ".join(part for part in (multiplier_text(c), forms_text(c)) if part)
        if c.refused:
            note = "on the plateau: " + ", ".join(c.refused[:6]) + (" ..." if len(c.refused) > 6 else "")
        what = f"{c.left} or {c.right} at equal compute: {headline(c)}"
        found.append(page.verdict_card(what, interval_text(c), tested_text(c), note, alarm=c.status != "ok"))
    return found


def _law_card(fit: FitResult) -> str:
    interval = f"alpha {parameter(fit, 'alpha')}, beta {parameter(fit, 'beta')}"
    low, high = (f"{v:.2g}" for v in fit.tokens_range)
    smallest, largest = (compute_text(v) for v in fit.size_range)
    tested = f"N {smallest} to {largest}, D {compute_text(float(low))} to {compute_text(float(high))}"
    faster = "size and data exponents not separated"
    a, b = fit.ci.get("alpha"), fit.ci.get("beta")
    if a is not None and b is not None and a.known and b.known:
        if a.low > b.high:
            faster = "loss falls faster with size than with data"
        elif b.low > a.high:
            faster = "loss falls faster with data than with size"
    quality = "" if fit.r2_log_excess is None else f"R2 of ln excess {fit.r2_log_excess:.4f}; "
    form = "E fixed to the known entropy" if fit.form == "known" else "E fitted"
    note = f"{quality}{form}; {fit.n_rows} runs of {fit.n_sizes} sizes, {fit.n_clusters} independent trunks"
    return page.verdict_card(f"{fit.group}: {faster}", interval, tested, note, alarm=bool(fit.unidentified))


def _entropy_card(study: Study) -> str:
    fits = [f for f in study.fits if f.form == "free" and f.known_entropy is not None and "E" in f.ci]
    if not fits:
        return ""
    known = [f for f in fits if "E" not in f.unidentified]
    inside = [f for f in known if f.ci["E"].low <= (f.known_entropy or 0.0) <= f.ci["E"].high]
    if len(known) == len(fits):
        what = f"The free fit finds the known entropy in {len(inside)} of {len(fits)} fits"
    else:
        what = f"These runs do not identify E in {len(fits) - len(known)} of {len(fits)} free fits"
        what += f"; in {len(inside)} of the other {len(known)} its interval holds the truth" if known else ""
    shown = [f for f in fits if f.target == study.targets[0]]
    interval = ", ".join(f"{f.group} {parameter(f, 'E')}" for f in shown)
    truth = shown[0].known_entropy if shown else None
    ratios = [f.min_excess_ratio for f in fits if f.min_excess_ratio is not None]
    tested = f"lowest losses {100 * min(ratios):.0f} to {100 * max(ratios):.0f} % above E" if ratios else "-"
    note = "" if truth is None else f"known entropy of {study.targets[0]}: {truth:.4f} nats per token"
    return page.verdict_card(what, interval, tested, note, alarm=len(inside) < len(fits))


def _prediction_card(study: Study, target: str) -> str:
    found = [
        (f, f.holdouts["size"]) for g in study.groups if (f := study.main_form(g, target)) is not None and "size" in f.holdouts
    ]
    if not found:
        return ""
    worst = max(h.mean_error for _, h in found)
    what = f"Predicts a size it has not seen within {worst:.1f} % of the loss on average"
    each = ", ".join(f"{f.group} {h.mean_error:.1f} % (max {h.max_error:.1f} %)" for f, h in found)
    steps = ", ".join(sorted({f"{h.distance:.1f}x" for _, h in found}))
    return page.verdict_card(
        what, f"observed error, no interval: {each}", f"one step of {steps} in N beyond the fitted sizes",
        "fits without the largest size, asked for its losses", alarm=worst > 2.0,
    )


def _plateau_card(table: RunTable, study: Study) -> str:
    if "on_plateau" not in table.every_row:
        return ""
    refused = sum(len(runs) for runs in study.refused.values())
    total = len(table.every_row)
    if not refused:
        what = f"All {total} runs left the vision plateau"
        note = ""
    else:
        what = f"{refused} of {total} runs sit on the vision plateau and were refused"
        note = "; ".join(f"{group}: {', '.join(runs[:6])}" for group, runs in study.refused.items())
    tested = f"D from {compute_text(table.every_row[study.columns.tokens].min())} tokens"
    return page.verdict_card(what, "-", tested, note, alarm=bool(refused))
