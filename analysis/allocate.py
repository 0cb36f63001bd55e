"""From a fitted law to decisions: compute of a (N, D) pair, the best split of a budget, the loss it reaches.

Shapes: R draws, K budgets, S sizes tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array

if TYPE_CHECKING:
    from analysis.result import FitResult, Interval

Cost = tuple[float, float, float]
SIX_ND: Cost = (6.0, 1.0, 0.0)
_SIZES_TRIED = 161


def fit_cost(size: Array, tokens: Array, compute: Array) -> Cost:
    """(scale, power, error) of C = scale N^power D, and its largest relative error over the rows.

    Embeddings and attention make FLOPs per token differ from 6 N at small sizes, so the exact column is summarised
    instead of assumed. One size only: power 1.
    """
    per_token, log_n = np.log(compute / tokens), np.log(size)
    if np.ptp(log_n) < 1e-9:
        power, level = 1.0, float(np.mean(per_token - log_n))
    else:
        power, level = (float(v) for v in np.polyfit(log_n, per_token, 1))
    error = float(np.max(np.abs(np.expm1(level + power * log_n - per_token))))
    return float(np.exp(level)), power, error


def allocation_exponents(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """(a, b) of N* ~ C^a, D* ~ C^b under C = 6 N D: beta / (alpha + beta), alpha / (alpha + beta)."""
    return beta / (alpha + beta), alpha / (alpha + beta)


@dataclass(frozen=True)
class Frontier:
    """The lowest predicted loss (R, K) at each budget, the size and tokens that reach it, and whether it sits on an
    edge of the sizes or tokens that were tried (then the true optimum may lie outside)."""

    loss: Array
    size: Array
    tokens: Array
    at_edge: NDArray[np.bool_]


def frontier(
    loss_at: Callable[[Array, Array], Array],
    compute: Array,
    cost: Cost,
    size_range: tuple[float, float],
    tokens_range: tuple[float, float],
) -> Frontier:
    """Minimise ``loss_at(size (m,), tokens (m,)) -> (R, m)`` along scale N^power D = C, inside the tested box.

    Budgets (K,) that no pair inside the box costs get NaN. Sizes are log-spaced, so N* is known to about
    ln(largest / smallest) / 160; the loss near an optimum is flat, so its error is far below any interval.
    """
    scale, power, _ = cost
    sizes = np.geomspace(*size_range, _SIZES_TRIED)
    tokens = compute[:, None] / (scale * sizes[None, :] ** power)
    slack = 1e-9
    inside = (tokens >= tokens_range[0] * (1 - slack)) & (tokens <= tokens_range[1] * (1 + slack))
    usable = np.where(inside, tokens, tokens_range[0])
    loss = loss_at(np.tile(sizes, len(compute)), usable.ravel()).reshape(-1, *tokens.shape)
    loss = np.where(inside[None], loss, np.inf)
    best = np.argmin(loss, axis=2)
    rows = np.arange(len(compute))[None, :]
    lowest = np.take_along_axis(loss, best[:, :, None], axis=2)[:, :, 0]
    first, last = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    edge = (best == first[None]) | (best == last[None])
    empty = ~np.isfinite(lowest)
    return Frontier(
        np.where(empty, np.nan, lowest),
        np.where(empty, np.nan, sizes[best]),
        np.where(empty, np.nan, tokens[rows, best]),
        edge | empty,
    )


@dataclass(frozen=True)
class Split:
    """The best use of one budget under a fit: N*, D* and the loss, each with its interval where the fit has draws.

    at_edge: the optimum lies on the border of what was tried, so N* and D* are bounds and not estimates.
    """

    compute: float
    size: Interval
    tokens: Interval
    loss: Interval
    at_edge: bool


def fit_frontier(fit: FitResult, compute: Array) -> Frontier:
    """The frontier of a fit inside its own tested box: row 0 is the point, the rest are its draws where it has any."""
    theta = fit.theta[None] if fit.draws is None else np.concatenate([fit.theta[None], fit.draws])
    return frontier(lambda n, d: fit.predict_draws(theta, n, d), compute, fit.cost, fit.size_range, fit.tokens_range)


def frontier_curves(fit: FitResult, compute: Array) -> Array:
    """ln of the frontier loss (1 + B, K), draws stretched about the point; NaN where no tested pair costs so much."""
    log = np.log(fit_frontier(fit, compute).loss)
    return np.concatenate([log[:1], log[:1] + fit.widening * (log[1:] - log[:1])])


def best_splits(fit: FitResult, budgets: Array) -> list[Split]:
    """N*(C), D*(C) and loss for budgets (K,) inside the tested compute; budgets no tested pair costs are left out."""
    best = fit_frontier(fit, budgets)
    found = []
    for k in np.nonzero(np.isfinite(best.loss[0]))[0]:
        size, tokens, loss = (_stretched(curve[:, k], fit.widening) for curve in (best.size, best.tokens, best.loss))
        found.append(Split(float(budgets[k]), size, tokens, loss, bool(best.at_edge[0, k])))
    return found


def _stretched(values: Array, widening: float) -> Interval:
    """Percentile interval of the draws (1 + B,) about the point, in logs."""
    from analysis.result import Interval

    point = float(values[0])
    if len(values) == 1:
        return Interval(point, point, point)
    spread = widening * np.log(values[1:] / point)
    low, high = np.percentile(spread, [2.5, 97.5])
    return Interval(point, point * float(np.exp(min(low, 0.0))), point * float(np.exp(max(high, 0.0))))
