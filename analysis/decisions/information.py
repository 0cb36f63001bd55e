"""What runs tell about the parameters of a law: the Fisher information of ln L with noise that checkpoints share.

Shapes: M candidate runs, k checkpoints of a run (padded), P free parameters.

A run with Jacobian J (k, P) of ln L and noise covariance V = row^2 I + run^2 11' adds J' V^-1 J. The variance of a
quantity with gradient g then falls from v = g' F^-1 g to v - u' (V + J F^-1 J')^-1 u with u = J F^-1 g, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.optimum import Landscape
from analysis.engine.jet import Array
from analysis.engine.objective import Objective
from analysis.engine.problem import derivatives, make_problem

RIDGE = 1e-12
_LEAST_NOISE = 1e-6


def log_jacobian(land: Landscape, theta: Array, columns: Mapping[str, Array]) -> Array:
    """d ln L / d theta (n, P) of the loss, known entropy included, at the rows of ``columns``."""
    count = len(columns["N"])
    values = {name: np.full(count, float(v)) for name, v in land.given.items()} | dict(columns)
    unit = Objective("log", "mse")
    problem = make_problem(land.law, values, land.centre, np.ones(count), np.ones((1, count)), unit)
    jacobian = derivatives(problem, theta[None]).jacobian[0].T
    if not land.added:
        return jacobian
    excess = np.exp(problem.predict(theta[None])[0])
    return jacobian * (excess / (excess + land.added))[:, None]


def noise_matrix(lengths: NDArray[np.intp], width: int, run: float, row: float) -> Array:
    """V (M, width, width) of runs with these numbers of checkpoints; padded rows get variance 1 and no covariance."""
    real = np.arange(width)[None, :] < lengths[:, None]
    both = real[:, :, None] & real[:, None, :]
    own = np.where(real, max(row, _LEAST_NOISE) ** 2, 1.0)
    return np.where(both, run**2, 0.0) + np.eye(width)[None] * own[:, None, :]


@dataclass(frozen=True)
class Blocks:
    """jacobian (M, k, P) and noise (M, k, k) of M runs, zero-padded to the longest. weight (M, k): what a fit gives to
    every row of ln L, 1 by default."""

    jacobian: Array
    noise: Array
    weight: Array | None = None

    @cached_property
    def information(self) -> Array:
        """J' V^-1 J of every run, (M, P, P)."""
        return self.jacobian.transpose(0, 2, 1) @ np.linalg.solve(self.noise, self.jacobian)

    @cached_property
    def weighted(self) -> Array:
        """W J of every run, (M, k, P)."""
        return self.jacobian if self.weight is None else self.jacobian * self.weight[:, :, None]

    @property
    def normal(self) -> Array:
        """J' W J of every run, (M, P, P)."""
        return np.asarray(np.einsum("mkp,mkq->mpq", self.weighted, self.jacobian))

    @property
    def scatter(self) -> Array:
        """J' W V W J of every run, (M, P, P): how much the score of a fit varies that weighs rows by W alone."""
        return np.asarray(np.einsum("mkp,mkl,mlq->mpq", self.weighted, self.noise, self.weighted, optimize=True))

    def gains(self, covariance: Array, gradient: Array) -> Array:
        """How much each run alone would lower the variance of a quantity, (M,), from covariance (P, P)."""
        along = self.jacobian @ covariance
        inner = self.noise + along @ self.jacobian.transpose(0, 2, 1)
        u = along @ gradient
        return np.asarray(np.einsum("mk,mk->m", u, np.linalg.solve(inner, u[:, :, None])[:, :, 0]))

    def updated(self, covariance: Array, at: int) -> Array:
        """The covariance (P, P) once run ``at`` has been added (Woodbury, exact)."""
        along = self.jacobian[at] @ covariance
        inner = self.noise[at] + along @ self.jacobian[at].T
        return np.asarray(covariance - along.T @ np.linalg.solve(inner, along))


def blocks_of(
    land: Landscape, theta: Array, columns: Mapping[str, Array], codes: NDArray[np.intp], run: float, row: float,
    free: NDArray[np.bool_],
) -> Blocks:  # fmt: skip
    """Blocks of the rows of ``columns`` (n,), those of one code 0 .. M-1 being checkpoints of one run, under noise of
    standard deviations ``run`` and ``row``; free parameters only."""
    rows = log_jacobian(land, theta, columns)[:, free]
    order = np.argsort(codes, kind="stable")
    lengths = np.bincount(codes)
    place = np.concatenate([np.arange(length) for length in lengths])
    jacobian = np.zeros((len(lengths), int(lengths.max()), rows.shape[1]))
    jacobian[codes[order], place] = rows[order]
    weight = None
    if land.added:  # such a fit is to the logarithm of the excess over a known entropy
        loss = land.loss(theta[None])(columns["N"], columns["D"])
        weight = np.zeros(jacobian.shape[:2])
        weight[codes[order], place] = np.broadcast_to((loss / (loss - land.added)) ** 2, (len(rows),))[order]
    return Blocks(jacobian, noise_matrix(lengths, jacobian.shape[1], run, row), weight)


def inverse_information(information: Array) -> Array:
    """Covariance (P, P); directions that no run informs get a huge but finite variance."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    values, vectors = np.linalg.eigh(scale[:, None] * information * scale[None, :])
    values = np.maximum(values, RIDGE)
    return np.asarray(scale[:, None] * ((vectors / values) @ vectors.T) * scale[None, :])
