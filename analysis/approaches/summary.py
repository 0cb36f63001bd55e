"""The three approaches in one table: exponents, N* and D* at one budget, intervals, methods and refusals.

Shapes: B draws of a fitted surface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.approaches.bias import Additive, CorrectedIsoflop, correct
from analysis.approaches.envelope import EnvelopeResult
from analysis.approaches.frontier import CostOf, optima, six_nd
from analysis.approaches.isoflop import IsoflopResult
from analysis.approaches.power import PowerLaws, exponential, lines_through, stretched
from analysis.approaches.rows import Array, Refusal
from analysis.result import Interval, plain

_BUDGETS = 24
_DRAWS_SIMULATED = 200


@dataclass(frozen=True)
class Parametric:
    """What approach 3 brings: the fitted surface and what is known about its error.

    compute_range: FLOPs over which the regression exponents are simulated, usually those of the rows. cost(N, D):
    FLOPs, element by element; None is 6 N D. size_range: sizes the simulation may use. draws (B, 5): E, A, B, alpha,
    beta of resamples, widening: their stretch. intervals: intervals that the fit itself gave (a profile, say) for any
    of "a", "b", "size", "tokens"; they replace those of the draws for the closed form. method: in words.
    """

    surface: Additive
    compute_range: tuple[float, float]
    cost: CostOf | None = None
    size_range: tuple[float, float] | None = None
    draws: Array | None = field(default=None, repr=False, compare=False)
    widening: float = 1.0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    method: str = "fitted surface"


@dataclass(frozen=True)
class Way:
    """One approach: exponents of N* ~ C^a, D* ~ C^b, L* ~ C^c, and N*, D* at the budget; None where it says nothing.

    at_why: what to know about N* and D* here, such as how far the budget lies outside the compute that was used.
    """

    name: str
    method: str
    a: Interval | None
    b: Interval | None
    c: Interval | None
    size: Interval | None
    tokens: Interval | None
    at_why: str
    refusals: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ThreeWays:
    """All approaches at one budget in FLOPs. The fitted surface (approach 3) is the primary one."""

    compute: float
    ways: tuple[Way, ...]

    def named(self, name: str) -> Way:
        """One row of the table. Raises ``ValueError`` listing the names there are."""
        for way in self.ways:
            if way.name == name:
                return way
        raise ValueError(f"there is no way {name!r}; there are: {', '.join(way.name for way in self.ways)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("a", "b", "c", "size", "tokens")
        rows = []
        for way in self.ways:
            parts = {name: getattr(way, name) for name in names}
            rows.append(vars(way) | {k: None if v is None else vars(v) for k, v in parts.items()})
        return plain({"compute": self.compute, "ways": rows})


def three_ways(
    compute: float,
    *,
    envelope: EnvelopeResult | None = None,
    isoflop: IsoflopResult | None = None,
    parametric: Parametric | None = None,
) -> ThreeWays:
    """Put what is there side by side: approach 1; 2 raw, and corrected where a surface is known; 3 by closed form
    (only under 6 N D) and by regression. Raises ``ValueError`` when nothing is given or the budget is not positive."""
    if not compute > 0:
        raise ValueError(f"compute is {compute}; the budget must be a positive number of FLOPs")
    ways: list[Way] = []
    if parametric is not None:
        ways += [_closed_form(parametric, compute)] if parametric.cost is None else []
        ways.append(_regression(parametric, compute))
    if isoflop is not None:
        ways.append(_from_laws("2 isoFLOP", isoflop.laws, compute, isoflop.refusals, isoflop.notes))
        if parametric is not None and isoflop.laws is not None:
            fixed = correct(isoflop, parametric.surface, parametric.draws)
            ways.append(_corrected(fixed, isoflop, compute))
    if envelope is not None:
        ways.append(_from_laws("1 envelope", envelope.laws, compute, envelope.refusals, envelope.notes))
    if not ways:
        raise ValueError("nothing to compare; give at least one of envelope, isoflop and parametric")
    return ThreeWays(compute, tuple(ways))


def _from_laws(
    name: str, laws: PowerLaws | None, compute: float, refusals: Sequence[Refusal], notes: Sequence[str]
) -> Way:
    listed = tuple(str(r) for r in refusals)
    if laws is None:
        return Way(name, "none", None, None, None, None, None, "", listed, tuple(notes))
    best = laws.at(compute)
    far = f"extrapolated by a factor of {best.beyond:.3g} in compute" if best.beyond > 1 + 1e-9 else ""
    return Way(name, laws.method, laws.a, laws.b, laws.c, best.size, best.tokens, far, listed, tuple(notes))


def _corrected(fixed: CorrectedIsoflop, raw: IsoflopResult, compute: float) -> Way:
    shifts = [one.shift.tokens_percent for one in fixed.slices]
    shown = f"shift of D* by slice: {min(shifts):+.2g} to {max(shifts):+.2g} %"
    return _from_laws("2 isoFLOP, corrected", fixed.laws, compute, raw.refusals, (*fixed.notes, shown))


def _closed_form(given: Parametric, compute: float) -> Way:
    """a = beta / (alpha + beta), b = alpha / (alpha + beta); no c, because the loss has a floor and no one slope."""
    point = _closed_values(given.surface, compute)
    many = None if given.draws is None else _closed_values(_batch(given.draws, 1), compute)
    found = {}
    for name, value in point.items():
        draws = None if many is None else np.ravel(many[name])
        logs = name in ("size", "tokens")
        found[name] = given.intervals.get(name) or _interval(float(value), draws, given.widening, logs)
    return Way("3 closed form", given.method, found["a"], found["b"], None, found["size"], found["tokens"], "", (), ())


def _closed_values(surface: Additive, compute: float) -> dict[str, Array]:
    size, tokens = surface.optimum(compute)
    share = np.asarray(surface.beta / (surface.alpha + surface.beta))
    return {"a": share, "b": 1 - share, "size": size, "tokens": tokens}


def _regression(given: Parametric, compute: float) -> Way:
    """Exponents by simulation over ``compute_range``; N* and D* are the optimum at the budget itself, not on a line."""
    cost, (low, high) = given.cost or six_nd, given.compute_range
    if not 0 < low < high:
        raise ValueError(f"compute_range is ({low:g}, {high:g}); it must be (low, high) with 0 < low < high")
    budgets = np.append(np.geomspace(low, high, _BUDGETS), compute)
    lines, best, edges = _simulated(given.surface, cost, budgets, given.size_range, 1)
    many = chosen = None
    if given.draws is not None:
        kept = given.draws[np.linspace(0, len(given.draws) - 1, min(len(given.draws), _DRAWS_SIMULATED)).astype(int)]
        many, chosen, _ = _simulated(_batch(kept, 2), cost, budgets, given.size_range, len(kept))
    a, b, c = (
        _interval(float(lines[0, row, 1]), None if many is None else many[:, row, 1], given.widening)
        for row in range(3)
    )
    size, tokens = (
        _interval(float(np.exp(best[0, row])), None if chosen is None else np.exp(chosen[:, row]), given.widening, True)
        for row in range(2)
    )
    method = f"{given.method}; {_BUDGETS} optima simulated from {low:.3g} to {high:.3g} FLOPs and regressed"
    notes = (f"{edges} budgets have their optimum on the border of the sizes tried: give a wider size_range",)
    return Way("3 regression", method, a, b, c, size, tokens, "", (), notes if edges else ())


def _simulated(
    surface: Additive, cost: CostOf, budgets: Array, size_range: tuple[float, float] | None, surfaces: int
) -> tuple[Array, Array, int]:
    """Lines (R, 3, 2) over all budgets but the last, ln N* and ln D* (R, 2) at the last, how many hit the border."""
    found = optima(surface.loss, cost, budgets, size_range, surfaces)
    values = np.stack([found.log_size, found.log_tokens, found.log_loss], axis=1)
    log_c = np.log(budgets[:-1])
    weights = np.repeat(~found.at_edge[:, None, :-1], 3, axis=1).astype(float)
    lines = lines_through(log_c, values[:, :, :-1], weights, float(log_c.mean()))
    return lines, values[:, :2, -1], int(found.at_edge[0].sum())


def _batch(draws: Array, axes: int) -> Additive:
    """Draws (B, 5) as one surface whose parameters have shape (B, 1, ...) with ``axes`` trailing ones."""
    return Additive(*(draws[:, i].reshape(-1, *(1,) * axes) for i in range(5)))


def _interval(point: float, draws: Array | None, widening: float, log: bool = False) -> Interval:
    why = "" if draws is not None else "no draws of the fit were given"
    if not log:
        return stretched(point, draws, widening, why)
    return exponential(stretched(float(np.log(point)), None if draws is None else np.log(draws), widening, why))
