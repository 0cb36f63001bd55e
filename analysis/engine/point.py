"""One law, one set of rows: global search, Newton polish, the robust delta, exact least absolute deviations.

Shapes: n rows, P parameters, S starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from analysis.engine.jet import Array
from analysis.engine.law import Columns, Law
from analysis.engine.newton import Solution, solve
from analysis.engine.objective import CHINCHILLA_DELTA, Objective, objective_named
from analysis.engine.problem import Problem, derivatives, make_problem
from analysis.engine.starts import make_grid, point_starts

HUBER_EFFICIENCY = 1.345
POINT_STARTS = 6
SOBOL_STARTS = 48
FEW_STARTS = 6
EARLY_ITERATIONS = 12
LATE_ITERATIONS = 1500
CREEPERS = 3
FINALISTS = 16
_MIN_DELTA = 1e-7
_NARROW = 0.02
_ROUNDS = 3
_SHRINK = 0.1
_LAD_END = 1e-3
_LAD_STEPS = 30
_LAD_REACH = 1e-2


class FitError(ValueError):
    """The rows cannot carry this law; the message gives the counts and what is needed."""


@dataclass(frozen=True)
class PointFit:
    """The best of the starts. ``problem`` holds one problem with unit weights at the objective that was used.

    sigma: robust standard deviation of the residuals. num_optima, gap: distinct local optima that the starts reached
    and the relative gap of the second to the best (None for a single one).
    """

    problem: Problem
    theta: Array
    value: float
    converged: bool
    gradient_norm: float
    num_optima: int
    gap: float | None
    sigma: float
    delta_rule: str


def fit_point(
    law: Law, columns: Columns, centre: Mapping[str, float], y: Array, objective: str = "log-huber",
    delta: float | str = "auto", fixed: Mapping[str, float] | None = None, tilt: float = 1.0,
) -> PointFit:  # fmt: skip
    """Fit ``law`` to the response ``y`` (n,) at ``columns``; no start is needed.

    objective: one of ``OBJECTIVES``. delta: "auto" (1.345 robust standard deviations), "chinchilla" (1e-3) or a number;
    infinite is squared error. Raises ``FitError`` for another delta, ``ValueError`` for another objective.
    """
    chosen, rule = objective_with(objective, delta, tilt)
    rows = np.ones((1, len(y)))
    first = chosen if rule != AUTO else replace(chosen, penalty="mse")
    problem = make_problem(law, columns, centre, y, rows, first, fixed)
    starts = _starts(problem)
    if chosen.penalty == "lad":
        return _least_absolute(problem, starts, rule)
    if chosen.penalty == "huber" and rule != AUTO:
        starts = _narrowed(problem, starts)
    solution = _polish(problem, starts)
    if rule == AUTO:
        problem, solution = _robust(problem, solution)
    return _picked(problem, solution, rule)


AUTO = "auto: 1.345 robust sigma"


def objective_with(objective: str, delta: float | str, tilt: float = 1.0) -> tuple[Objective, str]:
    """The objective and the rule of its delta in words. Raises as ``fit_point`` does."""
    chosen = objective_named(objective, tilt=tilt)
    if chosen.penalty != "huber":
        return chosen, "none"
    if delta == "auto":
        return chosen, AUTO
    if delta == "chinchilla":
        return replace(chosen, delta=CHINCHILLA_DELTA), "chinchilla preset: 1e-3"
    try:
        number = float(delta)
    except ValueError:
        number = np.nan
    if not number > 0:
        raise FitError(f"delta is {delta!r}; allowed are auto, chinchilla, or a positive number")
    if np.isinf(number):
        return replace(chosen, penalty="mse"), "none"
    return replace(chosen, delta=number), "fixed"


def _starts(problem: Problem) -> Array:
    grid = make_grid(problem)
    return point_starts(problem, grid, POINT_STARTS if grid.sides else SOBOL_STARTS)


def _polish(problem: Problem, starts: Array) -> Solution:
    """All starts for a few steps, the distinct and most promising of them on; when the best of these still creeps along
    a flat valley, the best few to its end."""
    if len(starts) > FEW_STARTS:
        early = solve(_repeated(problem, len(starts)), starts, EARLY_ITERATIONS)
        order = np.argsort(early.objective)
        distinct = np.unique(np.round(early.theta[order], 3), axis=0, return_index=True)[1]
        starts = early.theta[order[np.sort(distinct)[:FINALISTS]]]
    found = solve(_repeated(problem, len(starts)), starts)
    lead = np.argsort(found.objective)[:CREEPERS]
    if found.converged[lead[0]]:
        return found
    return solve(_repeated(problem, len(lead)), found.theta[lead], LATE_ITERATIONS)


def _narrowed(problem: Problem, starts: Array) -> Array:
    """More starts for a delta far below the residuals, where the penalty is all kinks and Newton stalls: the optima of
    squared error, followed down tenfold at a time."""
    here = starts[:1] if len(starts) == 1 else starts[np.argmin(_repeated(problem, len(starts)).values(starts))][None]
    residual = problem.predict(here)[0] - problem.y
    delta, end = robust_sigma(residual, problem.law.num_params), float(problem.objective.delta)
    if end > _NARROW * delta:
        return starts
    solution = _polish(replace(problem, objective=replace(problem.objective, penalty="mse")), starts)
    while delta > end:
        smooth = replace(problem, objective=replace(problem.objective, delta=delta))
        solution = solve(_repeated(smooth, len(solution.theta)), solution.theta)
        delta *= _SHRINK
    return np.concatenate([starts, solution.theta])


def _repeated(problem: Problem, count: int) -> Problem:
    return replace(problem, weights=np.repeat(problem.weights, count, axis=0))


def robust_sigma(residual: Array, num_params: int) -> float:
    """Median absolute residual / 0.6745 without the ``num_params`` smallest (a fit makes that many near zero)."""
    size = np.sort(np.abs(residual))
    return float(np.median(size[min(num_params, len(size) - 1) :]) / 0.6745)


def _robust(problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
    """Squared error first, then Huber at 1.345 robust sigma of its residuals, three rounds; sigma may at most halve.

    Every round starts from all minima of the one before.
    """
    floor = 0.0
    for _ in range(_ROUNDS):
        best = solution.theta[_best(solution)]
        residual = problem.predict(best[None])[0] - problem.y
        used = max(HUBER_EFFICIENCY * robust_sigma(residual, problem.law.num_params), floor, _MIN_DELTA)
        floor = floor or used / 2.0
        problem = replace(problem, objective=replace(problem.objective, penalty="huber", delta=used))
        solution = solve(_repeated(problem, len(solution.theta)), solution.theta)
    return problem, solution


def _best(solution: Solution) -> int:
    usable = solution.converged if solution.converged.any() else np.ones(len(solution.converged), dtype=bool)
    return int(np.argmin(np.where(usable, solution.objective, np.inf)))


def _picked(problem: Problem, solution: Solution, rule: str) -> PointFit:
    best = _best(solution)
    theta = solution.theta[best]
    residual = problem.predict(theta[None])[0] - problem.y
    count, gap = _optima(solution, best)
    return PointFit(
        problem=problem,
        theta=theta,
        value=float(solution.objective[best]),
        converged=bool(solution.converged[best]),
        gradient_norm=float(solution.gradient_norm[best]),
        num_optima=count,
        gap=gap,
        sigma=robust_sigma(residual, problem.law.num_params),
        delta_rule=rule,
    )


def _optima(solution: Solution, best: int) -> tuple[int, float | None]:
    """How many distinct local optima the starts reached, and the relative gap from the best to the second."""
    found: list[int] = []
    for i in np.argsort(solution.objective):
        near = (np.abs(solution.theta[i] - solution.theta[j]).max() < 1e-3 for j in found)
        if solution.converged[i] and not any(near):
            found.append(int(i))
    if len(found) < 2:
        return max(len(found), 1), None
    lowest = max(float(solution.objective[best]), 1e-300)
    return len(found), float(solution.objective[found[1]] / lowest - 1.0)


def _least_absolute(problem: Problem, starts: Array, rule: str) -> PointFit:
    """Huber with a shrinking delta, then linear programs around the best point until the sum stops falling."""
    squared = replace(problem, objective=replace(problem.objective, penalty="mse"))
    solution = _polish(squared, starts)
    starts = solution.theta
    residual = problem.predict(solution.theta[_best(solution)][None])[0] - problem.y
    delta = max(robust_sigma(residual, problem.law.num_params), _MIN_DELTA)
    end = delta * _LAD_END
    while delta > end:
        smooth = replace(problem, objective=replace(problem.objective, penalty="huber", delta=delta))
        solution = solve(_repeated(smooth, len(starts)), solution.theta)
        delta *= _SHRINK
    theta = np.stack([_polished(problem, one) for one in solution.theta])
    values = replace(problem, weights=np.repeat(problem.weights, len(theta), axis=0)).values(theta)
    return _picked(problem, replace(solution, theta=theta, objective=values), rule)


def _polished(problem: Problem, theta: Array) -> Array:
    """Sequential linear programming: minimise sum |residual + J step| in a box that shrinks when the sum rises.

    At a vertex, where as many residuals vanish as parameters are free, this converges quadratically.
    """
    low, high = np.atleast_2d(problem.low)[0], np.atleast_2d(problem.high)[0]
    here, value, radius = theta, problem.values(theta[None])[0], 1.0
    for _ in range(_LAD_STEPS):
        found = derivatives(problem, here[None])
        reach = radius * _LAD_REACH / np.sqrt(np.maximum(np.mean(found.jacobian[0] ** 2, axis=1), 1e-300))
        step = _linear_step(found.jacobian[0], found.residual[0], problem.weights[0], reach, low - here, high - here)
        after = problem.values((here + step)[None])[0]
        if after < value:
            gain, here, value = value - after, here + step, after
            if gain < 1e-14 * value:
                break
        else:
            radius *= 0.25
            if radius < 1e-9:
                break
    return here


def _linear_step(jacobian: Array, residual: Array, weights: Array, reach: Array, low: Array, high: Array) -> Array:
    """The step (P,) that minimises sum_i w_i |r_i + (J^T step)_i| within +-reach and the bounds."""
    count, rows = jacobian.shape
    system = sparse.hstack([sparse.csc_matrix(jacobian.T), -sparse.identity(rows), sparse.identity(rows)])
    cost = np.concatenate([np.zeros(count), weights, weights])
    box = [(max(-r, a), min(r, b)) for r, a, b in zip(reach, low, high, strict=True)]
    found = linprog(cost, A_eq=system, b_eq=-residual, bounds=box + [(0, None)] * (2 * rows), method="highs")
    return found.x[:count] if found.x is not None else np.zeros(count)
