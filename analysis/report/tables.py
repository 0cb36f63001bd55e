"""The tables of a report: laws, parameters with three kinds of intervals, comparisons, budgets, what was left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.decisions.allocate import best_splits
from analysis.decisions.verdicts import (
    difference_text,
    exponent_texts,
    forms_text,
    headline,
    multiplier_text,
    range_text,
)
from analysis.fit import FORMS
from analysis.notation import compute_text, parameter, scale_with_interval, shown, with_interval
from analysis.report import page
from analysis.report.cards import formula_text, plans
from analysis.report.evidence import Evidence, Missing, Shown
from analysis.report.inputs import three_intervals
from analysis.result import FitResult, Interval
from analysis.study import Study, by_kind, entropy_verdict
from analysis.validation.rolling import claim_flag

_BUDGETS_INSIDE = 3
_BEYOND = (1.0, 10.0, 100.0)
_ALONE = (
    "On the law alone, wherever it leads: the largest tested compute, 10 and 100 times that. The last column says "
    "whether any hold-out supports it."
)


def comparisons(study: Study) -> list[str]:
    """One row a pair and target, and the differences in exponents under it."""
    header = (
        "target", "pair", "verdict", "loss of the higher", "tested range", "compute for equal loss", "other forms",
    )  # fmt: skip
    rows = [
        (
            c.target,
            f"{c.left} / {c.right}",
            headline(c),
            difference_text(c)[1] if c.status == "ok" else "-",
            range_text(c),
            multiplier_text(c) or "-",
            forms_text(c) or ("agree" if c.status == "ok" and len(c.by_form or {}) > 1 else "-"),
        )
        for c in study.comparisons
    ]
    if not rows:
        return []
    parts = [page.table(header, rows)]
    target = study.targets[0]
    lines = [(f"{c.left} / {c.right}", *_split(text)) for c in study.comparisons if c.target == target
             for text in exponent_texts(c)]  # fmt: skip
    if lines:
        parts += [f"<h3>Exponents of the pairs, {target}</h3>"]
        parts.append(page.table(("pair", "exponent", "values and difference"), lines, wrap=("values and difference",)))
    return parts


def _split(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(": ")
    return name, rest


_FIT_COLUMNS = (
    "group", "form", "E", "alpha", "beta", "gamma", "R2 of ln excess", "largest size held out", "A or K", "B",
    "a (N* ~ C^a)", "R2 of ln loss", "most tokens held out", "rows / trunks", "status",
)  # fmt: skip


def laws(study: Study) -> list[str]:
    """The formulas, with numbers where there are few fits, and one row a fit."""
    formulas = {f.form: f"{f.form}: {f.shape.formula} ({f.shape.source})" for f in study.fits}
    parts = [page.paragraph(text, "soft") for text in formulas.values()]
    main = [fit for fit in study.fits if fit.target == study.targets[0]]
    parts += [page.formula(f"{fit.group}, {fit.form}: {formula_text(fit)}") for fit in main if not fit.unidentified]
    usual = all(fit.form in FORMS for fit in study.fits)
    for target in study.targets:
        fits = [fit for fit in study.fits if fit.target == target]
        parts += [f"<h3>{page.escape(target)}</h3>"] if len(study.targets) > 1 else []
        parts.append(_without_empty(_FIT_COLUMNS, list(map(_usual_row, fits))) if usual else _any_table(fits))
    return parts


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table without columns that say nothing in any row."""
    kept = [i for i in range(len(header)) if not all(row[i] == "-" or row[i].startswith("- (") for row in rows)]
    return page.table([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _usual_row(fit: FitResult) -> tuple[str, ...]:
    a = with_interval(fit.derived["a"]) if "a" in fit.derived else "-"
    excess = f"{fit.r2_log_excess:.4f}" if fit.r2_log_excess is not None else f"- ({fit.r2_note})"
    return (
        fit.group,
        fit.form,
        parameter(fit, "E") if "E" in fit.params else f"{fit.known_entropy:.4f} (known)",
        *(parameter(fit, name) for name in ("alpha", "beta", "gamma")),
        excess,
        _held(fit, "size"),
        parameter(fit, "A" if "A" in fit.params else "K"),
        parameter(fit, "B"),
        "not identified" if a != "-" and {"alpha", "beta"} & fit.unidentified.keys() else a,
        f"{fit.r2_log_loss:.4f}",
        _held(fit, "tokens"),
        f"{fit.n_rows} / {fit.n_clusters}",
        fit.status.replace("_", " "),
    )


def _any_table(fits: Sequence[FitResult]) -> str:
    """A row a fit for any mix of laws: every parameter that one of them has."""
    names = list(dict.fromkeys(name for fit in fits for name in fit.params))
    derived = [name for name in dict.fromkeys(n for fit in fits for n in fit.derived) if name not in names]
    r2 = "R2 of ln loss" if all(fit.shape.positive for fit in fits) else "R2"
    header = ("group", "law", *names, *derived, r2, "largest size held out", "rows / runs", "status")
    rows = [
        (
            fit.group,
            fit.law,
            *(f"{fit.fixed[n]:g} (fixed)" if n in fit.fixed else parameter(fit, n) for n in names),
            *(shown(fit.derived[n], False) if n in fit.derived else "-" for n in derived),
            f"{fit.r2_log_loss:.4f}",
            _held(fit, "size"),
            f"{fit.n_rows} / {fit.n_clusters}",
            fit.status.replace("_", " "),
        )
        for fit in fits
    ]
    return _without_empty(header, rows)


def intervals(evidence: Evidence) -> list[str]:
    """Every parameter of the main fits with its bootstrap, sandwich and profile interval."""
    parts = []
    for group, one in evidence.items():
        if len(evidence) > 1:
            parts.append(f"<h3>{page.escape(group)}</h3>")
        header = ("parameter", "fitted", "bootstrap", "sandwich", "profile")
        rows = [_interval_row(one, name, found) for name, found in three_intervals(one).items()]
        rows += [(name, f"{value:g}", "fixed", "fixed", "fixed") for name, value in one.fit.fixed.items()]
        parts.append(page.table(header, rows, wrap=("bootstrap", "sandwich", "profile")))
        if isinstance(one.profiles, Missing):
            parts.append(page.paragraph(f"No profiles: {one.profiles.why}.", "soft"))
    return parts


def _interval_row(one: Shown, name: str, found: Sequence[Interval | None]) -> tuple[str, ...]:
    scale = name in one.fit.shape.log_names
    value = next(item.value for item in found if item is not None) if any(found) else one.fit.params[name]
    flat = name in one.fit.unidentified or (found[0] is not None and not found[0].known)
    return name, "not identified" if flat else f"{value:.4g}", *(_ends(item, scale) for item in found)


def _ends(item: Interval | None, scale: bool) -> str:
    if item is None:
        return "-"
    text = shown(item, scale)
    return text[text.index("[") :] if item.known and "[" in text else text


def entropies(study: Study) -> str:
    """Fitted E beside the known entropy."""
    rows = [
        (f.target, f.group, f.form, parameter(f, "E"), f"{f.known_entropy:.4f}", entropy_verdict(f))
        for f in study.fits
        if "E" in f.params and f.known_entropy is not None
    ]
    header = ("target", "group", "form", "fitted E", "known entropy", "reading")
    return page.table(header, rows, wrap=("reading",)) if rows else ""


def _held(fit: FitResult, by: str) -> str:
    held = fit.holdouts.get(by)
    return "-" if held is None else f"{held.mean_error:.2f} % (max {held.max_error:.2f} %)"


def budgets(study: Study, evidence: Evidence) -> list[str]:
    """Best splits inside the tests, what the law says at their upper end and beyond, and how far that was tested."""
    target, inside, beyond, reasons = study.targets[0], [], [], []
    for group, one in evidence.items():
        if not one.splits_budgets:
            reasons.append(f"{group}: law {one.fit.law} reads {', '.join(one.fit.shape.columns)}; it splits no budget.")
            continue
        inside += [] if one.given else _inside(group, one.fit)
        found = plans(one, [factor * one.fit.compute_range[1] for factor in _BEYOND])
        if isinstance(found, Missing):
            reasons.append(f"{group}: {found.why}.")
            continue
        for plan in found:
            rolled = None if isinstance(one.rolled, Missing) else one.rolled
            claim = claim_flag(one.fit, rolled, "C", plan.compute).text
            cells = [shown(item, True) for item in (plan.size, plan.tokens, plan.tokens_per_parameter)]
            beyond.append((group, compute_text(plan.compute), *cells, shown(plan.loss, False), claim))
    parts, loss = [], "loss" if target == "loss" else f"loss, {target}"
    if inside:
        header = ("group", "compute (FLOPs)", "parameters N*", "tokens D*", loss)
        parts.append(page.paragraph("Inside the tested compute only, with the FLOPs of these runs.", "soft"))
        parts.append(_lone(header, inside))
    if beyond:
        further = ("group", "compute (FLOPs)", "N*", "D*", "tokens / parameter", loss, "tested?")
        parts.append(page.paragraph(_ALONE, "soft"))
        parts.append(_lone(further, beyond, ("tested?",)))
    return parts + [page.paragraph(text) for text in reasons]


def _lone(header: Sequence[str], rows: Sequence[Sequence[str]], wrap: Sequence[str] = ()) -> str:
    """A table whose first column, the group, is left out where there is only one."""
    first = 1 if len({row[0] for row in rows}) == 1 else 0
    return page.table(header[first:], [row[first:] for row in rows], wrap)


def _inside(group: str, fit: FitResult) -> list[tuple[str, ...]]:
    rows = []
    for split in best_splits(fit, np.geomspace(*fit.compute_range, _BUDGETS_INSIDE + 2)[1:-1]):
        pair = (split.size, split.tokens)
        cells = [scale_with_interval(v) for v in pair]
        if split.at_edge:
            cells = [f"at the edge of the tests ({compute_text(v.value)})" for v in pair]
        rows.append((group, compute_text(split.compute), *cells, with_interval(split.loss)))
    return rows


def left_out(study: Study) -> list[str]:
    """Counts by kind first, then every row with its reason in a list that opens."""
    rows = [(e.run_id, e.group, e.where, e.reason) for e in study.exclusions]
    rows += [(f"{s.what}: {s.group} {s.target} {s.form}", s.group, s.target, s.reason) for s in study.skipped]
    if not rows:
        return [page.paragraph("Nothing: every row of the table is in every fit.")]
    kinds = by_kind(study.exclusions)
    counts = [(kind, str(len(items)), items[0].run_id, items[0].reason) for kind, items in kinds.items()]
    if study.skipped:
        first = study.skipped[0]
        label = f"{first.what}: {first.group} {first.target} {first.form}"
        counts.append(("not fitted", str(len(study.skipped)), label, first.reason))
    listing = page.table(("run or fit", "group", "left out of", "reason"), rows, wrap=("reason",))
    return [
        page.table(("kind", "count", "first of them", "its reason"), counts, wrap=("its reason",)),
        page.folded(f"all {len(rows)} entries, each with its reason", listing),
    ]
