"""Resampled minima of isoFLOP slices: all draws of a slice are solved as one batch of normal equations.

Shapes: B draws, K slices, n rows of one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.approaches import parabola
from analysis.approaches.rows import Array, Labels
from analysis.approaches.slices import Cut, Fit, Response


@dataclass(frozen=True)
class Resamples:
    """values (B, 3, K): ln N*, ln D*, ln L* of every draw; valid (B, K): False where a draw has no minimum inside the
    grid. lost: share of invalid ones. method: what was resampled, in words."""

    values: Array
    valid: NDArray[np.bool_]
    lost: float
    method: str


def resample(
    cuts: Sequence[Cut],
    ys: Sequence[Array],
    fits: Sequence[Fit],
    runs: Labels | None,
    method: str,
    response: Response,
    draws: int,
    seed: int,
) -> Resamples:
    """Refit every slice ``draws`` times with the same shape and Huber threshold.

    method "rows": rows are drawn with replacement inside each slice, or whole runs over all slices. "wild": the
    residuals, divided by the root of one minus their leverage, get a random sign each, or one sign per run.
    """
    rng = np.random.default_rng(seed)
    shared = None
    if runs is not None:
        used = np.unique(np.concatenate([runs[cut.index] for cut in cuts]))
        runs = np.searchsorted(used, runs)
        shared = _counts(rng, draws, len(used)) if method == "rows" else _signs(rng, draws, len(used))
    values, valid = [], []
    for cut, y, fit in zip(cuts, ys, fits, strict=True):
        if runs is not None and shared is not None:
            factor = shared[:, runs[cut.index]]
        else:
            factor = _counts(rng, draws, len(y)) if method == "rows" else _signs(rng, draws, len(y))
        found = _minima(cut, y, fit, factor, method)
        inside = np.isfinite(found.z) & (found.curvature > 0) & (np.abs(found.z) < 1)
        z = np.where(inside, found.z, 0.0)
        lowest = np.where(inside, found.value, 1.0)
        log_loss = lowest if response == "log" else np.log(np.where(lowest > 0, lowest, np.nan))
        values.append(np.stack([cut.log_size(z), cut.log_tokens(z), log_loss], axis=1))
        valid.append(inside & np.isfinite(log_loss))
    kept = np.stack(valid, axis=1)
    return Resamples(np.stack(values, axis=2), kept, float(1 - kept.mean()), _describe(method, runs is not None, draws))


def _minima(cut: Cut, y: Array, fit: Fit, factor: Array, method: str) -> parabola.Minimum:
    degree = len(fit.coef) - 1
    if method == "rows":
        targets, weights = np.broadcast_to(y, factor.shape), factor
    else:
        residual = fit.residual(cut, y)
        leverage = np.minimum(parabola.hat(cut.z, np.ones_like(y), degree), 1 - 1e-6)
        targets, weights = (y - residual) + factor * residual / np.sqrt(1 - leverage), np.ones_like(factor)
    coef, _ = parabola.fit(cut.z, targets, weights, degree, fit.delta)
    return parabola.minimum(coef)


def _counts(rng: np.random.Generator, draws: int, count: int) -> Array:
    """How often each of ``count`` things is drawn, (B, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def _signs(rng: np.random.Generator, draws: int, count: int) -> Array:
    return rng.choice([-1.0, 1.0], size=(draws, count))


def _describe(method: str, whole_runs: bool, draws: int) -> str:
    match method, whole_runs:
        case "rows", True:
            return f"{draws} draws of whole runs with replacement"
        case "rows", False:
            return f"{draws} draws of rows with replacement inside each slice"
        case _, True:
            return f"{draws} draws of the residuals' signs, one sign per run"
    return f"{draws} draws of the residuals' signs, one per row"
