"""Intervals: resample, refit every resample globally, stretch for few clusters, and say which method was used.

Shapes: B draws, n rows, G clusters, P parameters.

Which resampling, from the table itself ("auto"):
  pairs     every trunk gave one row: rows are drawn with replacement.
  clusters  some trunk gave several rows and there are >= 12 trunks: whole trunks are drawn with replacement.
  trunks    some trunk gave several rows and there are < 12 trunks: drawing 4 trunks of 4 sizes whole would drop sizes
            from most resamples, so the grid is kept and the noise is redrawn instead: a common shift for each whole
            trunk plus a shift for each row. The two variances come from the residuals, pooled over the groups of a
            study (``pooled_noise``); a group that is noisier than the pool keeps its own. Each group gives its trunk
            variance G - 3 degrees of freedom: level, size coefficient and size exponent absorb three.
Every deviation of a draw from the point is stretched by t(df) / 1.96 with df = n - P, G - 1 or the sum of G - 3.
tests/unit/analysis/test_bootstrap.py keeps a small version of the coverage study that chose this.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.allocate import allocation_exponents
from analysis.engine.jet import Array
from analysis.engine.newton import solve
from analysis.engine.starts import global_starts, make_grid
from analysis.fit import FitError, Setup, objective_of, prepare
from analysis.result import FitResult, Interval
from analysis.table import Sample

METHODS = ("auto", "pairs", "clusters", "trunks")
FEW_CLUSTERS = 12
LEVEL = (2.5, 97.5)
_WIDE_EXPONENT = 8.0
_LEAST_EXCESS = 0.05
_ABSORBED = 3


@dataclass(frozen=True)
class Plan:
    """The chosen method, its degrees of freedom and a sentence for the reader."""

    method: str
    freedom: int
    text: str

    @property
    def widening(self) -> float:
        """t(df) / 1.96."""
        return float(stats.t.ppf(0.975, self.freedom) / stats.norm.ppf(0.975))


@dataclass(frozen=True)
class TrunkNoise:
    """Variances of ln L shared by a trunk and of a single row, and the degrees of freedom behind the first."""

    trunk: float
    row: float
    freedom: int


def plan_for(sample: Sample, num_params: int, method: str = "auto", freedom: int | None = None) -> Plan:
    """Pick the resampling for a sample (see the module's text). Raises ``FitError`` for an unknown method.

    freedom: degrees of freedom of a pooled trunk variance, for the method "trunks".
    """
    if method not in METHODS:
        raise FitError(f"bootstrap method is {method!r}; allowed are {', '.join(METHODS)}")
    rows, clusters = len(sample), sample.num_clusters
    if method == "auto":
        method = "pairs" if clusters == rows else "clusters" if clusters >= FEW_CLUSTERS else "trunks"
    own = {"pairs": rows - num_params, "clusters": clusters - 1, "trunks": freedom or clusters - _ABSORBED}
    chosen = max(own[method], 1)
    what = {
        "pairs": f"rows drawn with replacement ({rows} independent runs)",
        "clusters": f"whole trunks drawn with replacement ({clusters} trunks, {rows} rows)",
        "trunks": f"trunk and row noise redrawn from the residuals ({clusters} trunks, {rows} rows)",
    }[method]
    return Plan(method, chosen, f"{what}, percentile, stretched by t({chosen})/1.96")


def bootstrap(
    result: FitResult,
    sample: Sample,
    draws: int = 200,
    seed: int = 0,
    method: str = "auto",
    noise: TrunkNoise | None = None,
) -> FitResult:
    """The fit with intervals for every parameter and for the allocation exponents.

    draws: resamples, each searched globally (grid) besides a start at the point estimate. The same seed gives the
    same intervals. noise: pooled over groups, for the method "trunks"; without it the sample's own.
    Raises ``FitError`` for fewer than 20 draws.
    """
    if draws < 20:
        raise FitError(
            f"{draws} bootstrap draws cannot give a 95 % interval; use 0 for none, or at least 20 (200 is usual)"
        )
    began = time.perf_counter()
    setup, _ = prepare(sample, result.form)
    plan = plan_for(setup.sample, setup.law.num_params, method, noise.freedom if noise else None)
    weights, targets = _resample(setup, result, plan.method, draws, _stream(seed, result), noise)
    theta = _refit(setup, result, weights, targets)
    result = replace(result, draws=theta, widening=plan.widening, ci_method=plan.text)
    result = _with_intervals(result)
    return replace(result, seconds_bootstrap=time.perf_counter() - began)


def _stream(seed: int, result: FitResult) -> np.random.Generator:
    """Independent draws for every fit of a study: the draws of two groups are subtracted from each other later."""
    return np.random.default_rng([seed, zlib.crc32(f"{result.group}|{result.target}|{result.form}".encode())])


def _resample(
    setup: Setup, result: FitResult, method: str, draws: int, rng: np.random.Generator, noise: TrunkNoise | None
) -> tuple[Array, Array]:
    """Weights (B, n) and targets (B, n) of the resamples."""
    rows = len(setup.y)
    codes = np.arange(rows) if method == "pairs" else np.unique(setup.sample.cluster, return_inverse=True)[1]
    groups = int(codes.max()) + 1
    if method == "trunks":
        own = trunk_noise(setup, result)
        trunk, row = (max(own.trunk, noise.trunk), max(own.row, noise.row)) if noise else (own.trunk, own.row)
        shift = np.sqrt(trunk) * rng.standard_normal((draws, groups))[:, codes]
        fitted = np.array(result.fitted)
        loss = fitted * np.exp(shift + np.sqrt(row) * rng.standard_normal((draws, rows)))
        return np.ones((draws, rows)), np.maximum(loss - setup.added, _LEAST_EXCESS * (fitted - setup.added))
    counts = np.zeros((draws, groups))
    np.add.at(counts, (np.arange(draws)[:, None], rng.integers(0, groups, (draws, groups))), 1.0)
    return counts[:, codes], np.broadcast_to(setup.y, (draws, rows))


def trunk_noise(setup: Setup, result: FitResult) -> TrunkNoise:
    """Variance components of the residuals of ln L: trunk means against rows about their trunk's mean.

    ln L for every form, also where the fit is to ln(L - E): a shift of the loss moves a small excess more.
    """
    residual = np.log(setup.sample.loss / np.array(result.fitted))
    codes = np.unique(setup.sample.cluster, return_inverse=True)[1]
    groups = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=groups)
    means = np.bincount(codes, residual, minlength=groups) / sizes
    row = float(np.sum((residual - means[codes]) ** 2)) / max(len(residual) - groups - 2, 1)
    between = float(np.sum(means**2)) / max(groups - _ABSORBED, 1)
    return TrunkNoise(max(between - row / float(np.mean(sizes)), 0.0), row, max(groups - _ABSORBED, 1))


def pooled_noise(fits: Sequence[tuple[FitResult, Sample]]) -> TrunkNoise | None:
    """One noise for fits of one form and target to several groups, weighted by degrees of freedom; None without fits.

    Groups whose trunks all have a single row say nothing about it and are left out.
    """
    found = []
    for result, sample in fits:
        setup, _ = prepare(sample, result.form)
        if setup.sample.num_clusters < len(setup.sample):
            found.append(trunk_noise(setup, result))
    if not found:
        return None
    weights = np.array([n.freedom for n in found], dtype=float)
    trunk, row = (float(np.average([getattr(n, part) for n in found], weights=weights)) for part in ("trunk", "row"))
    return TrunkNoise(trunk, row, int(weights.sum()))


def _refit(setup: Setup, result: FitResult, weights: Array, targets: Array) -> Array:
    """The best of two starts per resample: its own projected grid minimum, and the point estimate. (B, P)."""
    problem = setup.problem(weights, objective_of(result), targets)
    own = global_starts(problem, make_grid(problem, coarse=True), 1)[:, 0]
    found = [solve(problem, start) for start in (own, np.broadcast_to(result.theta, own.shape))]
    first = found[0].objective <= found[1].objective
    return np.where(first[:, None], found[0].theta, found[1].theta)


def interval(point: float, draws: Array, widening: float, log: bool = False) -> Interval:
    """Percentile interval of draws (B,) after stretching them about ``point``; in logs for positive scales."""
    if log:
        inner = interval(float(np.log(point)), np.log(draws), widening)
        return Interval(point, float(np.exp(inner.low)), float(np.exp(inner.high)))
    low, high = np.percentile(point + widening * (draws - point), LEVEL)
    return Interval(point, float(min(low, point)), float(max(high, point)))


def _with_intervals(result: FitResult) -> FitResult:
    law = result.shape
    assert result.draws is not None
    natural = law.to_natural(result.draws, result.centre)
    found: dict[str, Interval] = {}
    unidentified = dict(result.unidentified)
    for at, name in enumerate(law.names):
        low, high = law.bounds[at] if name not in law.log_names else (0.0, np.inf)
        item = interval(result.params[name], natural[:, at], result.widening, log=name in law.log_names)
        found[name] = replace(item, low=max(item.low, low), high=min(item.high, high))
        if reason := _not_identified(name, found[name], law.bounds[at]):
            unidentified.setdefault(name, reason)
    for coefficient, exponent in (("A", "alpha"), ("B", "beta")):
        if coefficient in found and exponent in unidentified:
            unidentified.setdefault(coefficient, f"{exponent} is not identified")
    for name in unidentified.keys() & found.keys():
        found[name] = replace(found[name], known=False, why=unidentified[name])
    status = "not_identified" if unidentified and result.status in ("converged", "at_bound") else result.status
    return replace(result, ci=found, unidentified=unidentified, status=status, derived=_allocation(result, natural))


def _not_identified(name: str, found: Interval, bounds: tuple[float, float]) -> str:
    """Why an interval identifies nothing, or an empty string."""
    if name == "E":
        return "interval reaches 0" if found.low <= 1e-3 * max(found.value, 1e-9) else ""
    if name not in ("alpha", "beta"):
        return ""
    if found.low <= bounds[0]:
        return "interval reaches 0"
    if found.high >= bounds[1]:
        return f"interval reaches {bounds[1]:g}"
    ratio = found.high / found.low
    return f"interval spans a factor of {ratio:.0f}" if ratio > _WIDE_EXPONENT else ""


def _allocation(result: FitResult, natural: Array) -> dict[str, Interval]:
    """a and b of N* ~ C^a, D* ~ C^b (closed form under 6ND) for the additive forms; nothing for the interaction."""
    if not result.law.startswith("chinchilla"):
        return {}
    at = [result.shape.names.index(name) for name in ("alpha", "beta")]
    point = allocation_exponents(*(np.array([result.params[n]]) for n in ("alpha", "beta")))
    many = allocation_exponents(natural[:, at[0]], natural[:, at[1]])
    pairs = zip(("a", "b"), point, many, strict=True)
    found = {name: interval(float(p[0]), d, result.widening) for name, p, d in pairs}
    return {name: replace(item, low=max(item.low, 0.0), high=min(item.high, 1.0)) for name, item in found.items()}
