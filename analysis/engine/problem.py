"""Many weighted fits of one law to one set of rows, as a value with exact gradient and Hessian.

Shapes: R problems, n rows, P parameters.
    theta (R, P)   y (n,) or (R, n) observed response   weights (R, n)   low, high (P,) or (R, P) working bounds

Resamples, folds and hold-outs are rows of ``weights``; parametric and wild bootstraps are rows of ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array, Jet
from analysis.engine.law import Columns, Law
from analysis.engine.objective import Objective


@dataclass(frozen=True)
class Pull:
    """A spring added to the objective, stiffness / 2 (quantity(theta) - target)^2, with one target (R,) per problem.

    Where it comes to rest, theta is the best among all that have the same quantity: one point of its profile, exactly
    and whatever the stiffness. quantity: (R, P) -> (R,); slope: its derivatives, (R, P) -> (R, P).
    """

    quantity: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    target: Array
    stiffness: float

    def take(self, rows: NDArray[np.intp]) -> Pull:
        """The springs of the problems ``rows``."""
        return replace(self, target=self.target[rows])

    def terms(self, theta: Array) -> tuple[Array, Array, Array]:
        """Value (R,), gradient (R, P) and Hessian (R, P, P), without the curvature of the quantity itself."""
        gap, slope = self.quantity(theta) - self.target, self.slope(theta)
        value, gradient = 0.5 * self.stiffness * gap**2, self.stiffness * gap[:, None] * slope
        return value, gradient, self.stiffness * slope[:, :, None] * slope[:, None, :]


@dataclass(frozen=True)
class Problem:
    """R fits: minimise sum_i w_i penalty(residual_i) for each. ``y`` is in the space of the residuals (ln or plain).
    pull: a spring that holds a quantity near a value, seen by ``derivatives`` and the solver, not by ``values``."""

    law: Law
    ready: tuple[Any, ...]
    y: Array
    weights: Array
    objective: Objective
    low: Array
    high: Array
    pull: Pull | None = None

    @property
    def num_rows(self) -> int:
        """Rows n."""
        return self.weights.shape[1]

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """The sub-batch of problems ``rows``."""
        y = self.y if self.y.ndim == 1 else self.y[rows]
        low = self.low if self.low.ndim == 1 else self.low[rows]
        high = self.high if self.high.ndim == 1 else self.high[rows]
        objective = self.objective
        if np.ndim(objective.delta):
            objective = replace(objective, delta=objective.delta[rows])
        pull = None if self.pull is None else self.pull.take(rows)
        return Problem(self.law, self.ready, y, self.weights[rows], objective, low, high, pull)

    def predict(self, theta: Array) -> Array:
        """Fitted response in the space of the residuals (R, n); NaN where a logarithm does not exist."""
        value = self.law.value(theta, self.ready)
        if self.law.log_value == self.objective.is_log:
            return value
        with np.errstate(all="ignore"):
            return np.exp(value) if self.law.log_value else np.log(value)

    def values(self, theta: Array) -> Array:
        """Objective of every problem (R,); infinite where the law has no value."""
        with np.errstate(all="ignore"):
            residual = self.predict(theta) - self.y
            total = np.sum(self.weights * self.objective.value(residual), axis=1)
        return np.where(np.isfinite(total), total, np.inf)


def make_problem(
    law: Law, columns: Columns, centre: Mapping[str, float], y: Array, weights: Array, objective: Objective,
    fixed: Mapping[str, float] | None = None,
) -> Problem:  # fmt: skip
    """A problem at the law's own bounds, parameters named in ``fixed`` (natural values) held.

    y is the natural response (n,) or (R, n); it is copied, so read-only arrays are welcome.
    """
    pairs = np.array(law.bounds, dtype=float)
    low, high = pairs[:, 0].copy(), pairs[:, 1].copy()
    for name, value in (fixed or {}).items():
        at = law.names.index(name)
        low[at] = high[at] = np.log(value) if law.params[name].log else value
    response = np.array(y, dtype=float)
    response = np.log(response) if objective.is_log else response
    weights = np.array(weights, dtype=float)
    return Problem(law, tuple(law.prepare(columns, centre)), response, weights, objective, low, high)


@dataclass(frozen=True)
class Derivatives:
    """value (R,), gradient (R, P), hessian (R, P, P) and ``curvature`` (R, P), the reweighted (never negative)
    diagonal that scales steps. residual (R, n) and jacobian (R, P, n) of the residuals with respect to theta;
    slope (R, n) weighted derivative of the penalty."""

    value: Array
    gradient: Array
    hessian: Array
    curvature: Array
    residual: Array
    jacobian: Array
    slope: Array
    metric: Array | None = None

    @property
    def scores(self) -> Array:
        """Contribution of every row to the gradient, (R, n, P)."""
        return (self.jacobian * self.slope[:, None, :]).transpose(0, 2, 1)


def derivatives(problem: Problem, theta: Array, with_metric: bool = False) -> Derivatives:
    """Objective and exact derivatives at ``theta`` (R, P). with_metric: also the full reweighted matrix (R, P, P)."""
    with np.errstate(all="ignore"):
        jet = _response(problem, theta)
        shape = problem.weights.shape[0], problem.num_rows
        fitted = np.broadcast_to(jet.value, shape)
        logged = problem.objective.is_log and not problem.law.log_value
        inverse = 1.0 / fitted if logged else None
        residual = (np.log(fitted) if logged else fitted) - problem.y
        slope, inner, reweighted = (problem.weights * part for part in problem.objective.slopes(residual))
        outer = inner - slope if logged else inner
        jacobian = _jacobian(jet, shape, problem.law.num_params, inverse)
        gradient = (jacobian @ slope[:, :, None])[:, :, 0]
        hessian = (jacobian * outer[:, None, :]) @ jacobian.transpose(0, 2, 1)
        along = slope * inverse if inverse is not None else slope
        for (i, j), second in jet.second.items():
            term = np.einsum("rn,rn->r", along, np.broadcast_to(second, shape))
            hessian[:, i, j] += term
            if i != j:
                hessian[:, j, i] += term
        curvature = np.einsum("rn,rpn,rpn->rp", reweighted, jacobian, jacobian, optimize=False)
        value = np.sum(problem.weights * problem.objective.value(residual), axis=1)
        if problem.pull is not None:
            more = problem.pull.terms(theta)
            value, gradient, hessian = value + more[0], gradient + more[1], hessian + more[2]
            curvature = curvature + np.einsum("rpp->rp", more[2])
    metric = (jacobian * reweighted[:, None, :]) @ jacobian.transpose(0, 2, 1) if with_metric else None
    value = np.where(np.isfinite(value), value, np.inf)
    return Derivatives(value, gradient, hessian, curvature, residual, jacobian, slope, metric)


def _response(problem: Problem, theta: Array) -> Jet:
    held = np.nonzero(np.all(np.atleast_2d(problem.low == problem.high), axis=0))[0]
    jet = problem.law.jet(theta, problem.ready, held)
    if not isinstance(jet, Jet):
        jet = Jet(jet, {}, {})
    if problem.law.log_value and not problem.objective.is_log:
        return np.exp(jet)
    return jet


def _jacobian(jet: Jet, shape: tuple[int, int], num_params: int, inverse: Array | None) -> Array:
    """d residual / d theta, (R, P, n)."""
    out = np.zeros((shape[0], num_params, shape[1]))
    for i, first in jet.first.items():
        out[:, i, :] = first if inverse is None else first * inverse
    return out
