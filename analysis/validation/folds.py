"""Many subsets of one sample fitted at once: hold-outs, leave-one-out and row filters are row weights of one batch.

Shapes: R subsets, n rows, P parameters, S starts each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.engine.newton import Solution, solve
from analysis.engine.objective import Objective
from analysis.engine.point import AUTO, HUBER_EFFICIENCY, objective_with, robust_sigma
from analysis.engine.problem import Problem
from analysis.engine.starts import global_starts, make_grid
from analysis.fit import FLAT_ITERATIONS, Setup, flat_ends, flat_reason, flat_threshold

Keep = NDArray[np.bool_]
_ROUNDS = 3
_MIN_DELTA = 1e-7
_SHRINK = 0.1
_LAD_END = 1e-6


@dataclass(frozen=True)
class Folds:
    """The optimum of every subset ``keep`` (R, n): theta (R, P), value (R,), converged (R,).

    problem: the R problems at the objective used. delta (R,) of a Huber penalty, or None. deviation (R,): robust
    standard deviation of the residuals of the fitted rows.
    """

    problem: Problem
    keep: Keep
    theta: Array
    value: Array
    converged: NDArray[np.bool_]
    delta: Array | None
    deviation: Array

    def status(self, free: NDArray[np.bool_]) -> list[str]:
        """ "converged", "at_bound" or "failed" for every subset; ``free`` (P,) are the parameters that are fitted."""
        low, high = self.problem.low, self.problem.high
        stuck = np.any(((self.theta <= low) | (self.theta >= high)) & free, axis=1).tolist()
        return [
            "failed" if not good else "at_bound" if bound else "converged"
            for good, bound in zip(self.converged.tolist(), stuck, strict=True)
        ]


def fit_folds(
    setup: Setup,
    keep: Keep,
    objective: str = "log-huber",
    delta: float | str = "auto",
    tilt: float = 1.0,
    start: Array | None = None,
    tries: int = 3,
) -> Folds:
    """Fit the rows ``keep`` (R, n) of every subset; each has its own global search, and its own delta when "auto".

    start: (P,) or (R, P) working parameters tried besides, such as the fit to all rows. tries: candidates of the
    search that are polished. Least absolute deviations are the limit of Huber penalties down to 1e-6 robust sigma,
    whose optimum is off by about 2e-6 (``engine.point`` ends with linear programs instead, one fit at a time). Raises
    ``FitError`` and ``ValueError`` as ``fit_law`` does.
    """
    chosen, rule = objective_with(objective, delta, tilt)
    problem = setup.problem(keep.astype(float), replace(chosen, penalty="mse"))
    starts = global_starts(problem, make_grid(problem, coarse=True), tries)
    if start is not None:
        starts = np.concatenate([starts, np.broadcast_to(start, (len(keep), starts.shape[2]))[:, None]], axis=1)
    found = best_of(problem, starts)
    if rule == AUTO:
        problem, found = _robust(problem, keep, starts, found)
    elif chosen.penalty == "lad":
        found = _narrowed(problem, keep, found, None)
        problem = replace(problem, objective=chosen)
    elif chosen.penalty == "huber":
        found = _narrowed(problem, keep, found, float(chosen.delta))
        problem = replace(problem, objective=chosen)
        found = best_of(problem, np.concatenate([starts, found.theta[:, None]], axis=1))
    used = problem.objective
    return Folds(
        problem=problem,
        keep=keep,
        theta=found.theta,
        value=problem.values(found.theta),
        converged=found.converged,
        delta=np.broadcast_to(np.ravel(used.delta), len(keep)).astype(float) if used.penalty == "huber" else None,
        deviation=_deviations(problem, keep, found.theta),
    )


def best_of(problem: Problem, starts: Array) -> Solution:
    """The lowest optimum that the ``starts`` (R, S, P) of every problem reach, converged ones first."""
    count, tries, width = starts.shape
    found = solve(problem.take(np.repeat(np.arange(count), tries)), starts.reshape(-1, width))
    value = np.where(np.isfinite(found.objective), found.objective, np.inf).reshape(count, tries)
    usable = found.converged.reshape(count, tries)
    ranked = np.where(usable | ~usable.any(axis=1, keepdims=True), value, np.inf)
    return found.take(np.arange(count) * tries + ranked.argmin(axis=1))


def _deviations(problem: Problem, keep: Keep, theta: Array) -> Array:
    residual = problem.predict(theta) - problem.y
    return np.array([robust_sigma(r[rows], theta.shape[1]) for r, rows in zip(residual, keep, strict=True)])


def _huber(problem: Problem, objective: Objective, delta: Array) -> Problem:
    return replace(problem, objective=replace(objective, penalty="huber", delta=delta[:, None]))


def _robust(problem: Problem, keep: Keep, starts: Array, found: Solution) -> tuple[Problem, Solution]:
    """Squared error first, then Huber at 1.345 robust sigma of its residuals, as ``engine.point`` does for one fit.

    Only the last round searches globally again.
    """
    floor = np.zeros(len(keep))
    for last in [False] * (_ROUNDS - 1) + [True]:
        wanted = HUBER_EFFICIENCY * _deviations(problem, keep, found.theta)
        used = np.maximum(np.maximum(wanted, floor), _MIN_DELTA)
        floor = np.where(floor > 0, floor, used / 2.0)
        problem = _huber(problem, problem.objective, used)
        again = found.theta[:, None]
        found = best_of(problem, np.concatenate([starts, again], axis=1) if last else again)
    return problem, found


def _narrowed(problem: Problem, keep: Keep, found: Solution, end: float | None) -> Solution:
    """Follow the optimum from squared error down to Huber at ``end`` (None: 1e-6 robust sigma), tenfold at a time.

    Newton from far away stalls on a delta far below the residuals: the penalty is then all kinks.
    """
    delta = np.maximum(_deviations(problem, keep, found.theta), _MIN_DELTA)
    last = delta * _LAD_END if end is None else np.full(len(keep), end)
    while (delta > last).any():
        delta = np.maximum(delta * _SHRINK, last)
        found = solve(_huber(problem, problem.objective, delta), found.theta)
    return found


def flat_folds(setup: Setup, folds: Folds) -> list[dict[str, str]]:
    """For every subset the parameters whose profile stays below the 95 % F threshold all the way to a bound.

    The question of ``fit.flat_directions``, asked of all subsets and ends in one batch. The profile is followed from
    the optimum alone, for 40 steps, with a penalty that is smooth within one robust sigma; what it finds is judged by
    the objective itself. All three can only miss a valley that is barely flat.
    """
    count, ends = len(folds.keep), flat_ends(setup)
    threshold = flat_threshold(setup, folds.value, folds.keep.sum(axis=1))
    flat: list[dict[str, str]] = [{} for _ in range(count)]
    if not ends:
        return flat
    which = np.tile(np.arange(count), len(ends))
    problem = _pinned(folds, which, np.repeat([at for _, at, _ in ends], count), np.repeat([e[2] for e in ends], count))
    smooth = problem
    if problem.objective.penalty != "mse":
        narrow = np.zeros(count) if folds.delta is None else folds.delta
        smooth = _huber(problem, problem.objective, np.maximum(np.maximum(narrow, folds.deviation), _MIN_DELTA)[which])
    reached = problem.values(solve(smooth, folds.theta[which], FLAT_ITERATIONS).theta) <= threshold[which]
    for (name, _, end), fold in ((ends[i // count], i % count) for i in np.nonzero(reached)[0]):
        flat[fold].setdefault(name, flat_reason(setup, name, end))
    return flat


def _pinned(folds: Folds, which: NDArray[np.intp], at: NDArray[np.intp], end: Array) -> Problem:
    """The problems ``which`` with working parameter ``at`` held at ``end``, one of each per problem."""
    problem = folds.problem.take(which)
    low, high = (np.broadcast_to(b, (len(which), folds.theta.shape[1])).copy() for b in (problem.low, problem.high))
    low[np.arange(len(which)), at] = high[np.arange(len(which)), at] = end
    return replace(problem, low=low, high=high)
