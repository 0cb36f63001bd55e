"""Two groups at equal compute: the difference, where it changes sign, and what it costs. Only where both were tested.

Shapes: B draws, K budgets. Index 0 of every (1 + B, K) curve is the point fit, the rest are widened draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.allocate import allocation_exponents, frontier_curves
from analysis.decisions.multiplier import at_edge, largest_observed, multiplier_curve
from analysis.decisions.optimum import has_closed_form
from analysis.decisions.paired import Keys, paired_fits
from analysis.decisions.verdicts import Comparison, ExponentDifference, forms_disagree, verdict
from analysis.engine.jet import Array
from analysis.fit import fit_law
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.uncertainty.bootstrap import bootstrap, pooled_noise
from analysis.uncertainty.draws import interval_from, probability, simultaneous_band

_BUDGETS = 21
_MIN_SPAN = 2.0
_SURE = 0.95
_LEAST_BUDGETS = 3
_FORM_ORDER = ("known", "free", "interaction")


def compare(
    left: Mapping[str, FitResult],
    right: Mapping[str, FitResult],
    names: tuple[str, str],
    target: str,
    refused: Sequence[str] = (),
    given: Mapping[str, float] | None = None,
    pairing: str = "",
    interior: bool = False,
) -> Comparison:
    """Compare two groups from their fits by form, each with bootstrap draws.

    Any law of N and D, of C alone, or with further columns whose values are ``given``. refused: run ids of either group
    that sit on the vision plateau; any at all refuses the comparison, because the runs that escaped are then a
    selection by outcome. pairing: a sentence on paired draws (``decisions.paired``); paired draws of the two groups
    belong together by their index. interior: leave out budgets at which the best tested split of either group lies on
    the edge of its sizes or tokens (unless too few remain): there a smaller smallest size alone wins.
    """
    if refused:
        return _without_numbers("refused", names, target, tuple(refused))
    order = [*_FORM_ORDER, *sorted(set(left) - set(_FORM_ORDER))]
    forms = [f for f in order if f in left and f in right and left[f].draws is not None and right[f].draws is not None]
    if not forms:
        return _without_numbers("no fit", names, target)
    found = {form: _compare_form(left[form], right[form], names, target, given, interior) for form in forms}
    main = found[forms[0]]
    if main.status != "ok":
        return main
    main = replace(main, form=forms[0], by_form={form: c.outcome for form, c in found.items()}, pairing=pairing)
    if forms_disagree(main):
        main = replace(main, outcome="unresolved", crossing=None)
    return replace(main, verdict=verdict(main))


def _without_numbers(status: str, names: tuple[str, str], target: str, refused: tuple[str, ...] = ()) -> Comparison:
    empty = Comparison(*names, target, status, "", "", refused=refused)
    return replace(empty, verdict=verdict(empty))


def _compare_form(
    left: FitResult, right: FitResult, names: tuple[str, str], target: str, given: Mapping[str, float] | None,
    interior: bool,
) -> Comparison:  # fmt: skip
    low = max(left.compute_range[0], right.compute_range[0])
    high = min(left.compute_range[1], right.compute_range[1])
    compute = np.geomspace(low, high, _BUDGETS) if high > low else np.array([])
    if high >= _MIN_SPAN * low:
        curves = frontier_curves(left, compute, given), frontier_curves(right, compute, given)
        inside = np.isfinite(curves[0][0]) & np.isfinite(curves[1][0])
        compute = compute[inside]
    if high < _MIN_SPAN * low or len(compute) < _LEAST_BUDGETS:
        return _without_numbers("no overlap", names, target)
    curves = curves[0][:, inside], curves[1][:, inside]
    edge = at_edge(left, compute, given) | at_edge(right, compute, given)
    if interior:
        kept = interior_budgets(edge, compute)
        curves, compute, edge = (curves[0][:, kept], curves[1][:, kept]), compute[kept], edge[kept]
    gap, below, above, draws = _difference(*curves)
    sign = np.where(below > 0, 1, np.where(above < 0, -1, 0))
    outcome = _outcome(sign, compute)
    curve = multiplier_curve(left, right, compute, given)
    multiplier, at = largest_observed(curve, right.group)
    crosses_at, chance = _crossing(compute, gap, draws)
    return Comparison(
        *names,
        target,
        "ok",
        outcome,
        "",
        compute=tuple(map(float, compute)),
        difference=tuple(map(float, 100 * np.expm1(gap))),
        low=tuple(map(float, 100 * np.expm1(below))),
        high=tuple(map(float, 100 * np.expm1(above))),
        crossing=crosses_at if outcome == "crossing" else None,
        multiplier=multiplier,
        multiplier_at=at,
        multiplier_curve=curve,
        exponents=exponent_differences(left, right),
        crosses_at=crosses_at,
        crossing_probability=chance,
        at_edge=tuple(map(bool, edge)),
    )


def interior_budgets(edge: NDArray[np.bool_], compute: Array) -> NDArray[np.bool_]:
    """Which budgets (K,) to compare at when those on an edge of the tests shall be left out: all, where less than a
    factor of 2 would remain."""
    inner = compute[~edge]
    enough = len(inner) >= _LEAST_BUDGETS and inner[-1] >= _MIN_SPAN * inner[0]
    return ~edge if enough else np.ones_like(edge)


def _difference(left: Array, right: Array) -> tuple[Array, Array, Array, Array]:
    """Difference of ln L (K,) with its simultaneous 95 % band, and the differences of the draws (B, K)."""
    gap = right[0] - left[0]
    count = min(len(left), len(right))
    draws = right[1:count] - left[1:count]
    draws = draws[np.isfinite(draws).all(axis=1)]
    return gap, *simultaneous_band(gap, draws), draws


def _outcome(sign: NDArray[np.int_], compute: Array) -> str:
    """Who is lower; a sign counts when it is resolved over at least a factor of 2 in compute."""
    left, right = (len(held) > 1 and held[-1] >= _MIN_SPAN * held[0] for held in (compute[sign > 0], compute[sign < 0]))
    if left and right:
        return "crossing"
    return "left" if left else "right" if right else "unresolved"


def _crossing(compute: Array, gap: Array, draws: Array) -> tuple[Interval | None, float]:
    """Compute at which the difference changes sign, with the percentile interval over the draws that cross, and the
    share of draws that do; None when the point fits do not cross."""

    def where(curve: Array) -> float:
        flips = np.nonzero(np.sign(curve[1:]) != np.sign(curve[:-1]))[0]
        if not len(flips):
            return float("nan")
        i = flips[0]
        share = curve[i] / (curve[i] - curve[i + 1])
        return float(np.log(compute[i]) + share * np.log(compute[i + 1] / compute[i]))

    many, point = np.array([where(curve) for curve in draws]), where(gap)
    chance = float(np.mean(np.isfinite(many)))
    if not np.isfinite(point) or not chance:
        return None, chance
    low, high = np.nanpercentile(many, [2.5, 97.5])
    why = "" if chance >= _SURE else f"{100 * (1 - chance):.0f} % of the draws do not cross in the tested range"
    ends = float(np.exp(min(low, point))), float(np.exp(max(high, point)))
    return Interval(float(np.exp(point)), *ends, not why, why), chance


def exponent_differences(left: FitResult, right: FitResult) -> tuple[ExponentDifference, ...]:
    """Right minus left for every exponent that both laws have, and for a and b where both have the closed form.

    Draw b of one group is subtracted from draw b of the other, so draws that were paired stay paired.
    """
    a, b = (_exponent_draws(fit) for fit in (left, right))
    found = []
    for name in (name for name in a if name in b):
        count = min(len(a[name]), len(b[name]))
        gap = b[name][:count] - a[name][:count]
        item = interval_from(gap, 1.0, log=False, what=name)
        flat = [fit.group for fit in (left, right) if name in fit.unidentified]
        if flat:
            item = replace(item, known=False, why=f"{name} of {' and '.join(flat)} is not identified")
        found.append(ExponentDifference(name, float(a[name][0]), float(b[name][0]), item, probability(gap[1:])))
    return tuple(found)


def _exponent_draws(fit: FitResult) -> dict[str, Array]:
    """(1 + B,) values of every exponent, the point first, draws stretched about it."""
    law = fit.shape
    theta = fit.theta[None] if fit.draws is None else np.concatenate([fit.theta[None], fit.draws])
    natural = law.to_natural(theta, fit.centre)
    found = {name: natural[:, law.names.index(name)] for name in law.exponents if name not in fit.fixed}
    if has_closed_form(law):
        pair = (natural[:, law.names.index(name)] for name in ("alpha", "beta"))
        found |= dict(zip(("a", "b"), allocation_exponents(*pair), strict=True))
    return {name: v[0] + fit.widening * (v - v[0]) for name, v in found.items()}


def compare_samples(
    left: Sample,
    right: Sample,
    form: str = "free",
    *,
    draws: int = 1000,
    seed: int = 0,
    keys: tuple[Keys, Keys] | None = None,
    delta: float | str = "auto",
    given: Mapping[str, float] | None = None,
    interior: bool = True,
) -> Comparison:
    """Fit one law to two groups, resample both, and compare.

    keys: what the runs of the groups share by row name (``decisions.paired.pair_keys``); runs with a partner are then
    resampled together, and ``pairing`` of the answer says how many there were. given: values of further columns of the
    law. interior: as in ``compare``. Raises ``FitError`` when a group cannot carry the law, ``ValueError`` for too few
    draws.
    """
    fits = [(fit_law(sample, form, delta), sample) for sample in (left, right)]
    pairing, drawn = "", [fit for fit, _ in fits]
    if keys is not None:
        *drawn, pairing = paired_fits(fits[0], fits[1], keys, draws, seed)
    if drawn[0].draws is None:
        noise = pooled_noise(fits)
        drawn = [bootstrap(fit, sample, draws, seed, noise=noise) for fit, sample in fits]
    names = left.group, right.group
    return compare({form: drawn[0]}, {form: drawn[1]}, names, left.target, (), given, pairing, interior)


def compare_all(
    fits: Sequence[FitResult], groups: Sequence[str], targets: Sequence[str], refused: Mapping[str, Sequence[str]],
    interior: bool = False, given: Mapping[str, float] | None = None,
) -> list[Comparison]:  # fmt: skip
    """Every pair of groups on every target. refused: run ids on the vision plateau, by group. interior, given: see
    ``compare``."""
    table: dict[tuple[str, str], dict[str, FitResult]] = {}
    for fit in fits:
        table.setdefault((fit.group, fit.target), {})[fit.form] = fit
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    return [
        compare(
            table.get((a, t), {}), table.get((b, t), {}), (a, b), t, [*refused.get(a, ()), *refused.get(b, ())],
            given=given, interior=interior,
        )
        for t in targets
        for a, b in pairs
    ]  # fmt: skip
