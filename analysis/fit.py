"""One law, one sample: global start, Newton polish, robust scale, identifiability. No user-chosen starting point.

Shapes: n rows, P parameters. The objective is the SUM over rows of huber_delta(ln L_fitted - ln L_observed).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.allocate import fit_cost
from analysis.laws import Array, Center, Law, center_of, chinchilla, interaction
from analysis.result import VERSION, FitResult
from analysis.solver import Problem, Solution, derivatives, jacobian, log_loss_and_shares, solve
from analysis.starts import global_starts
from analysis.table import Exclusion, Sample

FORMS = ("free", "known", "interaction")
HUBER_EFFICIENCY = 1.345
CHINCHILLA_DELTA = 1e-3
_MIN_DELTA = 1e-7
_POINT_STARTS = 6


class FitError(ValueError):
    """The sample cannot carry this law; the message gives the counts and what is needed."""


@dataclass(frozen=True)
class Setup:
    """One sample seen through one form: the law, its target ln y (n,) and the features at the sample's centre."""

    form: str
    law: Law
    sample: Sample
    y: Array
    center: Center
    log_n: Array
    log_d: Array

    @property
    def added(self) -> Array | float:
        """The entropy to add back to a prediction, (n,) or 0."""
        return self.sample.entropy if self.form == "known" and self.sample.entropy is not None else 0.0

    def bounds(self) -> tuple[Array, Array]:
        """(low, high), each (P,)."""
        pairs = np.array(self.law.bounds)
        return pairs[:, 0].copy(), pairs[:, 1].copy()

    def problem(self, weights: Array, delta: float, y: Array | None = None) -> Problem:
        """The solver's view for R weight vectors (R, n)."""
        low, high = self.bounds()
        design = self.law.design(self.log_n, self.log_d, self.center)
        return Problem(design, self.law.offset, self.y if y is None else y, weights, delta, low, high)

    def starts(self, weights: Array, keep: int, y: Array | None = None) -> Array:
        """Global starts (R, keep, P)."""
        target = self.y if y is None else y
        return global_starts(self.law, self.log_n, self.log_d, self.center, target, weights, keep)


def prepare(sample: Sample, form: str) -> tuple[Setup, list[Exclusion]]:
    """The law and target of a form; rows it cannot use come back as exclusions.

    Raises ``FitError`` when the entropy is unknown for form "known", or for too few rows or too few distinct sizes.
    """
    dropped: list[Exclusion] = []
    if not len(sample):
        raise FitError(
            f"{sample.group}/{sample.target}: every row is left out; the reasons are listed with the exclusions"
        )
    if form == "known":
        sample, dropped = _with_positive_excess(sample)
    law = {"free": chinchilla(), "known": chinchilla(offset=False), "interaction": interaction()}.get(form)
    if law is None:
        raise FitError(f"unknown form {form!r}; the forms are {', '.join(FORMS)}")
    where = f"{sample.group}/{sample.target}, form {form}"
    if len(sample) < law.num_params + 1:
        raise FitError(
            f"{where}: {len(sample)} usable rows, {law.num_params + 1} needed for {law.num_params} parameters"
        )
    for name, values in (("sizes N", sample.size), ("token counts D", sample.tokens)):
        if len(np.unique(values)) < 2:
            raise FitError(f"{where}: all rows share one of the {name}; at least 2 are needed, 4 to say anything")
    excess = sample.loss - sample.entropy if form == "known" and sample.entropy is not None else sample.loss
    center = center_of(sample.size, sample.tokens)
    return Setup(form, law, sample, np.log(excess), center, np.log(sample.size), np.log(sample.tokens)), dropped


def _with_positive_excess(sample: Sample) -> tuple[Sample, list[Exclusion]]:
    if sample.entropy is None:
        raise FitError(
            f"{sample.group}/{sample.target}: the known entropy is missing in some row (column "
            f"entropy_{sample.target}), so E cannot be fixed to it; the forms free and interaction remain"
        )
    excess = sample.loss - sample.entropy
    good = excess > 0
    where = f"{sample.target}, form known"
    dropped = [
        Exclusion(run, sample.group, where, "excess", f"loss is {-value:.3g} nats below the known entropy")
        for run, value, keep in zip(sample.run_ids, excess, good, strict=True)
        if not keep
    ]
    return sample.where(good), dropped


def robust_sigma(residual: Array, num_params: int) -> float:
    """Median absolute residual / 0.6745 without the ``num_params`` smallest (a fit makes that many near zero)."""
    size = np.sort(np.abs(residual))
    return float(np.median(size[min(num_params, len(size) - 1) :]) / 0.6745)


def fit_law(sample: Sample, form: str, delta: float | str = "auto", check: bool = True) -> FitResult:
    """Fit one form to one sample.

    delta: "auto" (1.345 robust standard deviations of the residual), "chinchilla" (1e-3, arXiv 2203.15556), a positive
    number, or infinity for squared error. check: profile E and the exponents to their bounds, to find flat directions
    (a hold-out needs no such check). Raises ``FitError`` as ``prepare`` does, and for any other delta.
    """
    began = time.perf_counter()
    setup, dropped = prepare(sample, form)
    solution, used, rule = _solve_point(setup, delta)
    best = int(np.argmin(np.where(solution.converged, solution.objective, np.inf)))
    if not solution.converged.any():
        best = int(np.argmin(solution.objective))
    result = _result(setup, solution, best, used, rule)
    result = replace(result, excluded=tuple(e.run_id for e in dropped))
    if check and result.status in ("converged", "at_bound"):
        flat = flat_directions(setup, result)
        result = replace(result, unidentified=flat, status="not_identified" if flat else result.status)
    return replace(result, seconds_fit=time.perf_counter() - began)


def _solve_point(setup: Setup, delta: float | str) -> tuple[Solution, float, str]:
    ones = np.ones((1, len(setup.y)))
    starts = setup.starts(ones, _POINT_STARTS)[0]
    weights = np.ones((_POINT_STARTS, len(setup.y)))
    fixed, rule = _fixed_delta(delta)
    if fixed is not None:
        return solve(setup.problem(weights, fixed), starts), fixed, rule
    solution = solve(setup.problem(weights, np.inf), starts)
    used = floor = 0.0
    for _ in range(3):
        best = solution.theta[int(np.argmin(solution.objective))]
        residual = log_loss_and_shares(setup.problem(ones, np.inf), best[None])[0][0] - setup.y
        used = max(HUBER_EFFICIENCY * robust_sigma(residual, setup.law.num_params), floor, _MIN_DELTA)
        floor = floor or used / 2.0
        again = np.concatenate([starts, best[None]])
        solution = solve(setup.problem(np.ones((len(again), len(setup.y))), used), again)
    return solution, used, rule


def _fixed_delta(delta: float | str) -> tuple[float | None, str]:
    if delta == "auto":
        return None, "auto: 1.345 robust sigma"
    if delta == "chinchilla":
        return CHINCHILLA_DELTA, "chinchilla preset: 1e-3"
    if isinstance(delta, str):
        try:
            delta = float(delta)
        except ValueError:
            raise FitError(f"delta is {delta!r}; allowed are auto, chinchilla, or a positive number") from None
    if not delta > 0:
        raise FitError(f"delta is {delta}; allowed are auto, chinchilla, or a positive number")
    return float(delta), "fixed"


def _result(setup: Setup, solution: Solution, best: int, delta: float, rule: str) -> FitResult:
    law, sample, theta = setup.law, setup.sample, solution.theta[best]
    problem = setup.problem(np.ones((1, len(sample))), delta)
    _, _, hessian, metric = derivatives(problem, theta[None])
    log_fit, jac, _ = jacobian(problem, theta[None])
    fitted = np.exp(log_fit[0]) + setup.added
    low, high = setup.bounds()
    at_bound = bool(np.any((theta <= low) | (theta >= high)))
    count, gap = _optima(solution, best)
    entropy = None if sample.entropy is None else float(sample.entropy.mean())
    r2_excess, note = _r2_excess(sample, fitted)
    natural = law.to_natural(theta[None], setup.center)[0]
    return FitResult(
        form=setup.form,
        law=law.name,
        group=sample.group,
        target=sample.target,
        params=dict(zip(law.names, map(float, natural), strict=True)),
        theta=theta,
        center=setup.center,
        known_entropy=entropy,
        entropy_is_added=setup.form == "known",
        objective="log-huber" if np.isfinite(delta) else "log-mse",
        objective_value=float(solution.objective[best]),
        delta=delta if np.isfinite(delta) else None,
        delta_rule=rule,
        sigma=robust_sigma(log_fit[0] - setup.y, law.num_params),
        status="failed" if not solution.converged[best] else "at_bound" if at_bound else "converged",
        unidentified={},
        condition=_condition(metric[0]),
        num_optima=count,
        gap=gap,
        gradient_norm=float(solution.gradient_norm[best]),
        covariance=None if at_bound else _sandwich(setup, log_fit[0], jac[0], hessian[0], delta),
        n_rows=len(sample),
        n_clusters=sample.num_clusters,
        n_sizes=len(np.unique(sample.size)),
        r2_log_loss=_r2(np.log(sample.loss), np.log(fitted)),
        r2_log_excess=r2_excess,
        r2_note=note,
        size_range=_span(sample.size),
        tokens_range=_span(sample.tokens),
        compute_range=_span(sample.compute),
        cost=fit_cost(sample.size, sample.tokens, sample.compute),
        min_excess_ratio=None if sample.entropy is None else float(np.min(sample.loss / sample.entropy) - 1.0),
        digest=sample.digest(),
        version=VERSION,
        seconds_fit=0.0,
        fitted=tuple(map(float, fitted)),
    )


def _span(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _r2(observed: Array, predicted: Array) -> float:
    """Share of variance explained: 1 - residual sum of squares / total sum of squares."""
    total = float(np.sum((observed - observed.mean()) ** 2))
    return 1.0 - float(np.sum((observed - predicted) ** 2)) / total if total > 0 else float("nan")


def _r2_excess(sample: Sample, fitted: Array) -> tuple[float | None, str]:
    """R2 of ln(L - known entropy); None with a note where the entropy is unknown or a prediction lies below it."""
    if sample.entropy is None:
        return None, "the entropy is unknown"
    observed, predicted = sample.loss - sample.entropy, fitted - sample.entropy
    if np.any(predicted <= 0) or np.any(observed <= 0):
        return None, "a loss or a prediction lies below the known entropy"
    return _r2(np.log(observed), np.log(predicted)), ""


def _optima(solution: Solution, best: int) -> tuple[int, float | None]:
    """How many distinct local optima the starts reached, and the relative gap from the best to the second."""
    found: list[int] = []
    for i in np.argsort(solution.objective):
        near = (np.abs(solution.theta[i] - solution.theta[j]).max() < 1e-3 for j in found)
        if solution.converged[i] and not any(near):
            found.append(int(i))
    if len(found) < 2:
        return max(len(found), 1), None
    lowest = max(float(solution.objective[best]), 1e-300)
    return len(found), float(solution.objective[found[1]] / lowest - 1.0)


def _condition(metric: Array) -> float:
    """Condition number of the curvature after scaling every parameter to unit curvature."""
    scale = np.sqrt(np.maximum(np.diag(metric), 1e-300))
    values = np.linalg.eigvalsh(metric / np.outer(scale, scale))
    return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def _sandwich(setup: Setup, log_fit: Array, jac: Array, hessian: Array, delta: float) -> Array | None:
    """Cluster-robust covariance of theta (P, P) with the G/(G-1) (n-1)/(n-P) correction; None when singular."""
    sample, rows, width = setup.sample, len(setup.y), setup.law.num_params
    groups = sample.num_clusters
    if groups < 2 or rows <= width or np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    scores = np.clip(log_fit - setup.y, -delta, delta)[:, None] * jac
    codes = np.unique(sample.cluster, return_inverse=True)[1]
    summed = np.zeros((groups, width))
    np.add.at(summed, codes, scores)
    bread = np.linalg.inv(hessian)
    factor = groups / (groups - 1) * (rows - 1) / (rows - width)
    return factor * bread @ (summed.T @ summed) @ bread


def profile(setup: Setup, result: FitResult, name: str, values: Array) -> Array:
    """Objective (V,) minimised over the other parameters with parameter ``name`` pinned to each value."""
    at = setup.law.names.index(name)
    delta = np.inf if result.delta is None else result.delta
    ones = np.ones((1, len(setup.y)))
    starts = np.concatenate([result.theta[None], setup.starts(ones, 3)[0]])
    grid = np.repeat(starts[None], len(values), axis=0)
    grid[:, :, at] = values[:, None]
    flat = grid.reshape(-1, grid.shape[2])
    problem = setup.problem(np.ones((len(flat), len(setup.y))), delta)
    low, high = (np.broadcast_to(b, flat.shape).copy() for b in setup.bounds())
    low[:, at] = high[:, at] = flat[:, at]
    pinned = solve(replace(problem, low=low, high=high), flat)
    return pinned.objective.reshape(len(values), -1).min(axis=1)


def flat_directions(setup: Setup, result: FitResult) -> dict[str, str]:
    """Parameters whose profile stays below the 95 % F threshold all the way to a bound, with the reason.

    The threshold takes the rows as independent, so it errs towards "identified"; the bootstrap is the stricter judge.
    """
    freedom = max(result.n_rows - setup.law.num_params, 1)
    noise = max(result.objective_value, 1e-20 * result.n_rows) / freedom
    threshold = result.objective_value + noise * float(stats.f.ppf(0.95, 1, freedom))
    low, high = setup.bounds()
    flat = {}
    for name in setup.law.exponents + (("E",) if setup.law.offset else ()):
        if name == "gamma":
            continue
        at = setup.law.names.index(name)
        ends = np.array([v for v in (low[at], high[at]) if np.isfinite(v)])
        reached = [
            end for end, value in zip(ends, profile(setup, result, name, ends), strict=True) if value <= threshold
        ]
        if reached:
            flat[name] = f"profile reaches {0 if reached[0] < 0.01 else reached[0]:g}"
    return flat
