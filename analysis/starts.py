"""Global starts by variable projection: the exponents on a grid, the linear coefficients in closed form.

Shapes: R weight vectors, n rows, G grid points. No start is ever supplied by a user.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.laws import Array, Center, Law

EXPONENT_GRID = np.geomspace(0.03, 2.5, 24)
OFFSET_GRID = np.concatenate([[0.0], 1.0 - np.geomspace(1.0, 0.005, 25)[1:]])
_TINY = 1e-300


def global_starts(law: Law, log_n: Array, log_d: Array, center: Center, y: Array, weights: Array, keep: int) -> Array:
    """``keep`` starts (R, keep, P) per weight vector: the best local minima of the projected squared relative error.

    ``y`` is ln of the observed loss, (n,) or (R, n); ``weights`` (R, n). Unfilled places repeat the best start.
    """
    n, d = log_n - center[0], log_d - center[1]
    if len(law.terms) == 2:
        return _additive(law, n, d, y, weights, keep)
    return _product(law, n, d, y, weights, keep)


def _additive(law: Law, n: Array, d: Array, y: Array, weights: Array, keep: int) -> Array:
    moments, target = _moments(n, d, y, weights)
    coefficients, error = _non_negative(moments, target, law.offset)
    side = len(EXPONENT_GRID)
    cells = _local_minima(error.reshape(-1, side, side), keep)
    row = np.arange(len(error))[:, None]
    alpha, beta = EXPONENT_GRID[cells // side], EXPONENT_GRID[cells % side]
    e, a, b = (np.maximum(c[row, cells], 1e-12) for c in coefficients)
    columns = [np.log(a), alpha, np.log(b), beta]
    return np.stack([e, *columns] if law.offset else columns, axis=2)


def _moments(n: Array, d: Array, y: Array, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Weighted moments of 1, N^-alpha and D^-beta relative to the observed loss, every entry (R, G) or (R, 1)."""
    side = len(EXPONENT_GRID)
    u, v = np.exp(-np.outer(n, EXPONENT_GRID)), np.exp(-np.outer(d, EXPONENT_GRID))
    first, second = weights * np.exp(-y), weights * np.exp(-2.0 * y)
    cross = (u[:, :, None] * v[:, None, :]).reshape(len(n), -1)

    def over_alpha(values: Array) -> Array:
        return np.repeat(values, side, axis=1)

    def over_beta(values: Array) -> Array:
        return np.tile(values, side)

    moments = {
        "ee": second.sum(axis=1, keepdims=True) + np.zeros((1, side * side)),
        "ea": over_alpha(second @ u),
        "eb": over_beta(second @ v),
        "aa": over_alpha(second @ u**2),
        "bb": over_beta(second @ v**2),
        "ab": second @ cross,
    }
    target = {
        "e": first.sum(axis=1, keepdims=True) + np.zeros((1, side * side)),
        "a": over_alpha(first @ u),
        "b": over_beta(first @ v),
        "y": weights.sum(axis=1, keepdims=True),
    }
    return moments, target


def _non_negative(m: dict[str, Array], t: dict[str, Array], offset: bool) -> tuple[list[Array], Array]:
    """Least squares with E, A, B >= 0 by trying every active set; coefficients [E, A, B] and the error, (R, G)."""
    zero = np.zeros_like(m["ab"])
    best = [zero, zero, zero]
    error = t["y"] + zero
    for candidate in _active_sets(m, t, offset):
        feasible = np.isfinite(sum(candidate)) & (np.minimum.reduce(candidate) >= 0)
        reached = t["y"] - sum(c * t[k] for c, k in zip(candidate, "eab", strict=True))
        better = feasible & (reached < error)
        best = [np.where(better, new, old) for new, old in zip(candidate, best, strict=True)]
        error = np.where(better, reached, error)
    return best, error


def _active_sets(m: dict[str, Array], t: dict[str, Array], offset: bool) -> list[list[Array]]:
    zero = np.zeros_like(m["ab"])

    def pair(i: str, j: str) -> tuple[Array, Array]:
        determinant = m[i + i] * m[j + j] - m[i + j] ** 2
        determinant = np.where(determinant > 1e-13 * m[i + i] * m[j + j], determinant, np.nan)
        return (t[i] * m[j + j] - t[j] * m[i + j]) / determinant, (t[j] * m[i + i] - t[i] * m[i + j]) / determinant

    a, b = pair("a", "b")
    sets = [[zero, a, b], [zero, t["a"] / m["aa"], zero], [zero, zero, t["b"] / m["bb"]]]
    if offset:
        e_a, a_e = pair("e", "a")
        e_b, b_e = pair("e", "b")
        sets += [[e_a, a_e, zero], [e_b, zero, b_e], _triple(m, t)]
    return sets


def _triple(m: dict[str, Array], t: dict[str, Array]) -> list[Array]:
    """All three coefficients, by eliminating E first."""
    aa, bb = m["aa"] - m["ea"] ** 2 / m["ee"], m["bb"] - m["eb"] ** 2 / m["ee"]
    ab = m["ab"] - m["ea"] * m["eb"] / m["ee"]
    ta, tb = t["a"] - m["ea"] * t["e"] / m["ee"], t["b"] - m["eb"] * t["e"] / m["ee"]
    determinant = aa * bb - ab**2
    determinant = np.where(determinant > 1e-11 * np.abs(aa * bb), determinant, np.nan)
    a, b = (ta * bb - tb * ab) / determinant, (tb * aa - ta * ab) / determinant
    return [(t["e"] - m["ea"] * a - m["eb"] * b) / m["ee"], a, b]


def _local_minima(error: Array, keep: int) -> NDArray[np.intp]:
    """Flat indices (R, keep) of the lowest cells that no neighbour undercuts; the best repeats when there are fewer."""
    padded = np.pad(error, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    lowest = np.ones(error.shape, dtype=bool)
    rows, columns = error.shape[1:]
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                lowest &= error <= padded[:, i : i + rows, j : j + columns]
    ranked = np.where(lowest, error, np.inf).reshape(len(error), -1)
    order = np.argsort(ranked, axis=1, kind="stable")[:, np.minimum(np.arange(keep), ranked.shape[1] - 1)]
    found = np.isfinite(np.take_along_axis(ranked, order, axis=1))
    return np.where(found, order, order[:, :1])


def _product(law: Law, n: Array, d: Array, y: Array, weights: Array, keep: int) -> Array:
    """E on a grid below the smallest loss; ln(L - E) is then linear and weighted by ((L - E) / L)^2."""
    loss = np.exp(np.broadcast_to(y, weights.shape))
    features = np.stack([np.ones_like(n), -n, -d, -n * d], axis=1)
    floor = np.where(weights > 0, loss, np.inf).min(axis=1, keepdims=True)
    candidates, errors = [], []
    for fraction in OFFSET_GRID if law.offset else (0.0,):
        offset = fraction * floor
        excess = np.maximum(loss - offset, 1e-9 * floor)
        weight = weights * (excess / loss) ** 2
        linear = _weighted_linear(features, np.log(excess), weight)
        predicted = offset + np.exp(np.minimum(linear @ features.T, 50.0))
        errors.append(np.sum(weights * (np.log(predicted) - np.log(loss)) ** 2, axis=1))
        candidates.append(np.concatenate([offset, linear], axis=1) if law.offset else linear)
    order = _local_minima(np.stack(errors, axis=1)[:, :, None], keep)
    return np.take_along_axis(np.stack(candidates, axis=1), order[:, :, None], axis=1)


def _weighted_linear(features: Array, target: Array, weight: Array) -> Array:
    """Weighted least squares (R, P) with a whisper of ridge, so that a degenerate resample still has a start."""
    normal = np.einsum("rn,ni,nj->rij", weight, features, features)
    right = (weight * target) @ features
    ridge = 1e-10 * np.einsum("rii->r", normal)[:, None, None] + _TINY
    return np.linalg.solve(normal + ridge * np.eye(features.shape[1]), right[:, :, None])[:, :, 0]
