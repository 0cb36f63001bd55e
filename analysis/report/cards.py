"""Cards about single laws: what they say, what of it is identified, how far it was tested, what a budget should buy."""

from __future__ import annotations

from analysis.decisions.allocate import Allocation, allocate
from analysis.fit import FORMS
from analysis.laws.catalogue import describe
from analysis.notation import compute_text, parameter, scale_with_interval, shown, with_interval
from analysis.report.evidence import Evidence, Missing, Shown, attempted
from analysis.report.page import Card
from analysis.result import FitResult, Interval
from analysis.validation.rolling import TOLERANCE, validated_range

NO_GROUP = "all"
_NEXT = 10.0
_MOST_EXPONENTS = 5


def law_card(one: Shown) -> Card:
    """The formula with its numbers, the exponents, and where the rows lie."""
    fit = one.fit
    names = [name for name in fit.shape.exponents if name not in fit.fixed][:_MOST_EXPONENTS]
    if {"alpha", "beta"} <= set(names):
        verdict, label = _faster(fit), "exponents of N and D"
    else:
        verdict, label = f"as the law {fit.law}", "exponents and rates"
    open_ends = set(_open(one)) - fit.unidentified.keys()
    numbers = tuple(f"{name} {parameter(fit, name)}{', profile open' * (name in open_ends)}" for name in names)
    quality = f"R2 of ln L {fit.r2_log_loss:.4f}" if fit.shape.positive else f"R2 {fit.r2_log_loss:.4f}"
    if fit.r2_log_excess is not None:
        quality = f"R2 of ln excess {fit.r2_log_excess:.4f}"
    rows = f"{fit.n_rows} rows of {fit.n_clusters} independent runs"
    sizes = f", {fit.n_sizes} sizes" if fit.n_sizes is not None and fit.n_sizes < fit.n_rows / 2 else ""
    return Card(
        _question(fit),
        verdict,
        numbers,
        label,
        range_of(fit),
        f"{formula_text(fit)}; {form_words(fit)}{quality}; {rows}{sizes}",
        alarm=bool(fit.unidentified) or fit.status == "failed",
    )


def _question(fit: FitResult) -> str:
    if not {"N", "D", "C"} & set(fit.shape.columns):
        return "What does the law say?"
    return "How does the loss fall?" if fit.group == NO_GROUP else f"How does the loss of {fit.group} fall?"


def _faster(fit: FitResult) -> str:
    alpha, beta = fit.ci.get("alpha"), fit.ci.get("beta")
    if alpha is None or beta is None:
        return "no intervals: fit with --bootstrap to compare the exponents"
    if alpha.known and beta.known:
        if alpha.low > beta.high:
            return "falls faster with size than with data"
        if beta.low > alpha.high:
            return "falls faster with data than with size"
    return "size and data exponents not told apart"


def form_words(fit: FitResult) -> str:
    """What a form does with E, for the three usual forms."""
    if fit.form not in FORMS:
        return ""
    return "E fixed to the known entropy; " if fit.form == "known" else "E fitted; "


def formula_text(fit: FitResult) -> str:
    """The formula with fitted numbers, or without any where some of them mean nothing; and what is added."""
    if fit.unidentified:
        lost = ", ".join(fit.unidentified)
        return f"{fit.shape.formula} (no numbers, because they hang on {lost}, not identified)"
    text = describe(fit.shape, fit.params, fit.centre)
    if fit.entropy_is_added and fit.known_entropy is not None:
        text += f" with E_known = {fit.known_entropy:.4f}"
    return text


def range_of(fit: FitResult) -> str:
    """N 1.9e4 to 5.7e5, D 1.0e6 to 8.0e6; C only where the law has neither."""
    names = [name for name in fit.shape.columns if name in fit.ranges]
    spans = {name: fit.ranges[name] for name in names}
    return ", ".join(f"{name} {_end(low)} to {_end(high)}" for name, (low, high) in spans.items())


def _end(value: float) -> str:
    return compute_text(value) if abs(value) >= 1e4 else f"{value:.3g}"


def prefix(group: str, evidence: Evidence) -> str:
    """How a line names its group: not at all where there is only one."""
    return f"{group}: " if len(evidence) > 1 else ""


def identified_card(evidence: Evidence) -> Card:
    """Whether every parameter is known, by bootstrap, by profile and in the optimiser."""
    label = {group: prefix(group, evidence) for group in evidence}
    fits = {group: one.fit for group, one in evidence.items()}
    lost = [f"{label[g]}{name} ({why})" for g, fit in fits.items() for name, why in fit.unidentified.items()]
    bad = [f"{label[g]}the fit is {fit.status.replace('_', ' ')}" for g, fit in fits.items() if fit.status in _BAD]
    ends = [f"{label[g]}{', '.join(names)}" for g, one in evidence.items() if (names := _open(one))]
    checks = [f"{label[g]}{_optima(fit)}" for g, fit in fits.items()]
    if not any(fit.ci for fit in fits.values()):
        checks.append("no bootstrap was asked for, so only the profiles judge")
    question, note = "Is everything identified?", "; ".join(checks)
    if lost or bad:
        ends = [f"open profile: {end}" for end in ends]
        count = len({name for fit in fits.values() for name in fit.unidentified})
        verdict = f"no: {count} parameter{'s' if count > 1 else ''} cannot be read" if lost else "no: see the status"
        return Card(question, verdict, (*lost, *bad, *ends), "what is not, and why", note=note, alarm=True)
    if ends:
        verdict = "by resampling yes, but some profiles stay open"
        return Card(question, verdict, tuple(ends), "profile without an end", note=note, alarm=True)
    return Card(question, "yes, by every test made", ("no interval or profile runs into a bound",), "tests", note=note)


_BAD = ("failed", "at_bound")


def _open(one: Shown) -> list[str]:
    found = {} if isinstance(one.profiles, Missing) else {n: p.interval for n, p in one.profiles.items()}
    return [name for name, item in (found | one.fit.profile_ci).items() if not item.known]


def _optima(fit: FitResult) -> str:
    gap = "" if fit.gap is None else f", the second {100 * fit.gap:.2g} % worse"
    optima = "1 optimum" if fit.num_optima == 1 else f"{fit.num_optima} optima{gap}"
    return f"{optima}, condition {fit.condition:.2g}"


def validated_card(evidence: Evidence) -> Card:
    """How far beyond the fitted rows the rolling hold-outs stayed within 2 %."""
    question = "How far beyond the fitted runs does it predict?"
    rolled = {g: one.rolled for g, one in evidence.items() if not isinstance(one.rolled, Missing)}
    why = [f"{prefix(g, evidence)}{one.rolled.why}" for g, one in evidence.items() if isinstance(one.rolled, Missing)]
    if not rolled:
        return Card(question, "not tested", note="; ".join(why), alarm=True)
    reaches = {group: validated_range(found) for group, found in rolled.items()}
    column = next((c for c in ("C", "N", "D") if all(c in found for found in reaches.values())), "")
    least = min(found[column].factor if column else min(r.factor for r in found.values()) for found in reaches.values())
    verdict = f"to {_factor(least)} times the {_WORDS.get(column, 'columns')} it was fitted to"
    if least <= 1:
        verdict = f"not at all: the nearest hold-outs miss by more than {TOLERANCE:g} %"
    if any(reach.shared >= 0.5 for found in reaches.values() for reach in found.values()):
        why.append("most predicted rows belong to runs that were fitted too (checkpoints), which flatters the error")
    texts = [[f"{_factor(r.factor)}x {name} of {_factor(r.tested)}x tried" for name, r in found.items()]
             for found in reaches.values()]  # fmt: skip
    lines = [line for text in texts for line in text]
    if len(evidence) > 1:
        lines = [f"{group}: {', '.join(text)}" for group, text in zip(reaches, texts, strict=True)]
    rule = f"mean error within {TOLERANCE:g} % at every distance up to there, rolling hold-outs"
    note = "; ".join(why)
    return Card(question, verdict, tuple(lines), "validated reach", rule, note, least <= 1, "what counts as validated")


_WORDS = {"C": "compute", "N": "sizes", "D": "tokens"}


def _factor(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else compute_text(value)


def budget_card(evidence: Evidence) -> Card | None:
    """N*, D* and the loss at the largest tested compute; for a single group also at ten times that."""
    lines, reasons, first, lost = [], [], "", False
    factors = (1.0,) if len(evidence) > 1 else (1.0, _NEXT)
    for group, one in evidence.items():
        if not one.splits_budgets:
            continue
        found = plans(one, [factor * one.fit.compute_range[1] for factor in factors])
        if isinstance(found, Missing):
            reasons.append(f"{prefix(group, evidence)}{found.why}")
            continue
        lines += [f"{prefix(group, evidence)}{compute_text(p.compute)} FLOPs: {plan_text(p)}" for p in found]
        lost = lost or not found[0].size.known
        first = first or _ratio(found[0])
    if not lines and not reasons:
        return None
    given = sorted({f"{k} = {v:.4g}" for one in evidence.values() for k, v in one.given.items()})
    note = ["the second budget is ten times what was tested: an extrapolation of the law"] if len(factors) > 1 else []
    note += reasons + ([f"at {', '.join(given)}"] if given else [])
    question = "What should a budget buy?"
    verdict = first if len(evidence) == 1 else "the split that the law of each group calls best"
    return Card(question, verdict or "no answer", tuple(lines), "best N, D and the loss", note="; ".join(note),
                alarm=lost or not first)  # fmt: skip


def plans(one: Shown, budgets: list[float]) -> list[Allocation] | Missing:
    """The best use of each budget, or why there is none."""
    return attempted(lambda: allocate(one.fit, budgets, given=one.given))


def plan_text(plan: Allocation) -> str:
    """N* and D* with intervals and the loss; why not, where they are not identified."""
    if not plan.size.known:
        return f"not identified ({plan.size.why})"
    pair = f"N {scale_with_interval(plan.size)}, D {scale_with_interval(plan.tokens)}"
    return f"{pair}, loss {with_interval(plan.loss)}"


def _ratio(plan: Allocation) -> str:
    item = plan.tokens_per_parameter
    return f"about {scale_with_interval(item)} tokens per parameter" if item.known else "no split is identified"


def approaches_card(evidence: Evidence) -> Card | None:
    """Exponent a by every approach, and whether they agree with the fitted law; None where only the law gives one."""
    lines, apart, judged = [], [], 0
    for group, one in evidence.items():
        found = [] if isinstance(one.ways, Missing) else [(w.name, w.a) for w in one.ways.ways if w.a is not None]
        primary = next((item for name, item in found if name.startswith("3")), None)
        texts = [f"{name}: {_shown(item)}" for name, item in found]
        lines += texts if len(evidence) == 1 else [f"{group}, {'; '.join(texts)}"] if texts else []
        for name, item in found:
            if primary is not None and not name.startswith("3") and item.known and primary.known:
                judged += 1
                apart += [f"{group}, {name}"] if item.low > primary.high or item.high < primary.low else []
    if not judged:
        return None
    question = "Do the three approaches agree on N* ~ C^a?"
    verdict = f"no: {'; '.join(apart)} lies apart" if apart else "yes, every interval overlaps that of the fitted law"
    reasons = sorted({one.slices.why for one in evidence.values() if isinstance(one.slices, Missing)})
    return Card(question, verdict, tuple(lines), "exponent a", note="; ".join(reasons), alarm=bool(apart))


def _shown(item: Interval) -> str:
    return shown(item, False) if item.known else f"{item.value:.3g}, no interval ({item.why})"
