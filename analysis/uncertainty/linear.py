"""A fit near its optimum as a linear function of its rows.

Shapes: n rows, G runs, P parameters. Held parameters have zero rows and columns throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.engine.objective import Objective
from analysis.engine.problem import derivatives
from analysis.fit import Setup, held, objective_of
from analysis.result import FitResult

_LAD_DELTA = 0.1


@dataclass(frozen=True)
class Linear:
    """jacobian (n, P) of the fitted values in the space of the objective, residual (n,) fitted minus observed there,
    slope (n,) and bend (n,) of the penalty, its first and second derivative, codes (n,) of the runs, free (P,)."""

    jacobian: Array
    residual: Array
    slope: Array
    bend: Array
    codes: NDArray[np.intp]
    free: NDArray[np.bool_]

    @property
    def num_runs(self) -> int:
        """Independent runs G."""
        return int(self.codes.max()) + 1

    @property
    def freedom(self) -> int:
        """Rows minus free parameters, at least 1."""
        return max(len(self.residual) - int(self.free.sum()), 1)

    @property
    def gain(self) -> Array:
        """(P, n): change of the parameters per unit change of every response, by least squares."""
        return np.asarray(np.linalg.pinv(self.jacobian))

    @property
    def inverse(self) -> Array:
        """Inverse (P, P) of J' bend J, the Hessian without what the curvature of the law adds: along a flat valley that
        is all there is, and says nothing about the noise. Directions flat to one part in 1e10 are kept at that."""
        used = self.jacobian[:, self.free]
        inner = used.T @ (self.bend[:, None] * used)
        scale = 1.0 / np.sqrt(np.maximum(np.diag(inner), 1e-300))
        values, vectors = np.linalg.eigh(scale[:, None] * inner * scale)
        values = np.maximum(values, 1e-10)
        out = np.zeros((len(self.free), len(self.free)))
        out[np.ix_(self.free, self.free)] = scale[:, None] * ((vectors / values) @ vectors.T) * scale
        return out

    @property
    def influence(self) -> Array:
        """(P, n): change of the parameters per unit change of every response."""
        return np.asarray(self.inverse @ (self.bend[:, None] * self.jacobian).T)


def smooth_objective(result: FitResult) -> Objective:
    """The objective of a fit; for absolute deviations, which have no curvature, Huber at a tenth of the residuals'
    robust standard deviation."""
    objective = objective_of(result)
    if objective.penalty != "lad":
        return objective
    return replace(objective, penalty="huber", delta=max(_LAD_DELTA * result.sigma, 1e-9))


def linearise(setup: Setup, result: FitResult) -> Linear:
    """The linear view of a fit at its own rows."""
    rows, objective = len(setup.y), smooth_objective(result)
    found = derivatives(setup.problem(np.ones((1, rows)), objective), result.theta[None])
    free = ~held(setup, result.theta)
    bend = objective.slopes(found.residual)[1][0]
    codes = np.unique(setup.sample.cluster, return_inverse=True)[1]
    jacobian = found.jacobian[0].T * free
    return Linear(jacobian, found.residual[0], found.slope[0], bend, codes, free)
