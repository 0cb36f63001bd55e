"""The best split of a compute budget under a law: closed form where there is one, otherwise a search over N.

Shapes: R parameter vectors (the point and its draws), K budgets, S sizes tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.approaches.frontier import optima
from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.laws.additive import allocation
from analysis.result import FitResult

Cost = tuple[float, float, float]
SIX_ND: Cost = (6.0, 1.0, 0.0)
_REACH = 1e3
_NO_LOSS = 1e200
_AT_ONCE = 5000
_HALVINGS = 60
_WIDEST = 25.0


@dataclass(frozen=True)
class Landscape:
    """A law of N and D with everything but its parameters: where its columns are centred and what a run costs.

    cost: (scale, power, error) of C = scale N^power D. ranges: smallest and largest C, N and D of the rows behind it.
    given: values of further columns (U, S, ...). added: the known entropy, for a law of the excess.
    """

    law: Law
    centre: Mapping[str, float]
    cost: Cost
    ranges: Mapping[str, tuple[float, float]]
    given: Mapping[str, float] = field(default_factory=dict)
    added: float = 0.0

    def __post_init__(self) -> None:
        check_columns(self.law, self.given)

    def loss(self, theta: Array) -> Callable[[Array, Array], Array]:
        """loss(N, D) for working parameters (R, P), with N and D of shape (R or 1, ...) that broadcast.

        Unlike ``Law.loss`` every vector may have its own N and D, which is what searching R optima at once needs.
        """
        logged = np.array([kind.log for kind in self.law.params.values()])
        values = np.where(logged, np.exp(np.where(logged, theta, 0.0)), theta)

        def at(size: Array, tokens: Array) -> Array:
            size, tokens = np.broadcast_arrays(np.asarray(size, float), np.asarray(tokens, float))
            columns = {name: np.full(size.shape, float(value)) for name, value in self.given.items()}
            columns |= {"N": size, "D": tokens}
            ready = [columns[name] / np.exp(self.centre.get(name, 0.0)) for name in self.law.columns]
            shape = (len(values),) + (1,) * (size.ndim - 1)
            named = {name: values[:, i].reshape(shape) for i, name in enumerate(self.law.names)}
            with np.errstate(all="ignore"):
                out = self.law.function(*ready, **named)
                return np.asarray(np.exp(out) if self.law.log_value else out) + self.added

        return at

    @property
    def compute_range(self) -> tuple[float, float]:
        """Smallest and largest C behind it; without a column of C, those of the corners in N and D."""
        if "C" in self.ranges:
            return self.ranges["C"]
        (n_low, n_high), (d_low, d_high) = self.ranges["N"], self.ranges["D"]
        low, high = self.compute(np.array([n_low, n_high]), np.array([d_low, d_high]))
        return float(low), float(high)

    def tokens(self, size: Array, compute: Array) -> Array:
        """D that ``compute`` buys at ``size``."""
        return np.asarray(compute / (self.cost[0] * size ** self.cost[1]))

    def compute(self, size: Array, tokens: Array) -> Array:
        """C of N and D."""
        return np.asarray(self.cost[0] * size ** self.cost[1] * tokens)


def landscape(fit: FitResult, cost: Cost | None = None, given: Mapping[str, float] | None = None) -> Landscape:
    """The landscape of a fit. Raises ``ValueError`` for a law without N and D, a column of it that is not given, and
    when there is neither a ``cost`` nor a fitted one."""
    added = fit.added_entropy()
    return Landscape(fit.shape, fit.centre, cost_of(fit, cost), fit.ranges, dict(given or {}), float(np.mean(added)))


def check_columns(law: Law, given: Mapping[str, float]) -> None:
    """Raise ``ValueError`` unless ``law`` is one of N, D and the columns in ``given``."""
    if not {"N", "D"} <= set(law.columns):
        raise ValueError(
            f"law {law.name} reads {', '.join(law.columns)}; splitting a budget needs a law of both N and D, such as "
            "chinchilla"
        )
    missing = [name for name in law.columns if name not in ("N", "D") and name not in given]
    if missing:
        raise ValueError(f"law {law.name} also reads {missing[0]}: give its value, as in given={{{missing[0]!r}: 1e9}}")


def cost_of(fit: FitResult, cost: Cost | None = None) -> Cost:
    """``cost``, or the fit's own. Raises ``ValueError`` when there is neither."""
    chosen = cost or fit.cost
    if chosen is None:
        raise ValueError(f"the fit of {fit.group}/{fit.target} has no cost of a run; give cost=SIX_ND for C = 6 N D")
    return chosen


@dataclass(frozen=True)
class Optimum:
    """size N*, tokens D* and the lowest loss, each (R, K); found: whether an optimum exists inside what was searched
    (R, K). method: "closed form" or "search"."""

    size: Array
    tokens: Array
    loss: Array
    found: NDArray[np.bool_]
    method: str


def optimum(land: Landscape, theta: Array, compute: Array) -> Optimum:
    """N*(C), D*(C) and L* at budgets (K,) on the law alone, for working parameters (R, P).

    Nothing keeps them inside what was tested; L* is NaN where the search found no optimum. The closed form (arXiv
    2203.15556, equation 4, here for any power of the cost) serves laws that fall with A / N^alpha + B / D^beta; the
    search looks from 1/1000 of the smallest size fitted to 1000 times the largest, and further in proportion to budgets
    beyond the tests.
    """
    loss = land.loss(theta)
    if has_closed_form(land.law):
        size = _closed_form(land, theta, compute)
        tokens = land.tokens(size, compute)
        found = np.isfinite(size) & (size > 0) & np.isfinite(tokens)
        return Optimum(size, tokens, loss(size, tokens), found, "closed form")
    if (pieces := -(-len(theta) * len(compute) // _AT_ONCE)) > 1 and len(theta) > 1:
        return _stacked([optimum(land, part, compute) for part in np.array_split(theta, min(pieces, len(theta)))])

    def finite_loss(size: Array, tokens: Array) -> Array:
        value = loss(size, tokens)
        return np.where(np.isfinite(value), value, _NO_LOSS)

    beyond = max(1.0, float(np.max(compute)) / land.compute_range[1])
    within = land.ranges["N"][0] / _REACH, land.ranges["N"][1] * _REACH * beyond
    best = optima(finite_loss, land.compute, compute, within, len(theta))
    lowest = np.exp(best.log_loss)
    found = ~best.at_edge & (lowest < 0.5 * _NO_LOSS)
    return Optimum(np.exp(best.log_size), np.exp(best.log_tokens), np.where(found, lowest, np.nan), found, "search")


def _stacked(parts: list[Optimum]) -> Optimum:
    size, tokens, loss, found = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("size", "tokens", "loss", "found")
    )
    return Optimum(size, tokens, loss, found, parts[0].method)


def has_closed_form(law: Law) -> bool:
    """Whether the loss falls with A / N^alpha + B / D^beta alone, so that the best split has a formula."""
    return law.derived is allocation and set(law.columns) == {"N", "D"}


def _closed_form(land: Landscape, theta: Array, compute: Array) -> Array:
    """N* (R, K): alpha A N^-alpha = power beta B D^-beta on scale N^power D = C, in logarithms: no A overflows."""
    names, (scale, power, _) = land.law.names, land.cost
    natural = land.law.to_natural(theta, land.centre)
    A, alpha, B, beta = (natural[:, names.index(name)][:, None] for name in ("A", "alpha", "B", "beta"))
    with np.errstate(all="ignore"):
        lead = np.log(alpha * A) - np.log(power * beta * B) + beta * np.log(compute / scale)[None, :]
        return np.asarray(np.exp(lead / (alpha + power * beta)))


def tolerated(land: Landscape, theta: Array, best: Optimum, compute: Array, percent: float) -> tuple[Array, Array]:
    """Smallest and largest N (K,) whose loss at the same budget is at most ``percent`` above that of ``best``.

    For one parameter vector (1, P). Found by halving on either side of N*. An end that lies more than e^25 away comes
    back as 0 or infinity: the loss never rises that much in that direction. NaN where there is no optimum. Raises
    ``ValueError`` for a ``percent`` that is not positive.
    """
    if not percent > 0:
        raise ValueError(f"a tolerated loss of {percent} % must be positive")
    surface, middle = land.loss(theta), np.log(best.size[0])
    limit = best.loss[0] * (1.0 + percent / 100.0)

    def too_high(log_size: Array) -> NDArray[np.bool_]:
        size = np.exp(log_size)
        value = surface(size[None], land.tokens(size, compute)[None])[0]
        return np.asarray(~(value <= limit))

    ends = []
    for side in (-1.0, 1.0):
        near, far = np.zeros_like(middle), np.full_like(middle, _WIDEST)
        reached = too_high(middle + side * far)
        for _ in range(_HALVINGS):
            half = 0.5 * (near + far)
            high = too_high(middle + side * half)
            near, far = np.where(high, near, half), np.where(high, half, far)
        end = np.where(reached, np.exp(middle + side * near), 0.0 if side < 0 else np.inf)
        ends.append(np.where(best.found[0], end, np.nan))
    return ends[0], ends[1]
