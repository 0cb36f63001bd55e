"""Polynomials of the loss in ln N along one slice: fit, minimum, and what the fit says about its own error.

Shapes: B problems (resamples) over the same n rows, p = degree + 1 coefficients, lowest power first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.approaches.rows import Array

_HUBER_STEPS = 100
_HUBER_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Minimum:
    """Where the polynomial has its local minimum z (B,), its second derivative and value there; NaN: it has none."""

    z: Array
    curvature: Array
    value: Array


def powers(z: Array, degree: int) -> Array:
    """(..., p): 1, z, z^2, ..."""
    return z[..., None] ** np.arange(degree + 1)


def fit(z: Array, y: Array, weights: Array, degree: int, delta: float = np.inf) -> tuple[Array, Array]:
    """Weighted least squares of y (B, n) or Huber's loss with threshold ``delta`` in units of y.

    z (n,) is assumed to be of order one. Returns coefficients (B, p) and final row weights (B, n), Huber's included.
    Problems whose positive weights cover fewer than p different z give NaN.
    Huber is solved by reweighting until the coefficients move less than 1e-10 of the spread of y (or 100 steps).
    """
    design = powers(z, degree)
    solvable = _distinct(z, weights) > degree
    coef = _solve(design, y, weights, solvable)
    if not np.isfinite(delta):
        return coef, weights
    used, scale = weights, float(np.ptp(y)) + 1e-300
    for _ in range(_HUBER_STEPS):
        residual = np.abs(y - coef @ design.T)
        used = weights * np.minimum(1.0, delta / np.maximum(residual, 1e-300))
        old, coef = coef, _solve(design, y, used, solvable)
        if np.max(np.abs(coef - old)[solvable], initial=0.0) < _HUBER_TOLERANCE * scale:
            break
    return coef, used


def _distinct(z: Array, weights: Array) -> NDArray[np.int_]:
    """Number of different z with a positive weight, (B,)."""
    _, at = np.unique(z, return_inverse=True)
    member = np.zeros((len(z), at.max() + 1))
    member[np.arange(len(z)), at] = 1.0
    return ((weights > 0).astype(np.float64) @ member > 0).sum(axis=1)


def _solve(design: Array, y: Array, weights: Array, solvable: NDArray[np.bool_]) -> Array:
    gram = _gram(design, weights)
    gram[~solvable] = np.eye(design.shape[1])
    coef = np.linalg.solve(gram, ((weights * y) @ design)[..., None])[..., 0]
    return np.asarray(np.where(solvable[:, None], coef, np.nan), dtype=np.float64)


def _gram(design: Array, weights: Array) -> Array:
    products = design[:, :, None] * design[:, None, :]
    return (weights @ products.reshape(len(design), -1)).reshape(-1, design.shape[1], design.shape[1])


def minimum(coef: Array) -> Minimum:
    """The minimum of a parabola, or the local minimum of a cubic, for coefficients (B, 3) or (B, 4).

    A parabola that opens downwards keeps its stationary point and its negative curvature, so that a caller can say
    so; a cubic without a local minimum gives NaN.
    """
    second = coef[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        if coef.shape[1] == 3:
            z = -coef[:, 1] / (2 * second)
            curvature = 2 * second
        else:
            root = np.sqrt(second**2 - 3 * coef[:, 1] * coef[:, 3])
            z = -coef[:, 1] / (second + root)
            curvature = 2 * root
        value = (powers(z, coef.shape[1] - 1) * coef).sum(axis=-1)
    return Minimum(z, curvature, value)


@dataclass(frozen=True)
class Spread:
    """Standard errors per unit of residual standard deviation: of the minimum z and of the curvature there."""

    z: float
    curvature: float


def spread(z: Array, weights: Array, coef: Array, found: Minimum) -> Spread:
    """Delta method for one fit: weights (n,), coef (p,), ``found`` from the same coefficients.

    The minimum solves f'(z) = 0, so dz/dc_k = -k z^(k-1) / f''(z).
    """
    degree = len(coef) - 1
    k = np.arange(degree + 1)
    at, curvature = float(found.z[0]), float(found.curvature[0])
    first = np.array([i * at ** (i - 1) if i else 0.0 for i in k])
    second = np.array([i * (i - 1) * at ** (i - 2) if i > 1 else 0.0 for i in k])
    third = float(6 * coef[3]) if degree == 3 else 0.0
    moves = -first / curvature
    inverse = np.linalg.inv(_gram(powers(z, degree), weights[None])[0])
    bends = second + third * moves
    return Spread(float(np.sqrt(moves @ inverse @ moves)), float(np.sqrt(bends @ inverse @ bends)))


def hat(z: Array, weights: Array, degree: int) -> Array:
    """Leverages (n,) of the weighted fit."""
    design = powers(z, degree)
    inverse = np.linalg.inv(_gram(design, weights[None])[0])
    return weights * np.einsum("ni,ij,nj->n", design, inverse, design)
