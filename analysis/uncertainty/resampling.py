"""Which resampling a table needs, its weights and responses, and the refits.

Shapes: B draws, n rows, G runs, P parameters.

  pairs         rows are drawn with replacement
  clusters      whole runs are drawn with replacement
  wild          residuals keep their rows and change their signs (Rademacher; Webb's six values for fewer than 12)
  wild_cluster  residuals keep their rows, all rows of a run change their sign together
  trunks        fitted values plus new noise: a common shift for each run and one for each row (``uncertainty.noise``)

Residuals of the wild methods are corrected for leverage (HC3, CR3; ``engine.leverage``) in the space of the objective.
"auto": pairs when every run gave one row (or there is one run); clusters from 12 runs on; below, drawing 6 runs of 6
sizes whole would drop sizes from most resamples, so the grid is kept: trunks, and wild_cluster when rows next to each
other in a run are alike beyond the run's shift. ``benchmarks/interval_coverage.py`` is the study that chose this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.engine.leverage import left_out
from analysis.engine.newton import Solution, solve
from analysis.engine.starts import Grid, global_starts, make_grid
from analysis.fit import FitError, Setup
from analysis.result import FitResult
from analysis.rows.table import Sample
from analysis.uncertainty.linear import linearise, smooth_objective
from analysis.uncertainty.noise import TrunkNoise, inflation, serial_correlation, trunk_noise, with_noise

METHODS = ("auto", "pairs", "clusters", "wild", "wild_cluster", "trunks")
FEW_CLUSTERS = 12
FEW_SIGNS = 12
WANDERS = 0.05
ALIKE = "few runs, whose rows are serially correlated"
CANNOT_TELL = "too few runs to tell how much runs vary"
_FAR = 0.75
_WEBB = np.sqrt([0.5, 1.0, 1.5])


@dataclass(frozen=True)
class Plan:
    """The chosen method, its degrees of freedom and a sentence for the reader."""

    method: str
    freedom: int
    text: str

    @property
    def widening(self) -> float:
        """t(df) / 1.96; 1 for trunks, whose draws carry the uncertainty of the variances themselves."""
        if self.method == "trunks":
            return 1.0
        return float(stats.t.ppf(0.975, self.freedom) / stats.norm.ppf(0.975))


def plan_for(
    sample: Sample, num_params: int, method: str = "auto", freedom: float | None = None, no_trunks: str = ""
) -> Plan:
    """Pick the resampling for a sample (see the module's text). Raises ``FitError`` for an unknown method.

    freedom: degrees of freedom of the variance between runs, for the method "trunks". no_trunks: why "auto" may not
    take the rows of a run as independent but for a shift of known size.
    """
    if method not in METHODS:
        raise FitError(f"bootstrap method is {method!r}; allowed are {', '.join(METHODS)}")
    rows, runs = len(sample), sample.num_clusters
    why = "asked for"
    if method == "auto":
        method, why = _automatic(rows, runs, no_trunks)
    own = {
        "pairs": rows - num_params,
        "wild": rows - num_params,
        "clusters": runs - 1,
        "wild_cluster": runs - 1,
        "trunks": freedom if freedom else runs - 3,
    }
    chosen = max(int(own[method]), 1)
    single = f"{rows} independent runs" if runs == rows else f"{rows} rows of {runs} runs as if independent"
    what = {
        "pairs": f"rows drawn with replacement ({single})",
        "wild": f"signs of residuals redrawn ({single})",
        "clusters": f"whole runs drawn with replacement ({runs} independent runs, {rows} rows)",
        "wild_cluster": f"signs of whole runs' residuals redrawn ({runs} independent runs, {rows} rows)",
        "trunks": f"run and row noise redrawn from the residuals ({runs} independent runs, {rows} rows)",
    }[method]
    stretch = "variances drawn with their own degrees of freedom"
    if method != "trunks":
        stretch = f"stretched by t({chosen})/1.96"
    return Plan(method, chosen, f"{what}, percentile, {stretch}; {why}")


def _automatic(rows: int, runs: int, no_trunks: str) -> tuple[str, str]:
    """The method for a table, and why."""
    if runs == rows:
        return "pairs", "every run gave one row"
    if runs == 1:
        return "pairs", "there is one run, so how much runs differ is not in these intervals"
    if runs >= FEW_CLUSTERS:
        return "clusters", "runs gave several rows"
    if no_trunks:
        return "wild_cluster", no_trunks
    return "trunks", "few runs that gave several rows"


def choose(
    setup: Setup, result: FitResult, method: str, noise: TrunkNoise | None, rng: np.random.Generator
) -> tuple[Plan, TrunkNoise | None]:
    """The plan of a fit and, for trunks, the noise to redraw: the larger of the sample's own and the pooled ``noise``;
    for wild_cluster in the place of trunks the pooled one.

    Raises ``FitError`` as ``plan_for`` does, and as ``trunk_noise`` does when "trunks" was asked for by name.
    """
    free = setup.num_free
    plan = plan_for(setup.sample, free, method)
    if plan.method != "trunks":
        return plan, None
    try:
        own = trunk_noise(setup, result)
    except FitError:
        if noise is not None:
            return plan_for(setup.sample, free, method, noise.freedom), noise
        if method != "auto":
            raise
        return plan_for(setup.sample, free, method, no_trunks=CANNOT_TELL), None
    if method == "auto" and serial_correlation(setup, result, own, rng) < WANDERS:
        return plan_for(setup.sample, free, method, no_trunks=ALIKE), noise
    used = own
    if noise is not None:
        used = TrunkNoise(max(own.trunk, noise.trunk), max(own.row, noise.row), noise.freedom, noise.row_freedom)
    return plan_for(setup.sample, free, method, used.freedom), used


def resample(
    setup: Setup, result: FitResult, plan: Plan, draws: int, rng: np.random.Generator, noise: TrunkNoise | None = None
) -> tuple[Array, Array | None]:
    """Weights (B, n) and, unless they are the observed ones, responses (B, n) of the resamples.

    noise: what to redraw, for trunks; for wild_cluster noise pooled over groups, which residuals are scaled up to.
    """
    rows = len(setup.y)
    by_run = plan.method in ("clusters", "wild_cluster", "trunks")
    codes = np.unique(setup.sample.cluster, return_inverse=True)[1] if by_run else np.arange(rows)
    groups = int(codes.max()) + 1
    ones = np.ones((draws, rows))
    match plan.method:
        case "pairs" | "clusters":
            counts = np.zeros((draws, groups))
            np.add.at(counts, (np.arange(draws)[:, None], rng.integers(0, groups, (draws, groups))), 1.0)
            return counts[:, codes], None
        case "wild" | "wild_cluster":
            factors = inflation(setup, result, noise) if by_run else 1.0
            return ones, _wild(setup, result, codes, factors * signs(rng, draws, groups)[:, codes])
        case _:
            assert noise is not None, "trunks redraw a noise"
            return ones, with_noise(setup, result, noise.draw(codes, draws, rng))


def signs(rng: np.random.Generator, draws: int, groups: int) -> Array:
    """Random factors (B, G) of mean 0 and variance 1: -1 or 1, or for few groups Webb's six (Queen's Econ. 1315)."""
    flips = np.where(rng.random((draws, groups)) < 0.5, -1.0, 1.0)
    return flips * rng.choice(_WEBB, (draws, groups)) if groups < FEW_SIGNS else flips


def _wild(setup: Setup, result: FitResult, codes: NDArray[np.intp], factors: Array) -> Array:
    linear = linearise(setup, result)
    noise = factors * left_out(linear.jacobian, -linear.residual, codes)
    objective = smooth_objective(result)
    fitted = setup.problem(np.ones((1, len(setup.y))), objective).predict(result.theta[None])
    return np.asarray(np.exp(fitted + noise) if objective.is_log else fitted + noise)


def refit(setup: Setup, result: FitResult, weights: Array, responses: Array | None = None) -> Solution:
    """Every resample solved from the point estimate, and again from the best cell of its own coarse grid where that
    lies more than 3/4 of a cell away (everywhere for laws searched by a Sobol sequence); the lower objective is kept.
    """
    problem = setup.problem(weights, smooth_objective(result), responses)
    found = solve(problem, np.repeat(result.theta[None], len(weights), axis=0))
    grid = make_grid(problem, coarse=True)
    own = global_starts(problem, grid, 1)[:, 0]
    again = np.nonzero((cells_between(setup.law, grid, own, found.theta) > _FAR) | ~found.converged)[0]
    if len(again):
        second = solve(problem.take(again), own[again])
        lower = np.nonzero(second.objective < found.objective[again])[0]
        found = _replaced(found, again[lower], second.take(lower))
    return found


def cells_between(law: Law, grid: Grid, first: Array, second: Array) -> Array:
    """Largest distance (R,) in cells of a full grid between working parameters (R, P); infinite without one."""
    searched = [i for i in range(law.num_params) if i not in grid.linear and np.ptp(grid.points[:, i]) > 0]
    if not searched:
        return np.zeros(len(first))
    if not grid.sides:
        return np.full(len(first), np.inf)
    gaps = []
    for i, side in zip(searched, grid.sides, strict=True):
        kind = law.params[law.names[i]]
        low, high = kind.search
        ends = [first[:, i], second[:, i]]
        if low > 0:
            step = np.log(high / low) / (side - 1)
            ends = ends if kind.log else [np.log(np.maximum(e, 1e-300)) for e in ends]
        else:
            step = (high - low) / (side - 1)
        gaps.append(np.abs(ends[0] - ends[1]) / step)
    return np.asarray(np.max(gaps, axis=0))


def _replaced(whole: Solution, rows: NDArray[np.intp], part: Solution) -> Solution:
    fields = {}
    for name in Solution.__dataclass_fields__:
        values = getattr(whole, name).copy()
        values[rows] = getattr(part, name)
        fields[name] = values
    return Solution(**fields)
