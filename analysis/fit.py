"""One law, one sample: the rows it needs, the point fit, its covariance, and which directions are flat.

Shapes: n rows, P parameters. The objective is the SUM over rows of the penalty of a residual (``engine.objective``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.decisions.allocate import fit_cost
from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.engine.leverage import covariance_of, scores_of
from analysis.engine.newton import solve
from analysis.engine.objective import Objective, objective_named
from analysis.engine.point import FitError, PointFit, fit_point
from analysis.engine.problem import Derivatives, Problem, derivatives, make_problem
from analysis.engine.starts import global_starts, make_grid
from analysis.result import LAW_OF_FORM, VERSION, FitResult, law_behind
from analysis.rows.table import Exclusion, Sample

__all__ = ["FORMS", "FitError", "Setup", "fit_law", "flat_directions", "pinned", "prepare"]

FORMS = ("free", "known", "interaction")
FLAT_ITERATIONS = 40
_MUST_VARY = {"N": "sizes N", "D": "token counts D", "C": "budgets C"}


@dataclass(frozen=True)
class Setup:
    """One sample seen through one law: the response ``y`` (n,) it is fitted to and the centre of its columns.

    form: "free" (Chinchilla with E fitted), "known" (the law of L minus the known entropy), else the law's name.
    """

    form: str
    law: Law
    sample: Sample
    y: Array
    centre: dict[str, float]
    fixed: dict[str, float] = field(default_factory=dict)

    @property
    def added(self) -> Array | float:
        """The entropy to add back to a prediction, (n,) or 0."""
        return self.sample.entropy if self.form == "known" and self.sample.entropy is not None else 0.0

    @property
    def num_free(self) -> int:
        """Parameters that are fitted."""
        return self.law.num_params - len(self.fixed)

    def problem(self, weights: Array, objective: Objective, y: Array | None = None) -> Problem:
        """R fits with weights (R, n) and, when given, their own responses ``y`` (R, n)."""
        response = self.y if y is None else y
        return make_problem(self.law, self.sample.columns, self.centre, response, weights, objective, self.fixed)


def law_of(form: str, domains: Sequence[str] = ()) -> Law:
    """The law behind a form. Raises ``FitError`` naming the forms and laws there are."""
    try:
        return law_behind(form, domains)
    except ValueError as error:
        raise FitError(f"{error}\n(or a form: {', '.join(FORMS)})") from error


def form_of(law: str) -> str:
    """The form that a law's name stands for: chinchilla is "free", chinchilla_excess "known", others themselves."""
    return {name: form for form, name in LAW_OF_FORM.items()}.get(law, law)


def prepare(
    sample: Sample, form: str, fixed: Mapping[str, float] | None = None, domains: Sequence[str] = ()
) -> tuple[Setup, list[Exclusion]]:
    """The law and response of a form; rows it cannot use come back as exclusions.

    fixed: natural values of parameters that are not fitted. Raises ``FitError`` when the entropy is unknown for form
    "known", for an unknown fixed parameter, a missing column, too few rows, or a column that does not vary.
    """
    dropped: list[Exclusion] = []
    where = f"{sample.group}/{sample.target}, form {form}"
    if not len(sample):
        raise FitError(
            f"{sample.group}/{sample.target}: every row is left out; the reasons are listed with the exclusions"
        )
    law, fixed = law_of(form, domains), dict(fixed or {})
    if form == "known":
        sample, dropped = _with_positive_excess(sample)
    if unknown := sorted(set(fixed) - set(law.names)):
        raise FitError(f"{where}: cannot fix {unknown[0]!r}; its parameters are {', '.join(law.names)}")
    if missing := [name for name in law.columns if name not in sample.columns]:
        raise FitError(f"{where}: the law needs column {missing[0]}; the sample has {', '.join(sample.columns)}")
    law = law.pinned(tuple(fixed)) if fixed else law
    free = law.num_params - len(fixed)
    if len(sample) < free + 1:
        raise FitError(f"{where}: {len(sample)} usable rows, {free + 1} needed for {free} parameters")
    for name in law.columns:
        if name in _MUST_VARY and len(np.unique(sample.columns[name])) < 2:
            what = _MUST_VARY[name]
            raise FitError(f"{where}: all rows share one of the {what}; at least 2 are needed, 4 to say anything")
    y = sample.loss - sample.entropy if form == "known" and sample.entropy is not None else sample.loss
    return Setup(form, law, sample, y, law.centre_of(sample.columns), fixed), dropped


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


def fit_law(
    sample: Sample,
    form: str,
    delta: float | str = "auto",
    check: bool = True,
    objective: str = "log-huber",
    fixed: Mapping[str, float] | None = None,
    tilt: float = 1.0,
    domains: Sequence[str] = (),
) -> FitResult:
    """Fit one law to one sample. No starting point is needed.

    form: "free", "known", "interaction" or the name of any law. objective: log-huber, log-mse, log-lad, lin-huber,
    lin-mse or lin-lad. delta: "auto" (1.345 robust standard deviations of the residual), "chinchilla" (1e-3, arXiv
    2203.15556), a positive number, or infinity for squared error. check: profile E and the exponents to their bounds,
    to find flat directions (a hold-out needs no such check). fixed: natural values of parameters not fitted. tilt:
    penalty factor where the fit lies above the observation. domains: sources of a mixture law. Raises ``FitError`` as
    ``prepare`` does, and for any other delta; ``ValueError`` for another objective.
    """
    began = time.perf_counter()
    setup, dropped = prepare(sample, form, fixed, domains)
    point = fit_point(setup.law, setup.sample.columns, setup.centre, setup.y, objective, delta, setup.fixed, tilt)
    seconds = time.perf_counter() - began
    result = _result(setup, point, tuple(domains), tilt)
    result = replace(result, excluded=tuple(e.run_id for e in dropped), seconds_fit=seconds)
    if check and result.status in ("converged", "at_bound"):
        flat = flat_directions(setup, result)
        result = replace(result, unidentified=flat, status="not_identified" if flat else result.status)
    return result


def objective_of(result: FitResult) -> Objective:
    """The objective that a result minimised."""
    return objective_named(result.objective, 1e-3 if result.delta is None else result.delta, result.tilt)


def held(setup: Setup, theta: Array) -> NDArray[np.bool_]:
    """Which working parameters (P,) sit at a bound or are fixed."""
    low, high = np.array(setup.law.bounds, dtype=float).T
    fixed = np.array([name in setup.fixed for name in setup.law.names])
    return np.asarray((theta <= low) | (theta >= high) | fixed)


def _result(setup: Setup, point: PointFit, domains: tuple[str, ...], tilt: float) -> FitResult:
    law, sample, theta = setup.law, setup.sample, point.theta
    found = derivatives(point.problem, theta[None], with_metric=True)
    fitted = law.loss(theta[None], sample.columns, setup.centre)[0] + setup.added
    stuck = held(setup, theta)
    fixed = np.array([name in setup.fixed for name in law.names])
    objective = point.problem.objective
    entropy = None if sample.entropy is None else float(sample.entropy.mean())
    r2_excess, note = _r2_excess(sample, fitted)
    natural = law.to_natural(theta[None], setup.centre)[0]
    columns = sample.columns
    has_cost = {"N", "D", "C"} <= set(columns)
    return FitResult(
        form=setup.form,
        law=law.name,
        group=sample.group,
        target=sample.target,
        params=dict(zip(law.names, map(float, natural), strict=True)),
        theta=theta,
        centre=setup.centre,
        fixed=setup.fixed,
        domains=domains,
        known_entropy=entropy,
        entropy_is_added=setup.form == "known",
        objective=objective.name,
        objective_value=point.value,
        delta=float(objective.delta) if objective.penalty == "huber" else None,
        delta_rule=point.delta_rule,
        tilt=tilt,
        sigma=point.sigma,
        status="failed" if not point.converged else "at_bound" if (stuck & ~fixed).any() else "converged",
        unidentified={},
        condition=_condition(found, ~stuck),
        num_optima=point.num_optima,
        gap=point.gap,
        gradient_norm=point.gradient_norm,
        covariance=sandwich(setup, found, ~stuck),
        n_rows=len(sample),
        n_clusters=sample.num_clusters,
        n_sizes=len(np.unique(columns["N"])) if "N" in columns else None,
        r2_log_loss=_r2(np.log(sample.loss), np.log(fitted)) if law.positive else _r2(sample.loss, fitted),
        r2_log_excess=r2_excess,
        r2_note=note,
        ranges={name: _span(values) for name, values in columns.items()},
        cost=fit_cost(columns["N"], columns["D"], columns["C"]) if has_cost else None,
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


def _condition(found: Derivatives, free: NDArray[np.bool_]) -> float:
    """Condition number of the reweighted curvature of the free parameters, each scaled to unit curvature."""
    assert found.metric is not None
    metric = found.metric[0][np.ix_(free, free)]
    if not len(metric):
        return 1.0
    scale = np.sqrt(np.maximum(np.diag(metric), 1e-300))
    values = np.linalg.eigvalsh(metric / np.outer(scale, scale))
    return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def sandwich(setup: Setup, found: Derivatives, free: NDArray[np.bool_]) -> Array | None:
    """Covariance of theta (P, P) from scores summed over runs, corrected for the leverage of each run (HC3, CR3); zero
    for parameters that are held; None where the curvature is singular or there are no degrees of freedom."""
    sample, rows, width = setup.sample, len(setup.y), int(free.sum())
    hessian = found.hessian[0][np.ix_(free, free)]
    if sample.num_clusters < 2 or rows <= width or not width or np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    codes = np.unique(sample.cluster, return_inverse=True)[1]
    out = np.zeros((len(free), len(free)))
    scores = scores_of(found.jacobian[0][free].T, found.slope[0], codes)
    out[np.ix_(free, free)] = covariance_of(np.linalg.inv(hessian), scores)
    return out


def pinned(setup: Setup, result: FitResult, pins: Sequence[tuple[int, float]]) -> Array:
    """Lowest objective (V,) with one working parameter (index, value) held, for every pin, from four starts each."""
    problem = setup.problem(np.ones((1, len(setup.y))), objective_of(result))
    own = global_starts(problem, make_grid(problem, coarse=True), 3)[0]
    starts = np.concatenate([result.theta[None], own])
    flat = np.tile(starts, (len(pins), 1))
    at, value = (np.repeat(column, len(starts)) for column in zip(*pins, strict=True))
    rows = np.arange(len(flat))
    low, high = (np.broadcast_to(b, flat.shape).copy() for b in (problem.low, problem.high))
    low[rows, at] = high[rows, at] = flat[rows, at] = value
    weights = np.ones((len(flat), len(setup.y)))
    found = solve(replace(problem, weights=weights, low=low, high=high), flat, FLAT_ITERATIONS)
    return found.objective.reshape(len(pins), -1).min(axis=1)


def flat_ends(setup: Setup) -> list[tuple[str, int, float]]:
    """(name, index, working value) of every finite bound that a profile may reach: those of E, exponents and rates."""
    return [
        (name, at, end)
        for at, (name, kind) in enumerate(setup.law.params.items())
        for end in kind.bounds
        if np.isfinite(end) and kind.low >= 0 and name not in setup.fixed and (kind.exponent or name == "E")
    ]


def flat_threshold(setup: Setup, objective: ArrayLike, rows: ArrayLike) -> Array:
    """The objective up to which a profile counts as flat: 95 % of F, the rows taken as independent."""
    freedom = np.maximum(np.asarray(rows, dtype=float) - setup.num_free, 1.0)
    noise = np.maximum(objective, 1e-20 * np.asarray(rows)) / freedom
    return np.asarray(objective + noise * stats.f.ppf(0.95, 1, freedom))


def flat_reason(setup: Setup, name: str, end: float) -> str:
    """That the profile of ``name`` stays flat up to the working value ``end``, in natural units."""
    natural = float(np.exp(end)) if setup.law.params[name].log else end
    return f"profile reaches {'0' if natural < 0.01 else 'infinity' if natural > 1e9 else f'{natural:g}'}"


def flat_directions(setup: Setup, result: FitResult) -> dict[str, str]:
    """Parameters whose profile stays below the 95 % F threshold all the way to a bound, with the reason.

    The threshold takes the rows as independent, so it errs towards "identified"; the bootstrap is the stricter judge.
    """
    ends = flat_ends(setup)
    flat: dict[str, str] = {}
    if ends:
        threshold = flat_threshold(setup, result.objective_value, result.n_rows)
        lowest = pinned(setup, result, [(at, end) for _, at, end in ends])
        for (name, _, end), value in zip(ends, lowest, strict=True):
            if value <= threshold:
                flat.setdefault(name, flat_reason(setup, name, end))
    return flat
