"""What an arm was tested with: sizes, data, total costs; and the lowest loss that a total cost bought inside that.

Shapes: S tested sizes, G sizes tried, K total costs, B draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from analysis.engine.jet import Array
from analysis.interventions.rows import Data, RowsError

SIZES_TRIED = 81
TOLERANCE = 0.05


@dataclass(frozen=True)
class Budget:
    """The tested sizes (S,) ascending, for each the FLOPs per datum and the least and most data, and what was charged.

    charged: FLOPs as constant + per parameter * N + per datum * D + both * N D. span: least and largest total cost.
    error: largest relative error of flops + charged as described here over the rows.
    """

    sizes: Array
    per_datum: Array
    least: Array
    most: Array
    charged: tuple[float, float, float, float]
    span: tuple[float, float]
    error: float

    @property
    def tokens(self) -> tuple[float, float]:
        """Least and most data of any run."""
        return float(self.least.min()), float(self.most.max())

    def between(self, values: Array, size: Array) -> Array:
        """A quantity of the tested sizes at sizes in between, straight on log axes."""
        if len(self.sizes) == 1:
            return np.full(len(size), values[0])
        return np.asarray(np.exp(np.interp(np.log(size), np.log(self.sizes), np.log(values))))

    def total(self, size: Array, tokens: Array) -> Array:
        """FLOPs of a run and what is charged for it."""
        constant, per_size, per_datum, both = self.charged
        own = self.between(self.per_datum, size) * tokens
        return own + constant + per_size * size + per_datum * tokens + both * size * tokens

    def tokens_for(self, cost: Array, size: Array) -> Array:
        """Data (K, G) that total costs (K,) buy at sizes (G,), what is charged paid first; negative where nothing is
        left."""
        constant, per_size, per_datum, both = self.charged
        rate = self.between(self.per_datum, size) + per_datum + both * size
        return np.asarray((cost[:, None] - constant - per_size * size[None, :]) / rate[None, :])


def budget_of(data: Data, arm: str) -> Budget:
    """The budget of the rows of one arm. Raises ``RowsError`` when n or d is missing in a row, when flops / d differs
    between runs of one size, or when charged FLOPs follow neither N nor D, in both cases by more than 5 %."""
    size, tokens, flops, charged = (data.values(name) for name in ("n", "d", "flops", "charged"))
    sizes = np.unique(size)
    rate = np.array([np.exp(np.mean(np.log(flops[size == s] / tokens[size == s]))) for s in sizes])
    error = float(np.max(np.abs(rate[np.searchsorted(sizes, size)] * tokens / flops - 1.0)))
    if error > TOLERANCE:
        raise RowsError(
            f"arm {arm}: flops / d differs by {100 * error:.0f} % between runs of one size; d must be what the FLOPs "
            "were spent on (data seen, not unique data), or use curve with another axis"
        )
    terms, missed = _charges(size, tokens, charged)
    if missed > TOLERANCE:
        raise RowsError(
            f"arm {arm}: charged FLOPs follow no sum of a constant and terms in N, D and N D (off by "
            f"{100 * missed:.0f} %); check the column charged"
        )
    total = flops + charged
    least, most = (np.array([pick(tokens[size == s]) for s in sizes]) for pick in (np.min, np.max))
    return Budget(sizes, rate, least, most, terms, (float(total.min()), float(total.max())), max(error, missed))


def _charges(size: Array, tokens: Array, charged: Array) -> tuple[tuple[float, float, float, float], float]:
    """Non-negative terms of the charged FLOPs, the fewest that describe them, and their largest relative error."""
    if not charged.any():
        return (0.0, 0.0, 0.0, 0.0), 0.0
    basis = np.stack([np.ones_like(size), size, tokens, size * tokens], axis=1)
    scale = basis.mean(axis=0)
    weight = 1.0 / np.maximum(charged, 1e-6 * charged.max())
    found, missed = np.zeros(4), np.inf
    for used in ([0], [2], [3], [1], [0, 2], [0, 3], [0, 1, 2, 3]):
        found = np.zeros(4)
        found[used] = nnls((basis / scale)[:, used] * weight[:, None], charged * weight)[0]
        found = found / scale
        missed = float(np.max(np.abs(basis @ found - charged) * weight))
        if missed <= 1e-6:
            break
    return (float(found[0]), float(found[1]), float(found[2]), float(found[3])), missed


def frontier(budget: Budget, cost: Array, loss_at: Callable[[Array, Array], Array]) -> tuple[Array, NDArray[np.bool_]]:
    """Lowest loss (B, K) at total costs (K,), NaN where no tested split costs so much, and whether the best split (of
    row 0) lies on the border of the tests.

    loss_at: sizes and data (m,) each -> losses (B, m). A size is tried with data between the least and the most it (or,
    in between, its neighbours) was trained on. With one size there is no split and no border.
    """
    count = 1 if len(budget.sizes) == 1 else SIZES_TRIED
    sizes = np.geomspace(budget.sizes[0], budget.sizes[-1], count)
    tokens = budget.tokens_for(cost, sizes)
    least, most = (budget.between(values, sizes) for values in (budget.least, budget.most))
    inside = (tokens >= least * (1 - 1e-6)) & (tokens <= most * (1 + 1e-6))
    usable = np.where(inside, tokens, least)
    loss = loss_at(np.tile(sizes, len(cost)), usable.ravel()).reshape(-1, *tokens.shape)
    loss = np.where(inside[None], loss, np.inf)
    best, lowest = loss[0].argmin(axis=1), loss.min(axis=2)
    first, last = inside.argmax(axis=1), count - 1 - inside[:, ::-1].argmax(axis=1)
    edge = ((best == first) | (best == last)) & (count > 1)
    return np.where(np.isfinite(lowest), lowest, np.nan), edge


def cost_of_loss(curve: Array, log_cost: Array, reached: Array) -> Array:
    """ln of the cost (B, K) at which falling curves (B, M) at ``log_cost`` (M,) reach ``reached`` (B, K); the first or
    last cost where they lie outside."""
    return np.stack([np.interp(-r, -c, log_cost) for r, c in zip(reached, curve, strict=True)])
