"""Global starts by variable projection: the nonlinear parameters on a grid, the linear ones by least squares.

Shapes: R weight vectors, n rows, G grid points, K linear parameters, P parameters.

For every grid point the law is f0 + sum_k c_k phi_k; phi_k is its exact derivative with respect to c_k. The weighted
normal equations of all grid points and all weight vectors are then one matrix product. No start is ever supplied by a
user. Two or fewer nonlinear parameters are searched on a full geometric grid, more on a Sobol sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from analysis.engine.jet import Array, Jet
from analysis.engine.law import Law, linear_params
from analysis.engine.problem import Problem

GRID_SIDE = 16
COARSE_SIDE = 12
SOBOL_POINTS = 4096
COARSE_SOBOL = 512
SEARCH_ROWS = 512
VALLEY_STARTS = 16
_VALLEY = 1.02
_LIKELY = 3.0
_RIDGE = 1e-13
_BASIS_ELEMENTS = 2_000_000
_MOMENT_ELEMENTS = 500_000


@dataclass(frozen=True)
class Grid:
    """Candidates of one problem family: natural parameters (G, P) with unit linear ones, the basis phi (G, K, n) and
    the part f0 (G, n) that no free linear parameter touches; sides of a full grid, or () for a Sobol sequence; the
    ``rows`` of the problem that were looked at."""

    points: Array
    basis: Array
    base: Array
    linear: tuple[int, ...]
    signed: tuple[bool, ...]
    sides: tuple[int, ...]
    rows: NDArray[np.intp]


def make_grid(problem: Problem, coarse: bool = False) -> Grid:
    """The grid of a problem; ``coarse`` for resamples, which also start from the point estimate."""
    law = problem.law
    low, high = (np.atleast_2d(b)[0] for b in (problem.low, problem.high))
    held = low == high
    chosen = {law.names.index(name) for name in linear_params(law, problem.ready)}
    if law.log_value != problem.objective.is_log and law.log_value:
        chosen = set()
    linear = tuple(i for i in sorted(chosen) if not held[i])
    nonlinear = [i for i in range(law.num_params) if i not in linear and not held[i]]
    points = np.ones((1, law.num_params))
    for i in np.nonzero(held)[0]:
        points[:, i] = np.exp(low[i]) if law.params[law.names[i]].log else low[i]
    points, sides = _spread(law, points, nonlinear, coarse)
    rows = thinned(problem)
    basis, base = _evaluate(law, points, [x[rows] for x in problem.ready], linear)
    signed = tuple(law.params[law.names[i]].low < 0 for i in linear)
    return Grid(points, basis, base, linear, signed, sides, rows)


def thinned(problem: Problem) -> NDArray[np.intp]:
    """Rows that the search looks at: all of them up to 512, else evenly spaced ones."""
    return np.unique(np.linspace(0, problem.num_rows - 1, min(problem.num_rows, SEARCH_ROWS)).astype(np.intp))


def _evaluate(law: Law, points: Array, ready: list[Any], linear: tuple[int, ...]) -> tuple[Array, Array]:
    """phi (G, K, n) and f0 (G, n), in pieces that stay small for laws whose columns are matrices."""
    shape = len(points), len(ready[0])
    basis, base = np.zeros((shape[0], len(linear), shape[1])), np.zeros(shape)
    step = max(1, _BASIS_ELEMENTS // max(max(x.size for x in ready), 1))
    for begin in range(0, len(points), step):
        here = slice(begin, begin + step)
        with np.errstate(all="ignore"):
            jet = law.natural_jet(points[here], ready, linear)
        value, first = (jet.value, jet.first) if isinstance(jet, Jet) else (jet, {})
        base[here] = value
        for k, i in enumerate(linear):
            basis[here, k] = first[i]
    return basis, base - basis.sum(axis=1)


def _spread(law: Law, fixed: Array, nonlinear: list[int], coarse: bool) -> tuple[Array, tuple[int, ...]]:
    if not nonlinear:
        return fixed, ()
    kinds = [law.params[law.names[i]] for i in nonlinear]
    if len(nonlinear) <= 2:
        side = COARSE_SIDE if coarse else GRID_SIDE if len(nonlinear) == 2 else 4 * GRID_SIDE
        axes = np.meshgrid(*[np.linspace(0.0, 1.0, side)] * len(nonlinear), indexing="ij")
        unit, sides = np.stack([a.ravel() for a in axes], axis=1), (side,) * len(nonlinear)
    else:
        count = COARSE_SOBOL if coarse else SOBOL_POINTS
        unit, sides = qmc.Sobol(len(nonlinear), scramble=False).random(count), ()
    points = np.repeat(fixed, len(unit), axis=0)
    for column, (i, kind) in enumerate(zip(nonlinear, kinds, strict=True)):
        low, high = kind.search
        share = unit[:, column]
        points[:, i] = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return points, sides


def global_starts(problem: Problem, grid: Grid, keep: int) -> Array:
    """``keep`` starts (R, keep, P) in working parameters: the best projected candidates, local minima on a full grid.

    Unfilled places repeat the best.
    """
    count = len(problem.weights)
    moments = _Moments(grid)
    pairs = max((len(grid.linear) + 1) * (len(grid.linear) + 2) // 2, 1)
    size = max(1, _MOMENT_ELEMENTS // max(len(grid.points) * pairs, 1))
    chunks = []
    for begin in range(0, count, size):
        part = problem.take(np.arange(begin, min(begin + size, count)))
        error, coefficients = moments.project(part)
        chunks.append(_assemble(problem, grid, coefficients, _best(error, grid.sides, keep)))
    return np.concatenate(chunks)


def point_starts(problem: Problem, grid: Grid, keep: int) -> Array:
    """Distinct starts (S, P) for a single problem: those of ``global_starts`` and, on a full grid, the best points by
    the objective itself as far as they are within 2 % of the very best.

    Along a flat valley of squared error a robust objective may have several minima; without a valley these are few.
    """
    error, coefficients = _Moments(grid).project(problem)
    chosen = _best(error, grid.sides, keep)
    if not grid.sides:
        return np.unique(_assemble(problem, grid, coefficients, chosen)[0], axis=0)
    likely = np.nonzero(error[0] <= _LIKELY * error[0].min())[0]
    candidates = _assemble(problem, grid, coefficients, likely[None])[0]
    value = replace(problem, weights=np.repeat(problem.weights, len(candidates), axis=0)).values(candidates)
    order = np.argsort(value)[:VALLEY_STARTS]
    near = likely[order[value[order] <= _VALLEY * value[order[0]]]]
    return np.unique(_assemble(problem, grid, coefficients, np.union1d(chosen[0], near)[None])[0], axis=0)


class _Moments:
    """Products of the basis per row, so that weighted normal equations are one matrix product."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.count = len(grid.linear)
        self.pairs = list(combinations_with_replacement(range(self.count), 2))
        self.products = [grid.basis[:, i] * grid.basis[:, j] for i, j in self.pairs]
        self.crossed = [grid.basis[:, k] * grid.base for k in range(self.count)]
        self.squared = grid.base**2

    def project(self, problem: Problem) -> tuple[Array, Array]:
        """Weighted squared error (R, G) and coefficients (R, G, K) with the non-negative ones kept so."""
        response, weights = _target(problem, self.grid.rows)
        grid, shape = self.grid, (len(weights), len(self.grid.points))
        normal = np.zeros((*shape, self.count, self.count))
        for (i, j), product in zip(self.pairs, self.products, strict=True):
            normal[:, :, i, j] = normal[:, :, j, i] = weights @ product.T
        weighted = weights * response
        right = np.zeros((*shape, self.count))
        for k in range(self.count):
            right[:, :, k] = weighted @ grid.basis[:, k].T - weights @ self.crossed[k].T
        with np.errstate(all="ignore"):
            total = np.sum(weighted * response, axis=1)[:, None] - 2 * weighted @ grid.base.T + weights @ self.squared.T
        coefficients = _non_negative(normal, right, grid.signed)
        fitted = np.einsum("rgk,rgk->rg", coefficients, 2 * right - np.einsum("rgkl,rgl->rgk", normal, coefficients))
        error = total - fitted
        return np.where(np.isfinite(error), error, np.inf), coefficients


def _target(problem: Problem, rows: NDArray[np.intp]) -> tuple[Array, Array]:
    """What the linear part must match and with which weights: relative error stands for a logarithmic residual."""
    weights = problem.weights[:, rows]
    y = np.broadcast_to(problem.y, problem.weights.shape)[:, rows]
    if not problem.objective.is_log or problem.law.log_value:
        return y, weights
    loss = np.exp(y)
    return loss, weights / loss**2


def _non_negative(normal: Array, right: Array, signed: tuple[bool, ...]) -> Array:
    """Least squares (R, G, K); a negative coefficient that must not be is set to zero, the worst first, and the rest
    solved again, at most K times."""
    shape, count = right.shape, right.shape[-1]
    if count == 0:
        return right
    matrix = np.ascontiguousarray(np.moveaxis(normal.reshape(-1, count, count), 0, 2))
    target = np.ascontiguousarray(right.reshape(-1, count).T)
    scale = 1.0 / np.sqrt(np.maximum(matrix[np.arange(count), np.arange(count)], 1e-300))
    matrix *= scale[:, None] * scale[None, :]
    target *= scale
    matrix[~np.isfinite(matrix)] = 0.0
    target[~np.isfinite(target)] = 0.0
    may_not = ~np.array(signed)[:, None]
    active = np.ones(target.shape, dtype=bool)
    out = _eliminated(matrix, target, active)
    for _ in range(count):
        negative = np.where(may_not & active, out, 0.0)
        bad = np.nonzero(negative.min(axis=0) < 0)[0]
        if not len(bad):
            break
        active[negative[:, bad].argmin(axis=0), bad] = False
        out[:, bad] = _eliminated(matrix[:, :, bad], target[:, bad], active[:, bad])
    return (np.where(may_not, np.maximum(out, 0.0), out) * scale).T.reshape(shape)


def _eliminated(matrix: Array, right: Array, active: NDArray[np.bool_]) -> Array:
    """Gaussian elimination of many small positive systems at once, (K, K, M) and (K, M); inactive entries get 0."""
    count = len(right)
    a = np.where(active[:, None] & active[None, :], matrix, 0.0)
    for k in range(count):
        a[k, k] += np.where(active[k], _RIDGE, 1.0)
    x = np.where(active, right, 0.0)
    for k in range(count):
        for i in range(k + 1, count):
            factor = a[i, k] / a[k, k]
            a[i, k + 1 :] -= factor * a[k, k + 1 :]
            x[i] -= factor * x[k]
    for k in range(count - 1, -1, -1):
        x[k] = (x[k] - np.sum(a[k, k + 1 :] * x[k + 1 :], axis=0)) / a[k, k]
    return x


def _best(error: Array, sides: tuple[int, ...], keep: int) -> NDArray[np.intp]:
    """Flat indices (R, keep) of the lowest candidates; on a full grid only those that no neighbour undercuts."""
    ranked = error
    if sides:
        cube = error.reshape(len(error), *sides)
        lowest = np.ones(cube.shape, dtype=bool)
        for axis in range(1, cube.ndim):
            padding = [(0, 0)] * cube.ndim
            padding[axis] = (1, 1)
            padded = np.pad(cube, padding, constant_values=np.inf)
            length = cube.shape[axis]
            for offset in (0, 2):
                neighbour = np.take(padded, np.arange(offset, offset + length), axis=axis)
                lowest &= cube <= neighbour
        ranked = np.where(lowest.reshape(error.shape), error, np.inf)
    width = min(keep, ranked.shape[1])
    order = np.argpartition(ranked, width - 1, axis=1)[:, :width]
    order = np.take_along_axis(order, np.argsort(np.take_along_axis(ranked, order, axis=1), axis=1), axis=1)
    order = order[:, np.minimum(np.arange(keep), width - 1)]
    found = np.isfinite(np.take_along_axis(ranked, order, axis=1))
    return np.where(found, order, order[:, :1])


def _assemble(problem: Problem, grid: Grid, coefficients: Array, best: NDArray[np.intp]) -> Array:
    """Working parameters (R, keep, P) of the chosen candidates."""
    law = problem.law
    natural = grid.points[best].copy()
    rows = np.arange(len(best))[:, None]
    for k, i in enumerate(grid.linear):
        natural[:, :, i] = coefficients[rows, best, k]
    for i, kind in enumerate(law.params.values()):
        if kind.log:
            natural[:, :, i] = np.log(np.maximum(natural[:, :, i], 1e-12))
        elif kind.low == 0.0:
            natural[:, :, i] = np.maximum(natural[:, :, i], 1e-12)
    low, high = np.atleast_2d(problem.low)[:1], np.atleast_2d(problem.high)[:1]
    return np.clip(natural, low[:, None, :], high[:, None, :])
