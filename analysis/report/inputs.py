"""From fits and rows to what the pictures are given; every function raises ``ValueError`` where it cannot.

Shapes: n rows, K budgets, B draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from analysis import plots
from analysis.approaches.bias import CorrectedIsoflop, correct
from analysis.approaches.isoflop import IsoflopResult
from analysis.approaches.slices import Slice
from analysis.approaches.summary import Way
from analysis.decisions.allocate import frontier_curves
from analysis.decisions.optimum import SIX_ND, landscape, optimum
from analysis.engine.jet import Array
from analysis.fit import FitError
from analysis.report.evidence import Evidence, Missing, Shown, attempted, parametric
from analysis.result import FitResult, Interval
from analysis.study import Study
from analysis.uncertainty.draws import spread_of
from analysis.uncertainty.profiles import Profile
from analysis.uncertainty.quantities import bootstrap_interval, quantity

_BUDGETS = 60
_BEYOND = 10.0
_GRID = 40
_PAIRS = 3
_SURE = 1e-9
_LEAST_DRAWS = 20
_WORDS = {"C": "training compute C (FLOPs)", "U": "unique data U (tokens)"}


def frontier(one: Shown) -> plots.Frontier:
    """Runs by size and the fitted frontier over the tested compute, at the values ``one.given``."""
    fit, rows = one.fit, one.near
    if "N" not in rows.columns:
        raise FitError("the table has no sizes to colour the runs by")
    compute = np.geomspace(*fit.compute_range, _BUDGETS)
    log = frontier_curves(fit, compute, one.given)
    usable = np.isfinite(log[0])
    if usable.sum() < 2:
        raise FitError("no budget inside the tested compute is reached by a tested pair of N and D")
    low, high = np.nanpercentile(log[1:, usable], [2.5, 97.5], axis=0) if len(log) > 1 else (None, None)
    ends = {} if low is None or high is None else {"low": np.exp(low), "high": np.exp(high)}
    curve = plots.Curve(compute[usable], np.exp(log[0, usable]), **ends)
    entropy = fit.known_entropy
    return plots.Frontier(fit.group, rows.size, rows.compute, rows.loss, curve, fit.compute_range, entropy)


def multipliers(study: Study, target: str) -> list[plots.Multiplier]:
    """The compute-multiplier curve of every compared pair that has one."""
    found = []
    for c in study.comparisons:
        curve = c.multiplier_curve
        if c.target != target or c.status != "ok" or curve is None:
            continue
        bound = [{">=": 1, "<=": -1}.get(mark, 0) for mark in curve.mark]
        compute, value, low, high, below, above, censored, edge = (
            np.array(v, dtype=float)
            for v in (curve.compute, curve.value, curve.low, curve.high, curve.band_low, curve.band_high, bound,
                      curve.at_edge)
        )  # fmt: skip
        found.append(
            plots.Multiplier(c.left, c.right, compute, value, low, high, below, above, censored, edge, c.crosses_at)
        )
    if not found:
        raise FitError("no pair of groups could be compared at equal loss")
    return found


def isoflop_pictures(one: Shown) -> list[plots.IsoflopSlice]:
    """Every usable slice with its parabola, its corrected minimum and the law's own; refused ones as crosses."""
    found = one.slices
    if isinstance(found, Missing):
        raise FitError(found.why)
    fixed: dict[float, Interval] = {}
    surface = attempted(lambda: _corrected(one.fit, found))
    if not isinstance(surface, Missing):
        for raw, shifted in zip(found.slices, surface.slices, strict=True):
            fixed[raw.compute] = _scaled(raw.size, shifted.size / raw.size.value)
    pictures = [_slice(one, found, piece, fixed.get(piece.compute)) for piece in found.slices]
    for refusal in found.refusals:
        rows = np.abs(np.log(one.near.compute / refusal.compute)) < found.options.tolerance
        if refusal.kind in ("EdgeMinimum", "NotConvex") and rows.sum() > 2:
            none = Interval(np.nan, np.nan, np.nan, False, refusal.why)
            size, loss = one.near.size[rows], one.near.loss[rows]
            curve = _law_curve(one, refusal.compute, size)
            pictures.append(plots.IsoflopSlice(refusal.compute, size, loss, None, curve, none))
    if not pictures:
        raise FitError("no isoFLOP slice has four sizes at nearly one compute")
    return pictures


def _scaled(item: Interval, factor: float) -> Interval:
    return replace(item, value=item.value * factor, low=item.low * factor, high=item.high * factor)


def _corrected(fit: FitResult, found: IsoflopResult) -> CorrectedIsoflop:
    given = parametric(fit)
    return correct(found, given.surface, given.draws)


def _slice(one: Shown, found: IsoflopResult, piece: Slice, fixed: Interval | None) -> plots.IsoflopSlice:
    sizes, losses = np.array(piece.sizes), one.near.loss[np.array(piece.index)]
    at = np.geomspace(sizes.min(), sizes.max(), _GRID)
    x = np.log(at / piece.size.value)
    rise = 0.5 * piece.curvature.value * x**2
    is_log, is_parabola = found.options.response == "log", found.options.shape == "parabola"
    parabola = plots.Curve(at, piece.loss * np.exp(rise) if is_log else piece.loss + rise) if is_parabola else None
    curve = _law_curve(one, piece.compute, sizes)
    best = bootstrap_interval(one.fit, quantity(one.fit, f"N*({piece.compute!r})", None, one.given))
    if not np.isfinite([best.low, best.high]).all():
        best = Interval(best.value, best.value, best.value)
    return plots.IsoflopSlice(piece.compute, sizes, losses, parabola, curve, piece.size, fixed, best)


def _law_curve(one: Shown, compute: float, sizes: Array) -> plots.Curve:
    """The law along one compute, with the cost of a token as in the rows."""
    fit = one.fit
    scale, power, _ = fit.cost or (6.0, 1.0, 0.0)
    at = np.geomspace(sizes.min(), sizes.max(), _GRID)
    tokens = compute / (scale * at**power)
    value = one.loss_at(at, tokens)[0]
    if fit.draws is None:
        return plots.Curve(at, value)
    moved = fit.widening * (np.log(one.loss_at(at, tokens, fit.draws)) - np.log(value))
    low, high = np.nanpercentile(moved, [2.5, 97.5], axis=0)
    return plots.Curve(at, value, value * np.exp(low), value * np.exp(high))


def slicing_text(one: Shown) -> str:
    """How rows were put into slices and how many gave a minimum."""
    if isinstance(one.slices, Missing):
        return ""
    found, refused = one.slices, [r for r in one.slices.refusals if r.kind != "TooFew"]
    wide = sum(refusal.kind == "WideSlice" for refusal in refused)
    text = f"Slices are parted by gaps of {100 * found.options.tolerance:.2g} % in C"
    text += f"; {len(found.slices)} have a usable minimum" + (f", {len(refused) - wide} are refused" if refused else "")
    return text + (f", {wide} more run into their neighbours." if wide else ".")


def cost_of_runs(evidence: Evidence) -> Callable[[Array, Array], Array]:
    """FLOPs of (N, D) as in the runs of the only group; 6 N D where there are several to compare."""
    costs = [one.fit.cost for one in evidence.values() if one.fit.cost is not None]
    scale, power, _ = costs[0] if len(costs) == 1 else SIX_ND
    return lambda size, tokens: np.asarray(scale * size**power * tokens)


def estimates(evidence: Evidence) -> list[plots.Estimate]:
    """Exponents a and b of every approach of every group; refused ones with their reason."""
    found = []
    for group, one in evidence.items():
        if isinstance(one.ways, Missing):
            continue
        found += [_estimate(group, way) for way in one.ways.ways]
        for name, part in (("2 isoFLOP", one.slices), ("1 envelope", one.envelope)):
            if isinstance(part, Missing):
                found.append(plots.Estimate(group, name, None, None, part.why))
    if not any(item.a is not None for item in found):
        reasons = [f"{item.method}: {item.why}" for item in found]
        surfaces = [attempted(partial(parametric, one.fit)) for one in evidence.values()]
        reasons += [surface.why for surface in surfaces if isinstance(surface, Missing)]
        raise FitError("no approach gives an exponent with an interval; " + "; ".join(dict.fromkeys(reasons)))
    return found


def _estimate(group: str, way: Way) -> plots.Estimate:
    """One approach; without an interval it counts as refused, so that it does not set the axis."""
    if way.a is not None and way.a.known:
        return plots.Estimate(group, way.name, way.a, way.b)
    reasons = [note for note in way.notes if note.startswith("no power law")]
    reasons += [way.a.why] if way.a is not None else []
    return plots.Estimate(group, way.name, None, None, next(iter([*reasons, *way.refusals]), "no estimate"))


def loss_map(one: Shown) -> plots.LossMap:
    """The fitted surface twice as wide as the tests, and the optimal path to ten times the tested compute."""
    fit, rows = one.fit, one.near
    if not one.splits_budgets:
        raise FitError(f"law {fit.law} reads {', '.join(fit.shape.columns)}: it has no surface over N and D")
    land = landscape(fit, None, one.given)
    low, high = fit.compute_range
    compute = np.geomspace(low / 2, _BEYOND * high, 30)
    spread = spread_of(fit)
    best = optimum(land, spread.theta, compute)
    usable = best.found[0]
    path = None
    if usable.sum() > 1 and not any(name in fit.unidentified for name in fit.shape.exponents):
        with np.errstate(invalid="ignore"):
            moved = spread.widening * np.log(best.size[1:, usable] / best.size[0, usable])
        ends: list[Array | None] = [None, None]
        if len(moved):
            sizes = best.size[0, usable] * np.exp(np.nanpercentile(moved, [2.5, 97.5], axis=0))
            ends = [np.array([n, land.tokens(n, compute[usable])]) for n in sizes]
        path = plots.OptimalPath(
            compute[usable], best.size[0, usable], best.tokens[0, usable], fit.compute_range, ends[0], ends[1]
        )
    size, tokens = (
        np.geomspace(span[0] / 2, span[1] * 2, _GRID) for span in (fit.size_range, fit.tokens_range)
    )  # fmt: skip
    with np.errstate(all="ignore"):
        surface = land.loss(fit.theta[None])(size[None, None, :], tokens[None, :, None])[0]
    return plots.LossMap(fit.group, rows.size, rows.tokens, rows.loss, size, tokens, surface, path)


def predictions(one: Shown) -> plots.Predictions:
    """Fitted rows, and the predictions of every cut of the rolling hold-out along C (or N, or D)."""
    fit, rolled = one.fit, one.rolled
    if isinstance(rolled, Missing):
        raise FitError(rolled.why)
    column = next(name for name in ("C", "N", "D") if name in rolled.columns)
    cuts = rolled.by(column)
    held = [np.concatenate([getattr(cut, name) for cut in cuts]) for name in ("observed", "predicted", "distance")]
    seen = [one.sample.loss, np.array(fit.fitted), np.ones(len(fit.fitted))]
    observed, predicted, distance = (np.concatenate(pair) for pair in zip(seen, held, strict=True))
    mask = np.arange(len(observed)) >= len(fit.fitted)
    return plots.Predictions(observed, predicted, mask, np.maximum(distance, 1.0), column)


def residuals(one: Shown) -> plots.Residuals:
    """Residuals of every row against whatever the law reads."""
    fit, rows = one.fit, one.sample
    fitted, positive = np.array(fit.fitted), fit.shape.positive
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.log(rows.loss / fitted) if positive else rows.loss - fitted
    reads = [name for name in fit.shape.columns if rows.columns[name].ndim == 1]
    others = {_WORDS.get(name, f"{name} (column)"): rows.columns[name] for name in reads if name not in ("N", "D")}
    size, tokens = (rows.columns[name] if name in reads else None for name in ("N", "D"))
    runs = [f"{code}" for code in rows.cluster] if len(set(rows.cluster)) < len(rows) else list(rows.run_ids)
    return plots.Residuals(residual, fitted, size, tokens, runs, others=others, relative=positive)


def profile_pictures(one: Shown) -> list[plots.Profile]:
    """Profiles of the fitted parameters and of a and b, rises in units of the 95 % threshold."""
    if isinstance(one.profiles, Missing):
        raise FitError(one.profiles.why)
    pictures = [_profile(one.fit, name, found) for name, found in one.profiles.items() if len(found.values) > 1]
    if not pictures:
        raise FitError("no parameter has a profile")
    return pictures


def _profile(fit: FitResult, name: str, found: Profile) -> plots.Profile:
    lowest = min(found.objective)
    rise = (np.array(found.objective) - lowest) / max(found.threshold - lowest, 1e-300)
    values = np.array(found.values)
    logged = name in fit.shape.log_names and values.max() > 4 * values.min() > 0
    unit = "nats / token" if name == "E" else ""
    item = found.interval
    if not item.known:
        # An end that no profile bounds is drawn open, whatever limit the parameter itself has.
        low, high = (np.nan if way in item.why else end for way, end in zip(_WAYS, (item.low, item.high), strict=True))
        item = replace(item, low=low, high=high)
    return plots.Profile(name, values, rise, item, unit, logged)


_WAYS = ("threshold down", "threshold up")


def clouds(one: Shown) -> dict[str, Any]:
    """Arguments of ``bootstrap_clouds``: the three pairs of parameters whose draws are most correlated."""
    fit = one.fit
    if fit.draws is None or len(fit.draws) < _LEAST_DRAWS:
        raise FitError("the fit has no bootstrap draws")
    law = fit.shape
    natural = law.to_natural(fit.draws, fit.centre)
    free = [i for i, name in enumerate(law.names) if name not in fit.fixed and np.ptp(fit.draws[:, i]) > 0]
    logs = law.log_names
    scaled = {i: np.log(natural[:, i]) if law.names[i] in logs else natural[:, i] for i in free}
    usable = [i for i in free if np.isfinite(scaled[i]).all() and np.std(scaled[i]) > _SURE * abs(np.mean(scaled[i]))]
    # A coefficient and its own exponent trade exactly, far from where N and D are 1: no news, so they come last.
    own = {frozenset((shift.coefficient, shift.exponent)) for shift in law.shifts}
    ranked = sorted(
        ((frozenset((law.names[i], law.names[j])) not in own, abs(float(np.corrcoef(scaled[i], scaled[j])[0, 1])),
          law.names[i], law.names[j]) for k, i in enumerate(usable) for j in usable[k + 1 :]),
        reverse=True,
    )  # fmt: skip
    if not ranked:
        raise FitError("fewer than two parameters vary over the resamples")
    pairs = [(x, y) for _, _, x, y in ranked[:_PAIRS]]
    names = {name for pair in pairs for name in pair}
    draws = {name: natural[:, law.names.index(name)] for name in names}
    wide = [n for n in logs if n in names and draws[n].max() > 4 * draws[n].min()]
    bounds = {name: (law.params[name].low, law.params[name].high) for name in names}
    units = {"E": "nats / token"}
    return {"draws": draws, "best": fit.params, "pairs": pairs, "log": wide, "bounds": bounds, "units": units}


def three_intervals(one: Shown) -> dict[str, tuple[Interval | None, Interval | None, Interval | None]]:
    """Bootstrap, sandwich and profile interval of every fitted parameter and of a and b; None where there is none."""
    fit = one.fit
    boot = {**fit.ci, **fit.derived}
    profiled = {} if isinstance(one.profiles, Missing) else {n: p.interval for n, p in one.profiles.items()}
    profiled |= fit.profile_ci
    names = [name for name in fit.params if name not in fit.fixed] + list(fit.derived)
    return {name: (boot.get(name), one.sandwich.get(name), profiled.get(name)) for name in names}
