"""Batched damped Newton inside bounds: many problems at once, exact gradient and Hessian, scale-free stopping.

Shapes: R problems, n rows, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.engine.problem import Problem, derivatives

MAX_ITERATIONS = 150
STOP_DECREASE = 1e-15
MAX_STEP = 2.0
_CHUNK_ELEMENTS = 240_000
_EXACT = 1e-26


@dataclass(frozen=True)
class Solution:
    """theta (R, P), objective (R,), gradient_norm: the decrease that the next step promises over the objective."""

    theta: Array
    objective: Array
    gradient_norm: Array
    iterations: NDArray[np.intp]
    converged: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> Solution:
        """The solutions ``rows``."""
        return Solution(*(getattr(self, name)[rows] for name in Solution.__dataclass_fields__))


def solve(problem: Problem, start: Array, max_iterations: int = MAX_ITERATIONS) -> Solution:
    """Polish R starts (R, P) of R problems to their local minima, in cache-sized chunks.

    A problem has converged when the decrease its next Newton step promises is below 1e-15 of its objective (that step
    is still taken), or when no step decreases it further and the promise is below 1e-8.
    """
    width = max((int(np.prod(np.shape(x)[1:])) for x in problem.ready), default=1)
    size = max(1, _CHUNK_ELEMENTS // max(problem.num_rows * width * start.shape[1], 1))
    pieces = []
    for begin in range(0, len(start), size):
        rows = np.arange(begin, min(begin + size, len(start)))
        pieces.append(_solve_chunk(problem.take(rows), start[rows], max_iterations))
    return Solution(*(np.concatenate([getattr(p, name) for p in pieces]) for name in Solution.__dataclass_fields__))


def _solve_chunk(problem: Problem, start: Array, max_iterations: int) -> Solution:
    theta = np.clip(start, problem.low, problem.high)
    count = len(theta)
    state = _State(problem, theta)
    gradient_norm, iterations = np.full(count, np.inf), np.zeros(count, dtype=np.intp)
    converged, damping = np.zeros(count, dtype=bool), np.full(count, 1e-3)
    active = np.nonzero(state.usable)[0]
    for _ in range(max_iterations):
        if not len(active):
            break
        part, here = problem.take(active), theta[active]
        now, gradient = state.value[active], state.gradient[active]
        moved = _moved(part, here, gradient, state.hessian[active], state.curvature[active], damping[active])
        decrease = -np.sum(gradient * (moved - here), axis=1)
        gradient_norm[active] = decrease / np.maximum(now, 1e-300)
        iterations[active] += 1
        flat = (decrease <= STOP_DECREASE * now) | (now <= _EXACT)
        after = _State(part.take(np.nonzero(~flat)[0]), moved[~flat])
        better = np.zeros(len(active), dtype=bool)
        better[~flat] = after.usable & (after.value < now[~flat])
        last = flat & (decrease >= 0)
        theta[active[better | last]] = moved[better | last]
        state.update(active[better], after, better[~flat])
        damping[active] = _next_damping(damping[active], better)
        stuck = ~better & ~flat & ((damping[active] > 1e12) | (decrease <= 1e-12 * now))
        converged[active] = flat | (stuck & (gradient_norm[active] < 1e-8))
        active = active[~(flat | stuck)]
    return Solution(theta, state.value, gradient_norm, iterations, converged)


def _moved(part: Problem, here: Array, gradient: Array, hessian: Array, curvature: Array, damping: Array) -> Array:
    """Where the damped step inside the bounds leads (R, P).

    A step that leaves the bounds is taken again with the parameters that left held at the bound they hit: clipping
    alone may turn it uphill.
    """
    free = ~(((here <= part.low) & (gradient > 0)) | ((here >= part.high) & (gradient < 0)))
    step = _limited(newton_step(gradient, hessian, curvature, free, damping))
    inside = np.clip(here + step, part.low, part.high)
    out = free & (inside != here + step)
    again = np.nonzero(out.any(axis=1))[0]
    if len(again):
        fixed = np.where(out[again], (inside - here)[again], 0.0)
        bent = gradient[again] + (hessian[again] @ fixed[:, :, None])[:, :, 0]
        rest = newton_step(bent, hessian[again], curvature[again], free[again] & ~out[again], damping[again])
        low, high = (b if b.ndim == 1 else b[again] for b in (part.low, part.high))
        inside[again] = np.clip(here[again] + _limited(fixed + rest), low, high)
    return inside


def _limited(step: Array) -> Array:
    return step * np.minimum(1.0, MAX_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))


class _State:
    """Objective and derivatives at the current points, so that an accepted step is evaluated once."""

    def __init__(self, problem: Problem, theta: Array) -> None:
        found = derivatives(problem, theta)
        self.value, self.gradient, self.hessian = found.value, found.gradient, found.hessian
        self.curvature = found.curvature
        self.usable = np.isfinite(self.value) & np.isfinite(self.hessian).all(axis=(1, 2))

    def update(self, rows: NDArray[np.intp], other: _State, chosen: NDArray[np.bool_]) -> None:
        """Take over the problems ``chosen`` of ``other``."""
        for name in ("value", "gradient", "hessian", "curvature"):
            getattr(self, name)[rows] = getattr(other, name)[chosen]


def _next_damping(damping: Array, better: NDArray[np.bool_]) -> Array:
    changed = np.where(better, damping / 5.0, np.maximum(damping, 1e-8) * 8.0)
    return np.where(changed < 1e-9, 0.0, changed)


def newton_step(gradient: Array, hessian: Array, curvature: Array, free: NDArray[np.bool_], damping: Array) -> Array:
    """-(|H| + damping)^-1 g (R, P) in curvature-scaled coordinates, zero where ``free`` is false.

    Taking the absolute eigenvalues makes every step a descent step also where the Hessian is not positive.
    """
    floor = 1e-12 * curvature.max(axis=1, keepdims=True) + 1e-300
    scale = np.where(free, 1.0 / np.sqrt(np.maximum(curvature, floor)), 0.0)
    scaled = scale[:, :, None] * hessian * scale[:, None, :]
    at = np.arange(scaled.shape[1])
    scaled[:, at, at] += ~free
    values, vectors = np.linalg.eigh(scaled)
    size = np.maximum(np.abs(values), 1e-10) + damping[:, None]
    along = (vectors.transpose(0, 2, 1) @ (scale * gradient)[:, :, None])[:, :, 0] / size
    return -scale * (vectors @ along[:, :, None])[:, :, 0]
