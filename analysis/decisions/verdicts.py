"""A comparison of two groups and the words for it: headline, interval, tested range, and one whole sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.decisions.multiplier import MultiplierCurve
from analysis.notation import compute_text, number, percent, with_interval
from analysis.result import Interval


@dataclass(frozen=True)
class ExponentDifference:
    """One exponent of two groups: the two point estimates, right minus left with its 95 % interval, and the
    probability that it is larger for ``right`` (share of the draws)."""

    name: str
    left: float
    right: float
    difference: Interval
    probability: float


@dataclass(frozen=True)
class Comparison:
    """What the runs say about ``left`` and ``right`` on one target.

    status: "ok", "refused" (runs on the vision plateau), "no overlap" (of compute) or "no fit".
    outcome: "left", "right" (which reaches the lower loss), "crossing" or "unresolved"; "" unless status is "ok".
    compute (K,), difference (K,) and its simultaneous 95 % band low/high (K,): per cent of loss, right minus left.
    multiplier: compute of ``right`` per compute of ``left`` at equal loss, at ``multiplier_at`` FLOPs.
    multiplier_curve: the same at every budget, censored where one of them was not tested so far.
    by_form: outcome under each form, so that a verdict that hangs on one form can be seen.
    exponents: every exponent that both laws have, and a and b of the compute-optimal split where they have a formula.
    crossing: where the difference changes sign, when both signs are resolved. crosses_at: where the point fits cross,
    resolved or not; crossing_probability: share of the draws that cross anywhere in the tested range.
    at_edge (K,): budgets at which the best tested split of either group lies on the edge of its sizes or tokens.
    pairing: how runs of the two groups were paired in the resampling, or why they were not; "" when nobody asked.
    """

    left: str
    right: str
    target: str
    status: str
    outcome: str
    verdict: str
    form: str = ""
    compute: tuple[float, ...] = ()
    difference: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    crossing: Interval | None = None
    multiplier: Interval | None = None
    multiplier_at: float | None = None
    refused: tuple[str, ...] = ()
    by_form: dict[str, str] | None = None
    multiplier_curve: MultiplierCurve | None = None
    exponents: tuple[ExponentDifference, ...] = ()
    crosses_at: Interval | None = None
    crossing_probability: float | None = None
    pairing: str = ""
    at_edge: tuple[bool, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """Read back from JSON."""
        data: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name in ("crossing", "multiplier", "crosses_at"):
            data[name] = None if data.get(name) is None else Interval(**data[name])
        if data.get("multiplier_curve") is not None:
            data["multiplier_curve"] = MultiplierCurve.from_dict(data["multiplier_curve"])
        data["exponents"] = tuple(
            ExponentDifference(**{**item, "difference": Interval(**item["difference"])})
            for item in data.get("exponents", ())
        )
        return cls(**data)


def forms_disagree(c: Comparison) -> bool:
    """True when one form of the law finds one group lower and another form the other."""
    outcomes = set((c.by_form or {}).values())
    return {"left", "right"} <= outcomes


def signs(c: Comparison) -> list[int]:
    """+1 where the band says ``left`` is lower, -1 where ``right`` is, 0 where it includes no difference."""
    return [1 if low > 0 else -1 if high < 0 else 0 for low, high in zip(c.low, c.high, strict=True)]


def order(c: Comparison) -> tuple[str, str]:
    """(lower, higher) in loss; for a crossing, (lower at small compute, lower at large compute)."""
    first = next((s for s in signs(c) if s), 1) if c.outcome == "crossing" else -1 if c.outcome == "right" else 1
    return (c.left, c.right) if first > 0 else (c.right, c.left)


def shown_at(c: Comparison) -> int:
    """Index of the largest budget at which the difference is resolved, or the largest budget of all."""
    resolved = [i for i, s in enumerate(signs(c)) if s]
    return resolved[-1] if resolved and c.outcome != "unresolved" else len(c.compute) - 1


def headline(c: Comparison) -> str:
    """The verdict in a few words."""
    match c.status:
        case "refused":
            return f"refused: {len(c.refused)} runs sit on the vision plateau"
        case "no fit":
            return "no verdict: no form of the law was fitted to both with intervals"
        case "no overlap":
            return "no verdict: the compute tested overlaps by less than a factor of 2"
    first, second = order(c)
    match c.outcome:
        case "unresolved":
            return "no difference resolved" + (" (the forms of the law disagree)" if forms_disagree(c) else "")
        case "crossing":
            assert c.crossing is not None
            return f"{first} lower below {compute_text(c.crossing.value)} FLOPs, {second} above"
    return f"{first} reaches a lower loss than {second}"


def difference_text(c: Comparison) -> tuple[str, str]:
    """(what is measured, number with its 95 % band): how far the higher group lies above the lower, and where."""
    if c.outcome == "crossing" and c.crossing is not None:
        return "compute at which they cross", f"{with_interval_of_compute(c.crossing)} FLOPs"
    lower, higher = order(c)
    flip, at = (1.0 if lower == c.left else -1.0), shown_at(c)
    low, high = sorted((flip * c.low[at], flip * c.high[at]))
    number = f"{percent(flip * c.difference[at], low, high)} at {compute_text(c.compute[at])} FLOPs"
    return f"loss of {higher} over {lower}", number


def interval_text(c: Comparison) -> str:
    """The measured difference in one line, "-" where there is none."""
    return ": ".join(difference_text(c)) if c.status == "ok" else "-"


def with_interval_of_compute(item: Interval) -> str:
    """2.1e12 [1.1e12, 4.0e12]."""
    return f"{compute_text(item.value)} [{compute_text(item.low)}, {compute_text(item.high)}]"


def multiplier_text(c: Comparison) -> str:
    """How much compute the second group needs per compute of the first, or an empty string."""
    if c.status != "ok" or c.multiplier is None or c.multiplier_at is None:
        return ""
    at = compute_text(c.multiplier_at)
    return f"{c.right} needs {with_interval(c.multiplier)} x the compute of {c.left} for its loss at {at} FLOPs"


def bound_text(c: Comparison) -> str:
    """For groups that are not told apart: how large a difference could still hide in the range, or an empty string."""
    if c.status != "ok" or c.outcome != "unresolved" or forms_disagree(c) or not c.low:
        return ""
    low, high = min(c.low), max(c.high)
    error = max(abs(low), abs(high))
    return (
        f"indistinguishable in this range: {c.right} lies between {number(low, error)} and {number(high, error)} % "
        f"of the loss of {c.left}"
    )


def edge_text(c: Comparison) -> str:
    """A warning where a claimed difference is resolved on the edge of the tests, or an empty string."""
    claimed = [bool(s) for s in signs(c)] if c.outcome in ("left", "right", "crossing") else []
    on_edge = [edge for edge, held in zip(c.at_edge, claimed, strict=True) if held] if claimed and c.at_edge else []
    if not any(on_edge):
        return ""
    part = "all" if all(on_edge) else f"{sum(on_edge)} of {len(on_edge)}"
    return f"{part} budgets where it is resolved use the smallest or largest size or data tested"


def crossing_text(c: Comparison) -> str:
    """Where the fitted curves cross and how probable a crossing in the tested range is, or an empty string."""
    if c.crossing_probability is None:
        return ""
    text = f"the curves cross in the tested range with probability {c.crossing_probability:.2f}"
    return f"{text}, at {with_interval_of_compute(c.crosses_at)} FLOPs" if c.crosses_at is not None else text


def exponent_texts(c: Comparison) -> list[str]:
    """One line an exponent: alpha: early 0.301, late 0.290, late - early -0.011 [-0.06, +0.04], larger with 0.36."""
    lines = []
    for item in c.exponents:
        values = f"{c.left} {item.left:.3g}, {c.right} {item.right:.3g}"
        if not item.difference.known:
            lines.append(f"{item.name}: {values}; difference not identified ({item.difference.why})")
            continue
        lines.append(
            f"{item.name}: {values}; {c.right} - {c.left} {with_interval(item.difference)}, "
            f"larger for {c.right} with probability {item.probability:.2f}"
        )
    return lines


def range_text(c: Comparison) -> str:
    """The compute covered by both groups, and the part in which the difference is resolved."""
    if not c.compute:
        return "-"
    text = f"{compute_text(c.compute[0])} to {compute_text(c.compute[-1])} FLOPs"
    resolved = [x for x, s in zip(c.compute, signs(c), strict=True) if s]
    if c.outcome in ("left", "right") and len(resolved) < len(c.compute):
        text += f" (resolved from {compute_text(resolved[0])} to {compute_text(resolved[-1])})"
    return text


def forms_text(c: Comparison) -> str:
    """What the other forms of the law say, when they say something else."""
    differing = [form for form, outcome in (c.by_form or {}).items() if outcome != c.outcome and form != c.form]
    if not differing or forms_disagree(c):
        return ""
    words = {"unresolved": "no difference resolved", "crossing": "a crossing", "left": f"{c.left} lower"}
    said = [f"form {form}: {words.get((c.by_form or {})[form], f'{c.right} lower')}" for form in differing]
    return "; ".join(said)


def verdict(c: Comparison) -> str:
    """One sentence: the verdict, its interval, the tested range, and the forms that say otherwise."""
    if c.status == "refused":
        names = ", ".join(c.refused[:4]) + (" ..." if len(c.refused) > 4 else "")
        return f"{headline(c)} ({names})"
    if c.status != "ok":
        return headline(c)
    tested = f"tested from {range_text(c)}"
    limits = [tested, edge_text(c), forms_text(c), c.pairing]
    parts = [headline(c), bound_text(c), interval_text(c), multiplier_text(c), *limits]
    return "; ".join(part for part in parts if part)
