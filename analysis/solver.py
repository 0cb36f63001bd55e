"""Batched projected Newton for the Huber objective of a log-sum-exp law: many resamples solved at once.

Shapes: R problems, n rows, P parameters, K terms.
    theta (R, P)   low, high (P,) or (R, P)   y (n,) or (R, n) = ln of the observed loss   weights (R, n)

Objective per problem: sum_i w_i huber_delta(ln L(theta, i) - y_i), a sum and not a mean, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws import Array

MAX_ITERATIONS = 120
STOP_DECREASE = 1e-15
MAX_STEP = 2.0
_CHUNK_ELEMENTS = 60_000


@dataclass(frozen=True)
class Problem:
    """The data of R fits of one law: ``design`` holds one (n, P_k) block per term; ``offset`` puts E first."""

    design: list[Array]
    offset: bool
    y: Array
    weights: Array
    delta: float
    low: Array
    high: Array

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """The sub-batch of problems ``rows``."""
        y = self.y if self.y.ndim == 1 else self.y[rows]
        low = self.low if self.low.ndim == 1 else self.low[rows]
        high = self.high if self.high.ndim == 1 else self.high[rows]
        return Problem(self.design, self.offset, y, self.weights[rows], self.delta, low, high)


@dataclass(frozen=True)
class Solution:
    """What Newton found. gradient_norm: largest projected gradient entry, per unit of curvature-scaled step."""

    theta: Array
    objective: Array
    gradient_norm: Array
    iterations: NDArray[np.intp]
    converged: NDArray[np.bool_]


def log_loss_and_shares(problem: Problem, theta: Array) -> tuple[Array, list[Array], Array]:
    """ln L (R, n), the share of each term in L [(R, n)] and 1 / L (R, n), without overflow."""
    at, logs = int(problem.offset), []
    for block in problem.design:
        logs.append(theta[:, at : at + block.shape[1]] @ block.T)
        at += block.shape[1]
    top = np.maximum.reduce(logs)
    if problem.offset:
        top = np.maximum(top, 0.0)
    parts = [np.exp(log - top) for log in logs]
    total = sum(parts[1:], parts[0])
    if problem.offset:
        total = total + theta[:, :1] * np.exp(-top)
    return top + np.log(total), [part / total for part in parts], np.exp(-top) / total


def huber(residual: Array, delta: float) -> Array:
    """r^2 / 2 inside delta, delta (|r| - delta / 2) outside; ``delta`` = inf is half the square."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return inside * (size - 0.5 * inside)


def objective(problem: Problem, theta: Array) -> Array:
    """Weighted sum of Huber losses (R,)."""
    log_loss, _, _ = log_loss_and_shares(problem, theta)
    return np.sum(problem.weights * huber(log_loss - problem.y, problem.delta), axis=1)


def jacobian(problem: Problem, theta: Array) -> tuple[Array, Array, list[Array]]:
    """ln L (R, n), d ln L / d theta (R, n, P) and the shares of the terms."""
    log_loss, shares, inverse = log_loss_and_shares(problem, theta)
    blocks = [inverse[:, :, None]] if problem.offset else []
    blocks += [share[:, :, None] * block for share, block in zip(shares, problem.design, strict=True)]
    return log_loss, np.concatenate(blocks, axis=2), shares


def derivatives(problem: Problem, theta: Array) -> tuple[Array, Array, Array, Array]:
    """Objective (R,), gradient (R, P), Hessian (R, P, P) and the always-PSD reweighted metric (R, P, P)."""
    log_loss, jac, shares = jacobian(problem, theta)
    residual = log_loss - problem.y
    size = np.abs(residual)
    slope = problem.weights * np.clip(residual, -problem.delta, problem.delta)
    inner = problem.weights * (size <= problem.delta)
    reweighted = problem.weights * np.minimum(1.0, problem.delta / np.maximum(size, 1e-300))
    value = np.sum(problem.weights * huber(residual, problem.delta), axis=1)
    transposed = jac.transpose(0, 2, 1)
    gradient = (transposed @ slope[:, :, None])[:, :, 0]
    hessian = transposed @ ((inner - slope)[:, :, None] * jac)
    metric = transposed @ (reweighted[:, :, None] * jac)
    at = int(problem.offset)
    for share, block in zip(shares, problem.design, strict=True):
        width = block.shape[1]
        outer = (block[:, :, None] * block[:, None, :]).reshape(len(block), -1)
        hessian[:, at : at + width, at : at + width] += ((slope * share) @ outer).reshape(-1, width, width)
        at += width
    return value, gradient, hessian, metric


def _newton_step(gradient: Array, hessian: Array, metric: Array, free: NDArray[np.bool_], damping: Array) -> Array:
    """-(|H| + damping) ^-1 g in curvature-scaled coordinates, zero where ``free`` is false."""
    diagonal = np.einsum("rii->ri", metric)
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    scale = np.where(free, scale, 0.0)
    scaled = scale[:, :, None] * hessian * scale[:, None, :]
    scaled += np.einsum("ri,ij->rij", (~free).astype(float), np.eye(free.shape[1]))
    values, vectors = np.linalg.eigh(scaled)
    curvature = np.maximum(np.abs(values), 1e-10) + damping[:, None]
    along = np.einsum("rji,rj->ri", vectors, scale * gradient) / curvature
    return -scale * np.einsum("rij,rj->ri", vectors, along)


def _solve_chunk(problem: Problem, start: Array) -> Solution:
    theta = np.clip(start, problem.low, problem.high)
    count = len(theta)
    damping, active = np.full(count, 1e-3), np.arange(count)
    value, gradient_norm = np.full(count, np.inf), np.full(count, np.inf)
    iterations, converged = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=bool)
    for _ in range(MAX_ITERATIONS):
        part = problem.take(active)
        here = theta[active]
        now, gradient, hessian, metric = derivatives(part, here)
        value[active] = now
        free = ~(((here <= part.low) & (gradient > 0)) | ((here >= part.high) & (gradient < 0)))
        step = _newton_step(gradient, hessian, metric, free, damping[active])
        step *= np.minimum(1.0, MAX_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        moved = np.clip(here + step, part.low, part.high)
        decrease = -np.sum(gradient * (moved - here), axis=1)
        gradient_norm[active] = decrease / np.maximum(now, 1e-300)
        after = objective(part, moved)
        better = after < now
        theta[active[better]] = moved[better]
        value[active[better]] = after[better]
        damping[active] = np.where(better, damping[active] / 5.0, np.maximum(damping[active], 1e-8) * 8.0)
        damping[active] = np.where(damping[active] < 1e-9, 0.0, damping[active])
        iterations[active] += 1
        flat = (decrease <= STOP_DECREASE * now) | (now <= 1e-26)
        stuck = ~better & ((damping[active] > 1e12) | (decrease <= 1e-12 * now))
        converged[active] = flat | (stuck & (gradient_norm[active] < 1e-8))
        active = active[~(flat | stuck)]
        if not len(active):
            break
    return Solution(theta, value, gradient_norm, iterations, converged)


def solve(problem: Problem, start: Array) -> Solution:
    """Polish R starts (R, P) of R problems to their local minima, in cache-sized chunks.

    A problem is converged when the decrease its next Newton step promises is below 1e-15 of its objective, or when
    no step decreases it further and the promise is below 1e-8.
    """
    rows = problem.weights.shape[1] * start.shape[1]
    size = max(1, _CHUNK_ELEMENTS // max(rows, 1))
    pieces = []
    for begin in range(0, len(start), size):
        rows_here = np.arange(begin, min(begin + size, len(start)))
        pieces.append(_solve_chunk(problem.take(rows_here), start[rows_here]))
    return Solution(*(np.concatenate([getattr(p, name) for p in pieces]) for name in Solution.__dataclass_fields__))
