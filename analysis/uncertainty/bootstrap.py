"""Intervals: resample, refit every resample, stretch for small samples, and say which method was used and why.

Shapes: B draws, P parameters.

How the rows are resampled: ``uncertainty.resampling``. Every deviation of a draw from the point is stretched by
t(df) / 1.96, df = n - P for rows and G - 1 for runs; positive scales in logarithms. A parameter whose interval reaches
the end of what it may be, or spans too much to say anything, is not identified and gets words instead of digits.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import replace

import numpy as np

from analysis.engine.jet import Array
from analysis.fit import FitError, Setup, prepare
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.uncertainty.draws import LEVEL
from analysis.uncertainty.identified import not_identified
from analysis.uncertainty.noise import TrunkNoise, leftover, pooled_noise, trunk_noise
from analysis.uncertainty.quantities import bootstrap_interval, closed_forms
from analysis.uncertainty.resampling import METHODS, Plan, choose, plan_for, refit, resample

__all__ = ["METHODS", "Plan", "TrunkNoise", "bootstrap", "interval", "plan_for", "pooled_noise", "trunk_noise",
           "with_intervals"]  # fmt: skip

LEAST_DRAWS = 20


def bootstrap(
    result: FitResult,
    sample: Sample,
    draws: int = 200,
    seed: int = 0,
    method: str = "auto",
    noise: TrunkNoise | None = None,
) -> FitResult:
    """The fit with intervals for every parameter and for what the law derives by formula (a and b, for Chinchilla).

    draws: resamples. The same seed gives the same intervals. method: one of ``METHODS``. noise: pooled over groups, for
    the method "trunks"; without it the sample's own. Raises ``FitError`` for fewer than 20 draws, an unknown method,
    and "trunks" where nothing says how much runs vary.
    """
    if draws < LEAST_DRAWS:
        raise FitError(
            f"{draws} bootstrap draws cannot give a 95 % interval; use 0 for none, or at least {LEAST_DRAWS} (200 is "
            "usual)"
        )
    began = time.perf_counter()
    setup, _ = prepare(sample, result.form, result.fixed, result.domains)
    rng = _stream(seed, result)
    plan, used = choose(setup, result, method, noise, rng)
    weights, responses = resample(setup, result, plan, draws, rng, used)
    found = refit(setup, result, weights, responses)
    result = replace(
        result, draws=found.theta, widening=plan.widening, ci_method=plan.text, noise=_noise(setup, result, used)
    )
    result = with_intervals(result)
    return replace(result, seconds_bootstrap=time.perf_counter() - began)


def _stream(seed: int, result: FitResult) -> np.random.Generator:
    """Independent draws for every fit of a study: the draws of two groups are subtracted from each other later."""
    return np.random.default_rng([seed, zlib.crc32(f"{result.group}|{result.target}|{result.form}".encode())])


def _noise(setup: Setup, result: FitResult, used: TrunkNoise | None) -> tuple[float, float] | None:
    """Standard deviations of run and row noise, for prediction intervals; (0, the residuals') where every run gave one
    row, None where the runs cannot tell how much they vary."""
    if setup.sample.num_clusters == len(setup.sample):
        residual = leftover(setup, result).residual
        return 0.0, float(np.sqrt(np.sum(residual**2) / max(len(residual) - setup.num_free, 1)))
    if used is None:
        try:
            used = trunk_noise(setup, result)
        except FitError:
            return None
    return float(np.sqrt(used.trunk)), float(np.sqrt(used.row))


def interval(point: float, draws: Array, widening: float, log: bool = False) -> Interval:
    """Percentile interval of draws (B,) after stretching them about ``point``; in logs for positive scales."""
    if log:
        inner = interval(float(np.log(point)), np.log(draws), widening)
        return Interval(point, float(np.exp(inner.low)), float(np.exp(inner.high)))
    low, high = np.percentile(point + widening * (draws - point), LEVEL)
    return Interval(point, float(min(low, point)), float(max(high, point)))


def with_intervals(result: FitResult) -> FitResult:
    """The fit with ``ci`` and ``derived`` from its draws, and what they do not identify."""
    law = result.shape
    assert result.draws is not None, "intervals need draws"
    natural = law.to_natural(result.draws, result.centre)
    found: dict[str, Interval] = {}
    unidentified = dict(result.unidentified)
    for at, (name, kind) in enumerate(law.params.items()):
        point = result.params[name]
        if name in result.fixed:
            found[name] = Interval(point, point, point, why="fixed")
            continue
        with np.errstate(over="ignore", divide="ignore"):
            item = interval(point, natural[:, at], result.widening, log=kind.log)
        found[name] = replace(item, low=max(item.low, kind.low), high=min(item.high, kind.high))
        at_end = float(np.mean(result.draws[:, at] >= law.bounds[at][1])) if kind.log else 0.0
        if reason := not_identified(kind, found[name], at_end):
            unidentified.setdefault(name, reason)
    for shift in law.shifts:
        if shift.exponent in unidentified and shift.coefficient in found:
            unidentified.setdefault(shift.coefficient, f"{shift.exponent} is not identified")
    for name in unidentified.keys() & found.keys():
        found[name] = replace(found[name], known=False, why=unidentified[name])
    status = "not_identified" if unidentified and result.status in ("converged", "at_bound") else result.status
    derived = {wanted.name: bootstrap_interval(result, wanted) for wanted in closed_forms(result)}
    if lost := [name for name in law.exponents if name in unidentified]:
        why = f"{lost[0]} is not identified"
        derived = {name: replace(item, known=False, why=why) for name, item in derived.items()}
    return replace(result, ci=found, unidentified=unidentified, status=status, derived=derived)
