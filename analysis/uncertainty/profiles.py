"""Profile likelihood: how good the best fit can be with one quantity held at a value, and where that stops being good.

Shapes: V values along a profile, P parameters.

Every point of the curve is a whole refit with a spring on the quantity (``engine.problem.Pull``): where the spring
comes to rest the parameters are the best for that value, so the curve is exact for parameters, a, b, N*(C), D*(C) and
losses alike. All values of a round are one batch. Rounds widen until the objective crosses the threshold, or nothing
moves any more: then the data do not bound the quantity on that side.

Huber penalties are no likelihoods and checkpoints are not independent, so the threshold is scaled as by Kent
(Biometrika 69, 1982): objective + t(df)^2 / 2 x (robust variance of the quantity / its variance by the Hessian alone),
the robust one from ``analysis.uncertainty.delta``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.decisions.optimum import SIX_ND, Cost
from analysis.engine.jet import Array
from analysis.engine.newton import solve
from analysis.engine.problem import Problem, Pull
from analysis.fit import FitError, prepare
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.uncertainty.delta import Uncertainty, uncertainty
from analysis.uncertainty.identified import not_identified
from analysis.uncertainty.linear import Linear, linearise, smooth_objective
from analysis.uncertainty.noise import TrunkNoise
from analysis.uncertainty.quantities import Quantity, quantity, quantity_names

_FIRST = (0.3, 0.6, 0.8, 0.95, 1.1, 1.3, 1.6)
_ROUNDS = 9
_REFINEMENTS = 3
_STIFFNESS = 100.0
_STILL = 1e-6
_WIDEST = 3.0
_NARROWEST = 1e-8
_LEAST_RISE = 1e-22
_CLOSE = 1e-4


@dataclass(frozen=True)
class Profile:
    """Curve and interval of one quantity.

    values: ascending, the point estimate among them; objective: the lowest at each. threshold: the objective at the
    ends of the interval. text: how the threshold was scaled. log: the quantity is one of logarithmic axes.
    """

    name: str
    values: tuple[float, ...]
    objective: tuple[float, ...]
    threshold: float
    interval: Interval
    text: str
    log: bool = False

    @property
    def rise(self) -> tuple[float, ...]:
        """Objective above its minimum, 1 at the threshold."""
        lowest = min(self.objective, default=self.threshold)
        return tuple((f - lowest) / (self.threshold - lowest) for f in self.objective)


def profiles(
    result: FitResult,
    sample: Sample,
    names: Sequence[str] | None = None,
    budgets: Sequence[float] = (),
    level: float = 0.95,
    cost: Cost | None = SIX_ND,
    given: Mapping[str, float] | None = None,
    noise: TrunkNoise | None = None,
) -> dict[str, Profile]:
    """Profiles by name; of every fitted parameter, a, b, and N*, D* and loss at ``budgets`` when ``names`` is None.

    cost, given: as for ``quantities.quantity``. noise: pooled over groups (``noise.pooled_noise``). Raises
    ``ValueError`` for an unknown quantity, ``FitError`` for a fit that did not converge.
    """
    if result.status == "failed":
        raise FitError(f"{result.group}/{result.target}: the fit did not converge, its profiles mean nothing")
    setup, _ = prepare(sample, result.form, result.fixed, result.domains)
    linear = linearise(setup, result)
    known = uncertainty(setup, result, linear, noise)
    problem = setup.problem(np.ones((1, len(setup.y))), smooth_objective(result))
    names = quantity_names(result, budgets) if names is None else names
    return {
        name: _profile(problem, result, quantity(result, name, cost, given), linear, known, level) for name in names
    }


def _profile(
    problem: Problem, result: FitResult, wanted: Quantity, linear: Linear, known: Uncertainty, level: float
) -> Profile:
    theta = result.theta
    fitted = np.array([name not in result.fixed for name in result.shape.names])
    lowest, start = float(problem.values(theta[None])[0]), float(wanted.scaled(theta[None])[0])
    value = float(wanted.natural(start))
    if not np.isfinite(start):
        missing = Interval(value, np.nan, np.nan, False, f"there is no {wanted.name}")
        return Profile(wanted.name, (), (), lowest, missing, known.text, wanted.log)
    gradient = wanted.gradient(theta[None], fitted)[0]
    naive = max(float(gradient @ linear.inverse @ gradient), 1e-300)
    quantile = float(stats.t.ppf(0.5 + level / 2, known.freedom(gradient)))
    ratio = max(known.variance(gradient), 1e-300) / naive
    rise = max(0.5 * quantile**2 * ratio, _LEAST_RISE)
    # A flat valley has no curvature to tell how far to look or how hard to pull: no further than a fair first guess.
    scale = 1.0 if wanted.log else max(abs(start), 0.1)
    reach = float(np.clip(quantile * np.sqrt(ratio * naive), _NARROWEST * scale, _WIDEST * scale))
    curve = _Curve(problem, wanted, fitted, 2.0 * _STIFFNESS * rise / reach**2, lowest, lowest + rise)
    along = linear.inverse @ gradient / naive
    sides = [_side(curve, theta, start, side * reach, along) for side in (-1.0, 1.0)]
    points = sorted([(start, lowest), *(p for found, _ in sides for p in found)])
    interval = _interval(wanted, value, [end for _, end in sides], points, level)
    if wanted.name in result.params and interval.known:
        kind = result.shape.params[wanted.name]
        why = result.unidentified.get(wanted.name) or not_identified(kind, interval)
        interval = replace(interval, known=not why, why=why)
    values = tuple(float(wanted.natural(q)) for q, _ in points)
    return Profile(wanted.name, values, tuple(f for _, f in points), curve.threshold, interval, known.text, wanted.log)


@dataclass(frozen=True)
class _Curve:
    """What every point of one profile shares."""

    problem: Problem
    wanted: Quantity
    fitted: NDArray[np.bool_]
    stiffness: float
    lowest: float
    threshold: float

    def at(self, targets: Array, starts: Array) -> tuple[Array, Array, Array]:
        """Quantity (V,), objective (V,) and theta (V, P) where springs to ``targets`` come to rest."""

        def slope(theta: Array) -> Array:
            return self.wanted.gradient(theta, self.fitted)

        pull = Pull(self.wanted.scaled, slope, targets, self.stiffness)
        weights = np.repeat(self.problem.weights, len(targets), axis=0)
        pulled = replace(self.problem, weights=weights, pull=pull)
        theta = solve(pulled, starts).theta
        return self.wanted.scaled(theta), replace(pulled, pull=None).values(theta), theta

    def best_of(self, targets: Array, starts: Sequence[Array]) -> tuple[Array, Array, Array]:
        """The better of several starts (V, P) for every target, by objective and spring together."""
        found = [self.at(targets, start) for start in starts]
        energy = [f + 0.5 * self.stiffness * (q - targets) ** 2 for q, f, _ in found]
        chosen = np.argmin(np.where(np.isfinite(energy), energy, np.inf), axis=0)
        rows = np.arange(len(targets))
        q, f, theta = (np.stack([each[i] for each in found])[chosen, rows] for i in range(3))
        return q, f, theta


def _side(
    curve: _Curve, theta: Array, start: float, reach: float, along: Array
) -> tuple[list[tuple[float, float]], float | None]:
    """Points (quantity, objective) on one side and where the threshold is crossed, or None.

    reach: signed half width of the interval that a parabola would have. along (P,): d theta / d quantity there.
    """
    offsets = reach * np.array(_FIRST)
    q, f, thetas = curve.best_of(start + offsets, [theta + offsets[:, None] * along])
    q, f, thetas = curve.best_of(start + offsets, [thetas, np.concatenate([theta[None], thetas[:-1]])])
    for _ in range(_ROUNDS):
        if np.nanmax(f) >= curve.threshold:
            break
        last = int(np.argmax(np.where(np.isfinite(q), np.abs(q - start), -np.inf)))
        here, offset = q[last], max(abs(q[last] - start), abs(reach)) * np.array([1.5, 2.0, 3.0]) * np.sign(reach)
        more = curve.best_of(start + offset, [np.repeat(thetas[last][None], 3, axis=0)])
        q, f, thetas = (np.concatenate(pair) for pair in zip((q, f, thetas), more, strict=True))
        if not np.nanmax(np.abs(more[0] - start)) > abs(here - start) + _STILL * max(abs(reach), 1e-12):
            break
    for _ in range(_REFINEMENTS):
        target = _crossing(curve, start, q, f)
        near = 0 if target is None else int(np.nanargmin(np.abs(q - target)))
        if target is None or abs(q[near] - target) < _CLOSE * abs(reach):
            break
        more = curve.at(np.array([target]), thetas[near][None])
        q, f, thetas = (np.concatenate(pair) for pair in zip((q, f, thetas), more, strict=True))
    return _distinct(q, f, start, abs(reach)), _crossing(curve, start, q, f)


def _distinct(q: Array, f: Array, start: float, reach: float) -> list[tuple[float, float]]:
    """The finite points, those that came to rest at the same value (a bound) once."""
    good = np.isfinite(q) & np.isfinite(f) & (np.abs(q - start) > 0.1 * _CLOSE * reach)
    points = sorted(zip(map(float, q[good]), map(float, f[good]), strict=True))
    apart = [i for i in range(len(points)) if i == 0 or points[i][0] - points[i - 1][0] > 0.1 * _CLOSE * reach]
    return [points[i] for i in apart]


def _crossing(curve: _Curve, start: float, q: Array, f: Array) -> float | None:
    """Quantity at which the objective first reaches the threshold, by a line in the root of its rise."""
    good = np.isfinite(q) & np.isfinite(f)
    order = np.argsort(np.abs(q[good] - start))
    at = np.concatenate([[start], q[good][order]])
    rise = np.sqrt(np.maximum(np.concatenate([[curve.lowest], f[good][order]]) - curve.lowest, 0.0))
    goal = np.sqrt(curve.threshold - curve.lowest)
    over = np.nonzero(rise >= goal)[0]
    if not len(over):
        return None
    i = int(over[0])
    share = (goal - rise[i - 1]) / max(rise[i] - rise[i - 1], 1e-300)
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def _interval(
    wanted: Quantity, value: float, ends: Sequence[float | None], points: Sequence[tuple[float, float]], level: float
) -> Interval:
    reached = [float(wanted.natural(points[i][0])) for i in (0, -1)]
    limits = [wanted.low, wanted.high]
    known = [end is not None for end in ends]
    low, high = (
        float(wanted.natural(end)) if end is not None else limit for end, limit in zip(ends, limits, strict=True)
    )
    why = "; ".join(
        f"profile stays below the {100 * level:g} % threshold {way} to {_bound(limit, end)}"
        for way, ok, limit, end in zip(("down", "up"), known, limits, reached, strict=True)
        if not ok
    )
    return Interval(value, low, high, all(known), why)


def _bound(limit: float, reached: float) -> str:
    return f"{limit:g}" if np.isclose(reached, limit, rtol=1e-3, atol=1e-9) else f"{reached:.3g}"
