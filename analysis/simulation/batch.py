"""One law fitted to many sweeps of the same design at once, each with its covariance: the engine of simulation studies.

Shapes: S sweeps, n rows, G runs, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.engine.leverage import covariance_of, scores_of
from analysis.engine.newton import solve
from analysis.engine.objective import Objective
from analysis.engine.point import HUBER_EFFICIENCY
from analysis.engine.problem import Problem, derivatives, make_problem
from analysis.engine.starts import global_starts, make_grid
from analysis.uncertainty.draws import t_widening

FEW_RUNS = 12
_LEAST_LEFT = 0.02
_LEAST_DELTA = 1e-7


@dataclass(frozen=True)
class BatchFit:
    """theta (S, P) at ``centre``, covariance (S, P, P), converged (S,); freedom: degrees of freedom of the covariance.

    method says which covariance it is. residual (S, n): ln of fitted over observed.
    """

    law: Law
    centre: dict[str, float]
    theta: Array
    covariance: Array
    converged: NDArray[np.bool_]
    freedom: int
    method: str
    residual: Array

    @property
    def widening(self) -> float:
        """t(df) / 1.96."""
        return t_widening(self.freedom)


def fit_batch(
    law: Law,
    columns: Mapping[str, Array],
    losses: Array,
    run: NDArray[np.intp],
    robust: bool = True,
    start: Mapping[str, float] | None = None,
) -> BatchFit:
    """Fit ``law`` to every row of ``losses`` (S, n) at ``columns``; ``run`` (n,) says which rows are one run.

    robust: log-Huber at 1.345 robust standard deviations of each sweep's own residuals, else squared error of ln L.
    start: natural parameters to start from besides the global search (the truth of a simulation). Raises
    ``ValueError`` when the rows are too few for the law, or few runs of several rows cannot tell how much runs vary.
    """
    rows = losses.shape[1]
    if rows <= law.num_params:
        raise ValueError(f"law {law.name} has {law.num_params} parameters; {rows} rows cannot carry a fit of it")
    centre = law.centre_of(columns)
    problem = make_problem(law, columns, centre, losses, np.ones(losses.shape), Objective("log", "mse"))
    starts = [global_starts(problem, make_grid(problem, coarse=True), 1)[:, 0]]
    if start is not None:
        known = law.to_working(np.array([[start[name] for name in law.names]], dtype=float), centre)
        starts.append(np.broadcast_to(known, starts[0].shape))
    tried = [solve(problem, one) for one in starts]
    best = np.argmin([one.objective for one in tried], axis=0)
    every = np.arange(len(losses))
    theta = np.stack([one.theta for one in tried])[best, every]
    converged = np.stack([one.converged for one in tried])[best, every]
    if robust:
        delta = _robust_delta(problem.predict(theta) - problem.y, law.num_params)
        problem = replace(problem, objective=Objective("log", "huber", delta))
        again = solve(problem, theta)
        theta, converged = again.theta, again.converged
    residual = problem.predict(theta) - problem.y
    covariance, freedom, method = _covariance(problem, theta, residual, run)
    return BatchFit(law, centre, theta, covariance, converged, freedom, method, residual)


def _robust_delta(residual: Array, num_params: int) -> Array:
    """1.345 robust standard deviations (S, 1), without the residuals that the fit itself made small."""
    size = np.sort(np.abs(residual), axis=1)[:, min(num_params, residual.shape[1] - 1) :]
    return np.maximum(HUBER_EFFICIENCY * np.median(size, axis=1, keepdims=True) / 0.6745, _LEAST_DELTA)


def _covariance(problem: Problem, theta: Array, residual: Array, run: NDArray[np.intp]) -> tuple[Array, int, str]:
    """Covariance (S, P, P) of theta, its degrees of freedom and a sentence.

    One row a run: sandwich over rows (HC3). 12 runs or more with several rows: sandwich over runs (CR3). Fewer: the
    variance of a run and of a row from the residuals (as the bootstrap "trunks"), carried through least squares.
    """
    found = derivatives(problem, theta)
    free = ~((theta <= problem.low) | (theta >= problem.high))
    codes = np.unique(run, return_inverse=True)[1]
    runs, (count, rows, width) = int(codes.max()) + 1, (*residual.shape, theta.shape[1])
    if runs == rows or runs >= FEW_RUNS:
        bread = _inverse(found.hessian, free)
        jacobian = (found.jacobian * free[:, :, None]).transpose(0, 2, 1)
        scores = [scores_of(jacobian[s], found.slope[s], codes) for s in range(count)]
        covariance = np.stack([covariance_of(bread[s], scores[s]) for s in range(count)])
        freedom = rows - width if runs == rows else runs - 1
        return covariance, max(freedom, 1), f"sandwich over {runs} {'rows' if runs == rows else 'runs'}, t({freedom})"
    jacobian = found.jacobian * free[:, :, None]
    shared, own, freedom = variance_components(residual, jacobian.mean(axis=0).T, codes)
    bread = _inverse(jacobian @ jacobian.transpose(0, 2, 1), free)
    summed = jacobian @ np.eye(runs)[codes]
    meat = own[:, None, None] * (jacobian @ jacobian.transpose(0, 2, 1))
    meat = meat + shared[:, None, None] * (summed @ summed.transpose(0, 2, 1))
    return bread @ meat @ bread, freedom, f"variances of {runs} runs and of rows from the residuals, t({freedom})"


def variance_components(residual: Array, jacobian: Array, codes: NDArray[np.intp]) -> tuple[Array, Array, int]:
    """Variance of ln L shared by a run and of a row by itself, each (S,), and the degrees of freedom of the first.

    From residuals (S, n) of fits with this jacobian (n, P): means of runs against all rows, compared with what a fit
    leaves of noise of either kind (Satterthwaite's degrees of freedom). Raises ``ValueError`` when the law follows
    every run, so that nothing says how much runs vary.
    """
    runs, count = np.eye(int(codes.max()) + 1)[codes], len(codes)
    gain = np.linalg.pinv(jacobian)
    means = (runs / np.sqrt(runs.sum(axis=0))).T
    of_rows, shared_left = means - (means @ jacobian) @ gain, runs - jacobian @ (gain @ runs)
    of_runs = of_rows @ runs
    if np.sum(of_runs**2) < _LEAST_LEFT * count:
        raise ValueError(f"{runs.shape[1]} runs cannot tell how much runs vary, the law follows each of them; add runs")
    expected = np.array(
        [[np.sum(of_rows**2), np.sum(of_runs**2)], [count - np.trace(gain @ jacobian), np.sum(shared_left**2)]]
    )
    squares = np.stack([np.sum((residual @ means.T) ** 2, axis=1), np.sum(residual**2, axis=1)])
    own, shared = np.linalg.solve(expected, squares)
    own, shared = np.where(shared > 0, own, squares[1] / expected[1, 0]), np.maximum(shared, 0.0)
    own = np.maximum(own, 1e-12 * squares[1] / count)
    spread = float(np.median(own)) * of_rows @ of_rows.T + float(np.median(shared)) * of_runs @ of_runs.T
    freedom = np.trace(spread) ** 2 / max(float(np.sum(spread**2)), 1e-300)
    return shared, own, max(int(freedom), 1)


def _inverse(matrices: Array, free: NDArray[np.bool_]) -> Array:
    """Inverses (S, P, P) over the free parameters, zero for the others; a flat direction gets a huge variance."""
    both = free[:, :, None] & free[:, None, :]
    kept = np.where(both, matrices, 0.0)
    at = np.arange(kept.shape[1])
    kept[:, at, at] += ~free
    scale = 1.0 / np.sqrt(np.maximum(np.abs(kept[:, at, at]), 1e-300))
    values, vectors = np.linalg.eigh(scale[:, :, None] * kept * scale[:, None, :])
    values = np.maximum(values, 1e-12)
    inverse = (vectors / values[:, None, :]) @ vectors.transpose(0, 2, 1)
    return np.where(both, scale[:, :, None] * inverse * scale[:, None, :], 0.0)
