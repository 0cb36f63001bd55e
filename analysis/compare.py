"""Two groups at equal compute: the difference, where it changes sign, and what it costs. Only where both were tested.

Shapes: B draws, K budgets. Index 0 of every (1 + B, K) curve is the point fit, the rest are widened draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.allocate import fit_frontier, frontier_curves
from analysis.engine.jet import Array
from analysis.result import FitResult, Interval
from analysis.verdicts import Comparison, forms_disagree, verdict

_BUDGETS = 21
_MIN_SPAN = 2.0
_FORM_ORDER = ("known", "free", "interaction")


def compare(
    left: Mapping[str, FitResult],
    right: Mapping[str, FitResult],
    names: tuple[str, str],
    target: str,
    refused: Sequence[str] = (),
) -> Comparison:
    """Compare two groups from their fits by form, each with bootstrap draws.

    refused: run ids of either group that sit on the vision plateau; any at all refuses the comparison, because the
    runs that escaped are then a selection by outcome.
    """
    if refused:
        return _without_numbers("refused", names, target, tuple(refused))
    forms = [
        f for f in _FORM_ORDER if f in left and f in right and left[f].draws is not None and right[f].draws is not None
    ]
    if not forms:
        return _without_numbers("no fit", names, target)
    found = {form: _compare_form(left[form], right[form], names, target) for form in forms}
    main = found[forms[0]]
    if main.status != "ok":
        return main
    main = replace(main, form=forms[0], by_form={form: c.outcome for form, c in found.items()})
    if forms_disagree(main):
        main = replace(main, outcome="unresolved", crossing=None)
    return replace(main, verdict=verdict(main))


def _without_numbers(status: str, names: tuple[str, str], target: str, refused: tuple[str, ...] = ()) -> Comparison:
    empty = Comparison(*names, target, status, "", "", refused=refused)
    return replace(empty, verdict=verdict(empty))


def _compare_form(left: FitResult, right: FitResult, names: tuple[str, str], target: str) -> Comparison:
    low = max(left.compute_range[0], right.compute_range[0])
    high = min(left.compute_range[1], right.compute_range[1])
    compute = np.geomspace(low, high, _BUDGETS) if high > low else np.array([])
    if high >= _MIN_SPAN * low:
        curves = frontier_curves(left, compute), frontier_curves(right, compute)
        inside = np.isfinite(curves[0][0]) & np.isfinite(curves[1][0])
        compute = compute[inside]
    if high < _MIN_SPAN * low or len(compute) < 3:
        return _without_numbers("no overlap", names, target)
    gap, below, above, draws = _difference(curves[0][:, inside], curves[1][:, inside])
    sign = np.where(below > 0, 1, np.where(above < 0, -1, 0))
    outcome = _outcome(sign, compute)
    multiplier, at = _multiplier(left, right, compute)
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
        crossing=_crossing(compute, gap, draws) if outcome == "crossing" else None,
        multiplier=multiplier,
        multiplier_at=at,
    )


def _difference(left: Array, right: Array) -> tuple[Array, Array, Array, Array]:
    """Difference of ln L (K,) with its simultaneous 95 % band, and the differences of the draws (B, K).

    The band is the point +- q s(C): s from the pointwise percentiles, q the 95 % quantile over draws of the largest
    standardised deviation anywhere on the grid, so the whole curve is covered at once.
    """
    gap = right[0] - left[0]
    count = min(len(left), len(right))
    draws = right[1:count] - left[1:count]
    deviation = draws - gap
    spread = np.ptp(np.percentile(deviation, [2.5, 97.5], axis=0), axis=0) / (2 * 1.96)
    spread = np.maximum(spread, 1e-12)
    reach = np.percentile(np.max(np.abs(deviation) / spread, axis=1), 95.0)
    return gap, gap - reach * spread, gap + reach * spread, draws


def _outcome(sign: NDArray[np.int_], compute: Array) -> str:
    """Who is lower; a sign counts when it is resolved over at least a factor of 2 in compute."""
    left, right = (len(held) > 1 and held[-1] >= _MIN_SPAN * held[0] for held in (compute[sign > 0], compute[sign < 0]))
    if left and right:
        return "crossing"
    return "left" if left else "right" if right else "unresolved"


def _crossing(compute: Array, gap: Array, draws: Array) -> Interval:
    """Compute at which the difference changes sign, with the percentile interval over the draws that cross."""

    def where(curve: Array) -> float:
        flips = np.nonzero(np.sign(curve[1:]) != np.sign(curve[:-1]))[0]
        if not len(flips):
            return float("nan")
        i = flips[0]
        share = curve[i] / (curve[i] - curve[i + 1])
        return float(np.log(compute[i]) + share * np.log(compute[i + 1] / compute[i]))

    many = np.array([where(curve) for curve in draws])
    low, high = np.nanpercentile(many, [2.5, 97.5])
    point = where(gap)
    return Interval(float(np.exp(point)), float(np.exp(min(low, point))), float(np.exp(max(high, point))))


def _multiplier(left: FitResult, right: FitResult, compute: Array) -> tuple[Interval | None, float | None]:
    """Compute ``right`` needs per compute of ``left`` for the same loss, at the largest budget where it is observed:
    both optima inside the tested sizes and tokens, since at an edge the missing runs and not the group cost compute.

    Draws that would need more (less) than the compute tested for ``right`` are held at the end of its tested range.
    """
    grid = np.geomspace(*right.compute_range, 2 * _BUDGETS)
    theirs, their_edge = _curves_and_edges(right, grid)
    ours, our_edge = _curves_and_edges(left, compute)
    usable = np.isfinite(theirs[0])
    grid, their_edge, theirs = grid[usable], their_edge[usable], np.minimum.accumulate(theirs[:, usable], axis=1)

    def needed(curve: Array, loss: Array) -> Array:
        return np.exp(np.interp(-loss, -curve, np.log(grid)))

    point = needed(theirs[0], ours[0])
    nearest = np.abs(np.log(point[:, None] / grid[None, :])).argmin(axis=1)
    within = (ours[0] <= theirs[0][0]) & (ours[0] >= theirs[0][-1])
    observed = np.nonzero(within & ~our_edge & ~their_edge[nearest])[0]
    if not len(observed):
        return None, None
    at = int(observed[-1])
    ratios = np.array([needed(c, o[at : at + 1])[0] for c, o in zip(theirs[1:], ours[1:], strict=False)]) / compute[at]
    value = float(point[at] / compute[at])
    low, high = np.percentile(ratios, [2.5, 97.5])
    ends = grid[0] / compute[at], grid[-1] / compute[at]
    censored = [word for word, hit in (("low", low <= ends[0] * 1.001), ("high", high >= ends[1] * 0.999)) if hit]
    why = f"the {' and '.join(censored)} end lies outside the compute tested for {right.group}" if censored else ""
    return Interval(value, float(min(low, value)), float(max(high, value)), not censored, why), float(compute[at])


def _curves_and_edges(fit: FitResult, compute: Array) -> tuple[Array, NDArray[np.bool_]]:
    """ln of the frontier loss (1 + B, K), and where the optimum of the point fit sits on an edge of the tests (K,)."""
    return frontier_curves(fit, compute), fit_frontier(replace(fit, draws=None), compute).at_edge[0]


def compare_all(
    fits: Sequence[FitResult], groups: Sequence[str], targets: Sequence[str], refused: Mapping[str, Sequence[str]]
) -> list[Comparison]:
    """Every pair of groups on every target. refused: run ids on the vision plateau, by group."""
    table: dict[tuple[str, str], dict[str, FitResult]] = {}
    for fit in fits:
        table.setdefault((fit.group, fit.target), {})[fit.form] = fit
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    return [
        compare(table.get((a, t), {}), table.get((b, t), {}), (a, b), t, [*refused.get(a, ()), *refused.get(b, ())])
        for t in targets
        for a, b in pairs
    ]
