"""From a fitted law to decisions: compute of a (N, D) pair, the best split of a budget, the loss it reaches.

Two questions, two answers. What did the tests show? ``frontier`` and ``best_splits`` never leave the tested sizes and
tokens. What should a given budget buy? ``allocate`` follows the law wherever it leads and says how far that is from
anything that was tested.

Shapes: R draws (the point first), K budgets, S sizes tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.decisions.concrete import Config, Sizes, nearest_configs
from analysis.decisions.optimum import SIX_ND, Cost, Optimum, check_columns, cost_of, landscape, optimum, tolerated
from analysis.engine.jet import Array
from analysis.result import FitResult, Interval
from analysis.uncertainty.draws import COVARIANCE_DRAWS, Spread, interval_from, spread_of

__all__ = ["SIX_ND", "Allocation", "Cost", "Frontier", "NearOptimal", "Split", "allocate", "allocation_exponents",
           "best_splits", "fit_cost", "fit_frontier", "frontier", "frontier_curves"]  # fmt: skip

TOLERANCES = (0.5, 1.0)
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


def fit_frontier(fit: FitResult, compute: Array, given: Mapping[str, float] | None = None) -> Frontier:
    """The frontier of a fit inside its own tested box: row 0 is the point, the rest are its draws where it has any.

    A law of C alone is its own frontier, without N and D (NaN). given: values of columns beyond N, D and C. Raises
    ``ValueError`` for a fit that has neither C nor both N and D.
    """
    theta = fit.theta[None] if fit.draws is None else np.concatenate([fit.theta[None], fit.draws])
    fixed = dict(given or {})
    if set(fit.shape.columns) <= {"C", *fixed}:
        columns = {"C": compute} | {name: np.full(len(compute), value) for name, value in fixed.items()}
        loss = fit.respond(columns, theta) + fit.added_entropy()
        none = np.full(loss.shape, np.nan)
        return Frontier(loss, none, none, np.zeros(loss.shape, dtype=bool))
    check_columns(fit.shape, fixed)

    def loss_at(size: Array, tokens: Array) -> Array:
        columns = {name: np.full(len(size), value) for name, value in fixed.items()} | {"N": size, "D": tokens}
        return fit.respond(columns, theta) + fit.added_entropy()

    return frontier(loss_at, compute, cost_of(fit), fit.size_range, fit.tokens_range)


def frontier_curves(fit: FitResult, compute: Array, given: Mapping[str, float] | None = None) -> Array:
    """ln of the frontier loss (1 + B, K), draws stretched about the point; NaN where no tested pair costs so much."""
    log = np.log(fit_frontier(fit, compute, given).loss)
    return np.concatenate([log[:1], log[:1] + fit.widening * (log[1:] - log[:1])])


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


def best_splits(fit: FitResult, budgets: Array) -> list[Split]:
    """N*(C), D*(C) and loss for budgets (K,) inside the tested compute; budgets no tested pair costs are left out."""
    best = fit_frontier(fit, budgets)
    found = []
    for k in np.nonzero(np.isfinite(best.loss[0]))[0]:
        size, tokens, loss = (_stretched(curve[:, k], fit.widening) for curve in (best.size, best.tokens, best.loss))
        found.append(Split(float(budgets[k]), size, tokens, loss, bool(best.at_edge[0, k])))
    return found


def _stretched(values: Array, widening: float) -> Interval:
    """Percentile interval of the draws (1 + B,) about the point, in logs; without draws the point alone."""
    if len(values) == 1:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    return replace(interval_from(values, widening), known=True, why="")


@dataclass(frozen=True)
class NearOptimal:
    """Sizes whose loss at the same budget is at most ``percent`` above the best; 0 or infinity for no end."""

    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Allocation:
    """What one budget buys under a fitted law.

    size, tokens, tokens_per_parameter, loss: the optimum with 95 % intervals; not ``known`` where the law does not
    identify it. beyond: for C, N and D the factor by which the answer lies outside the fitted range, 1 inside; an
    answer with any above 1 is an extrapolation of the law. near: the price of another size. config: the nearest named
    size, where names were given. method: "closed form" or "search"; ci_method: where the intervals come from.
    """

    compute: float
    size: Interval
    tokens: Interval
    tokens_per_parameter: Interval
    loss: Interval
    beyond: dict[str, float]
    near: tuple[NearOptimal, ...]
    config: Config | None
    method: str
    ci_method: str

    @property
    def extrapolates(self) -> bool:
        """Whether C, N* or D* lies outside what was fitted."""
        return any(factor > 1.0 for factor in self.beyond.values())


def allocate(
    fit: FitResult,
    budgets: ArrayLike,
    *,
    sizes: Sizes = (),
    step: float | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    cost: Cost | None = None,
    given: Mapping[str, float] | None = None,
    draws: int = COVARIANCE_DRAWS,
    seed: int = 0,
) -> list[Allocation]:
    """The best use of every budget (K,) FLOPs under a fitted law of N and D, tested or not.

    Intervals come from the bootstrap draws of the fit, else from ``draws`` normal ones from its covariance. sizes:
    (name, N) pairs to choose a concrete config from; step: tokens of one optimizer step. tolerances: per cent of loss
    for which the range of good sizes is given. cost: (scale, power, error) of C = scale N^power D, the fit's own by
    default, ``SIX_ND`` for 6 N D. given: values of further columns of the law. Raises ``ValueError`` for a budget that
    is not positive, a law without N and D, or a missing cost or column.
    """
    compute = np.atleast_1d(np.asarray(budgets, dtype=float))
    if bad := [value for value in compute if not (np.isfinite(value) and value > 0)]:
        raise ValueError(f"a budget of {bad[0]} FLOPs; budgets must be positive numbers")
    spread = spread_of(fit, draws, seed)
    land = landscape(fit, cost, given)
    best = optimum(land, spread.theta, compute)
    ranges = [(p, *tolerated(land, fit.theta[None], best, compute, p)) for p in tolerances]
    configs: list[Config | None] = [None] * len(compute)
    if sizes:
        configs = [*nearest_configs(land, spread, best, compute, sizes, step)]
    return [
        Allocation(
            compute=float(compute[k]),
            **_intervals(fit, spread, best, k),
            beyond=_beyond(fit, float(compute[k]), float(best.size[0, k]), float(best.tokens[0, k])),
            near=tuple(NearOptimal(p, float(low[k]), float(high[k])) for p, low, high in ranges),
            config=configs[k],
            method=best.method,
            ci_method=spread.method or "none",
        )
        for k in range(len(compute))
    ]


def _intervals(fit: FitResult, spread: Spread, best: Optimum, k: int) -> dict[str, Interval]:
    """N*, D*, D*/N* and the loss of budget ``k``, with the reason where the optimum is not identified."""
    size, tokens = (np.where(best.found[:, k], values[:, k], np.nan) for values in (best.size, best.tokens))
    with np.errstate(over="ignore"):
        optima = {"size": size, "tokens": tokens, "tokens_per_parameter": tokens / size}
    found = {name: interval_from(v, spread.widening, what="optimum") for name, v in optima.items()}
    flat = [name for name in fit.shape.exponents if name in fit.unidentified]
    why = f"{flat[0]} is not identified ({fit.unidentified[flat[0]]})" if flat else ""
    if not best.found[0, k]:
        why = "the loss has no minimum over N at this budget"
    if why:
        found = {name: replace(item, known=False, why=why) for name, item in found.items()}
    return found | {"loss": interval_from(best.loss[:, k], spread.widening, what="loss")}


def _beyond(fit: FitResult, compute: float, size: float, tokens: float) -> dict[str, float]:
    """How many times outside the fitted range each of C, N and D lies (1 inside)."""
    found = {}
    for name, value in (("C", compute), ("N", size), ("D", tokens)):
        low, high = fit.ranges.get(name, (value, value))
        found[name] = max(low / value, value / high, 1.0)
    return {name: 1.0 if factor < 1.0 + 1e-9 else factor for name, factor in found.items()}
