"""Surfaces with known optima and the rows an isoFLOP sweep or a grid of curves would give on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.approaches.bias import Additive
from analysis.approaches.rows import Array

CHINCHILLA = Additive(1.69, 406.4, 410.7, 0.34, 0.28)  # arXiv 2203.15556, approach 3
SPARSE = Additive(2.158, 381773.0, 4659.0, 0.710, 0.372)  # arXiv 2504.07951, table 12
SYMMETRIC = Additive(1.8, 600.0, 600.0, 0.35, 0.35)
EARLY = Additive(1.904, 270.0, 1860.0, 0.301, 0.335)  # table 2; A and B are rough, the paper does not print them
LATE = Additive(1.891, 224.0, 2006.0, 0.2903, 0.3383)


def a_of(surface: Additive) -> float:
    """Closed-form exponent of N*."""
    return float(surface.beta / (surface.alpha + surface.beta))


@dataclass(frozen=True)
class Drawn:
    """Columns of a table, all (n,), and the slice each row belongs to."""

    size: Array
    tokens: Array
    loss: Array
    compute: Array
    slices: Array

    @property
    def columns(self) -> tuple[Array, Array, Array, Array]:
        return self.size, self.tokens, self.loss, self.compute


def isoflop_rows(
    surface: Additive,
    num_slices: int = 9,
    num_sizes: int = 9,
    width: float = 4.0,
    noise: float = 0.0,
    jitter: float = 0.0,
    tilt: float = 0.0,
    drift: float = 0.0,
    seed: int = 0,
    compute: tuple[float, float] = (1e18, 1e22),
) -> Drawn:
    """Sizes from 1/width to width times the optimum of each slice. drift: ln of how far the centre of the grid moves
    from the first to the last slice; jitter: largest ln of a row's compute over its slice's,
    tilt: ln of the compute at the largest size over that at the smallest."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(num_slices), num_sizes)
    budgets = np.geomspace(*compute, num_slices)
    factors = np.tile(np.geomspace(1 / width, width, num_sizes), num_slices)
    off = np.exp(drift * (code / max(num_slices - 1, 1) - 0.5))
    size = surface.optimum(budgets)[0][code] * factors * off
    away = jitter * rng.uniform(-1, 1, len(code)) + tilt * np.log(factors) / (2 * np.log(width))
    exact = budgets[code] * np.exp(away)
    tokens = exact / (6 * size)
    loss = surface.loss(size, tokens) * np.exp(noise * rng.standard_normal(len(code)))
    return Drawn(size, tokens, loss, exact, code)


def grid_rows(surface: Additive, sizes: Array, tokens: Array, noise: float = 0.0, seed: int = 0) -> Drawn:
    """Every size at every token count."""
    rng = np.random.default_rng(seed)
    size, many = np.repeat(sizes, len(tokens)), np.tile(tokens, len(sizes))
    loss = surface.loss(size, many) * np.exp(noise * rng.standard_normal(len(size)))
    return Drawn(size, many, loss, 6 * size * many, np.repeat(np.arange(len(sizes)), len(tokens)))
