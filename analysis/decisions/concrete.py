"""From the best N and D of a budget to a model that exists: its size by name, whole steps, and what the rounding costs.

Shapes: R parameter vectors (the point and its draws), K budgets, M sizes by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.decisions.optimum import Landscape, Optimum
from analysis.engine.jet import Array
from analysis.result import Interval
from analysis.rows.table import RunTable, TableError
from analysis.uncertainty.draws import Spread, interval_from

Sizes = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Config:
    """One named size at one budget. tokens: whole steps that fit into the budget, at least one. steps: None without a
    step. compute: what it really costs. penalty: per cent of loss above the best split of the whole budget."""

    name: str
    size: float
    tokens: float
    steps: int | None
    compute: float
    loss: Interval
    penalty: Interval


def sizes_of(table: RunTable, column: str = "size", group: str | None = None) -> list[tuple[str, float]]:
    """(name, N) of every size in a table, smallest first; N is the column the table was read with.

    group: only its rows, since early and late fusion may count one name differently. Raises ``TableError`` when the
    column is missing or one name stands for several N.
    """
    frame, symbol = table.frame, table.symbols.get("N")
    if column not in frame or symbol is None:
        raise TableError(f"no column {column!r} with names of sizes; the columns are {', '.join(map(str, frame))}")
    if group is not None:
        frame = frame[frame[table.columns.group] == group]
    pairs = frame[[column, symbol]].drop_duplicates().sort_values(symbol)
    named = [(str(name), float(size)) for name, size in pairs.itertuples(index=False)]
    if len({name for name, _ in named}) < len(named):
        twice = next(n for n, _ in named if sum(n == other for other, _ in named) > 1)
        raise TableError(f"size {twice!r} has several N in {symbol}; choose one group")
    return named


def nearest_configs(
    land: Landscape, spread: Spread, best: Optimum, compute: Array, sizes: Sizes, step: float | None = None
) -> list[Config]:
    """For every budget (K,) the named size with the lowest predicted loss at that budget.

    best: N*, D* and L* (1 + B, K) of the same draws. step: tokens of one optimizer step; the tokens are rounded down to
    whole steps so that the budget holds. Raises ``ValueError`` for a size or step that is not positive.
    """
    _check(sizes, step)
    many = np.array([size for _, size in sizes])
    tokens = land.tokens(many, compute[:, None])
    if step is not None:
        tokens = np.maximum(np.floor(tokens / step * (1 + 1e-12)), 1.0) * step
    losses = land.loss(spread.theta)(many[None, None, :], tokens[None])
    # A size whose single step already costs more than the budget only wins when all of them do.
    spent = land.compute(many, tokens)
    over = spent > compute[:, None] * (1 + 1e-9)
    score = np.where(over & ~over.all(axis=1, keepdims=True), np.inf, losses[0])
    score = np.where(over.all(axis=1, keepdims=True), spent, score)
    found = []
    for k, m in enumerate(np.argmin(score, axis=1)):
        loss, above = losses[:, k, m], np.maximum(losses[:, k, m] / best.loss[:, k], 1.0)
        found.append(
            Config(
                name=sizes[m][0],
                size=float(many[m]),
                tokens=float(tokens[k, m]),
                steps=None if step is None else round(float(tokens[k, m] / step)),
                compute=float(spent[k, m]),
                loss=interval_from(loss, spread.widening, what="loss"),
                penalty=_penalty(above, spread.widening),
            )
        )
    return found


def _check(sizes: Sizes, step: float | None) -> None:
    for name, size in sizes:
        if not (np.isfinite(size) and size > 0):
            raise ValueError(f"size {name!r} has N = {size}; it must be a positive number of parameters")
    if step is not None and not (np.isfinite(step) and step > 0):
        raise ValueError(f"a step of {step} tokens must be positive")


def _penalty(ratio: Array, widening: float) -> Interval:
    """Loss over the best loss (1 + B,), both of the same draw, as per cent above; never below 0."""
    item = interval_from(ratio, widening, what="best split")
    value, low, high = (100.0 * (v - 1.0) for v in (item.value, item.low, item.high))
    return Interval(value, max(low, 0.0) if np.isfinite(low) else low, high, item.known, item.why)
