"""The optimum of a loss surface at each budget, found numerically for any cost, and its regression exponents.

Shapes: R surfaces, K budgets, S sizes tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.approaches.power import PowerLaws, as_lines, lines_through
from analysis.approaches.rows import Array

LossAt = Callable[[Array, Array], Array]
CostOf = Callable[[Array, Array], Array]
_FIRST, _NEXT, _FINE = 129, 17, 3e-4
_INVERSIONS, _INVERTED = 60, 1e-12


def six_nd(size: Array, tokens: Array) -> Array:
    """C = 6 N D."""
    return 6.0 * size * tokens


@dataclass(frozen=True)
class Optima:
    """ln N*, ln D*, ln L* (R, K) and whether the lowest loss lies on the border of the sizes tried (R, K)."""

    log_size: Array
    log_tokens: Array
    log_loss: Array
    at_edge: NDArray[np.bool_]


def tokens_for(cost: CostOf, size: Array, compute: Array) -> Array:
    """D with cost(N, D) = C; broadcasts. Raises ``ValueError`` where the cost is not positive or does not grow with D.

    Costs are close to linear in D, so ln D is moved by the missing ln C until it fits to 1e-12.
    """
    size, compute = np.broadcast_arrays(size, compute)
    one = cost(size, np.ones_like(size))
    if not np.all(np.isfinite(one) & (one > 0)):
        smallest = float(size[~(np.isfinite(one) & (one > 0))].max())
        raise ValueError(f"the cost of {smallest:.3g} parameters is not positive; give a size_range above it")
    log_d = np.log(compute / one)
    for _ in range(_INVERSIONS):
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            missing = np.log(compute) - np.log(cost(size, np.exp(log_d)))
        if not np.all(np.isfinite(missing)):
            break
        log_d = log_d + missing
        if np.max(np.abs(missing)) < _INVERTED * max(1.0, float(np.abs(log_d).max())):
            return np.exp(log_d)
    raise ValueError("the cost does not grow about in proportion to the tokens, so no D could be found for a budget")


def optima(
    loss_at: LossAt, cost: CostOf, compute: Array, size_range: tuple[float, float] | None = None, surfaces: int = 1
) -> Optima:
    """Minimise the loss over N at each budget (K,) by ever finer grids in ln N and a last parabola (N* to about 1e-8).

    loss_at(N, D) is called with arrays (R, K, S) and must work element by element; a batch of R surfaces keeps its
    parameters as (R, 1, 1). cost(N, D): FLOPs, element by element. size_range: without it, sqrt(C / 6) times and over
    1e5. Sizes at which the loss is not finite are passed over.
    """
    root = np.sqrt(compute / 6.0)
    low, high = (root / 1e5, root * 1e5) if size_range is None else (np.full_like(root, v) for v in size_range)
    ends = np.log(np.broadcast_to(np.stack([low, high], axis=-1), (surfaces, len(compute), 2)))
    left, right, count = ends[..., 0], ends[..., 1], _FIRST
    edge = np.zeros(left.shape, dtype=bool)
    while True:
        log_n = left[..., None] + (right - left)[..., None] * np.linspace(0, 1, count)
        tokens = tokens_for(cost, np.exp(log_n), compute[:, None])
        loss = np.broadcast_to(loss_at(np.exp(log_n), tokens), log_n.shape)
        loss = np.where(np.isfinite(loss), loss, np.inf)
        best = np.argmin(loss, axis=-1)
        if count == _FIRST:
            edge = (best == 0) | (best == count - 1)
        best = np.clip(best, 1, count - 2)
        left, right = _pick(log_n, best - 1), _pick(log_n, best + 1)
        if np.max(right - left) < 2 * _FINE:
            break
        count = _NEXT
    middle, step = _pick(log_n, best), (right - left) / 2
    below, at, above = (_pick(loss, best + i) for i in (-1, 0, 1))
    bend = below - 2 * at + above
    with np.errstate(invalid="ignore", divide="ignore"):
        move = np.where(bend > 0, 0.5 * (below - above) / bend, 0.0)
    log_size = middle + step * np.clip(move, -1, 1)
    many = tokens_for(cost, np.exp(log_size), compute)
    lowest = np.broadcast_to(loss_at(np.exp(log_size)[..., None], many[..., None]), (*log_size.shape, 1))[..., 0]
    return Optima(log_size, np.log(many), np.log(lowest), edge)


def _pick(values: Array, index: NDArray[np.int_]) -> Array:
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class RegressionExponents:
    """Power laws through simulated optima. bend: largest deviation of an ln N* from its line; 0 for a true power law.
    at_edge: budgets whose optimum fell on the border of the sizes tried and was left out."""

    laws: PowerLaws
    bend: float
    at_edge: tuple[float, ...]


def regression_exponents(
    loss_at: LossAt,
    cost: CostOf | None,
    compute_range: tuple[float, float],
    *,
    size_range: tuple[float, float] | None = None,
    num_budgets: int = 60,
) -> RegressionExponents:
    """a, b, c by simulation as in arXiv 2504.07951, C.2: minimise the loss at each budget, regress the logs on ln C.

    loss_at(N, D) and cost(N, D) work element by element; cost None is 6 N D. Unlike that paper, D is not limited to a
    grid of 10B to 600B, which bends the lines where the optimum leaves it. Under C = 6 N D the exponents of
    L = E + A/N^alpha + B/D^beta are the closed form. Raises ``ValueError`` for an empty compute range, or when fewer
    than two budgets have an optimum inside the sizes tried.
    """
    low, high = compute_range
    if not 0 < low < high:
        raise ValueError(f"compute_range is ({low:g}, {high:g}); it must be (low, high) with 0 < low < high")
    compute = np.geomspace(low, high, num_budgets)
    found = optima(loss_at, cost or six_nd, compute, size_range)
    inside = ~found.at_edge[0]
    if inside.sum() < 2:
        raise ValueError("no budget has its lowest loss inside the sizes tried; give a wider size_range")
    log_c = np.log(compute[inside])
    values = np.stack([found.log_size[0], found.log_tokens[0], found.log_loss[0]])[:, inside]
    center = float(log_c.mean())
    lines = lines_through(log_c, values, np.ones(values.shape), center)
    bend = float(np.abs(values[0] - lines[0, 0] - lines[0, 1] * (log_c - center)).max())
    span = float(compute[inside][0]), float(compute[inside][-1])
    why = "a simulation of one surface has no interval of its own"
    laws = PowerLaws(center, span, int(inside.sum()), as_lines(lines), 1.0, "regression on simulated optima", why)
    return RegressionExponents(laws, bend, tuple(map(float, compute[~inside])))
