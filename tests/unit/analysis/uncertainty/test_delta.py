from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.fit import fit_law, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, rows_design, simulate_rows
from analysis.uncertainty.delta import Uncertainty, sandwich_intervals, uncertainty
from analysis.uncertainty.linear import linearise
from analysis.uncertainty.noise import TrunkNoise

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def table(one_run: bool, seeds: int = 1, runs: int = 6, noise: Noise | None = None, seed: int = 1) -> Sample:
    design = grid(np.geomspace(5e7, 5e9, runs), np.geomspace(1e9, 1e11, 8), seeds, one_run)
    rows = simulate_rows("chinchilla", SURFACE, design, noise or Noise(0.004, 0.002), seed=seed)
    return load(rows, COLUMNS).sample("simulated", "loss")[0]


def of(sample: Sample, noise: TrunkNoise | None = None, form: str = "free") -> tuple[FitResult, Uncertainty]:
    fit = fit_law(sample, form, check=False)
    setup = prepare(sample, form)[0]
    return fit, uncertainty(setup, fit, linearise(setup, fit), noise)


def test_the_table_decides_and_the_text_says_so() -> None:
    texts = [of(s)[1].text for s in (table(False), table(True), table(True, seeds=3))]
    assert texts[0].startswith("squares of 48 independent runs' residuals, t(43)")
    assert "run and row noise estimated from 6 independent runs of 48 rows" in texts[1]
    assert texts[2] == "sums over 18 independent runs, t(17)"


def test_a_line_has_the_standard_errors_of_least_squares() -> None:
    """ln L = ln A - alpha ln N with equal noise: HC2 averages to the textbook variance."""
    size = np.geomspace(1e7, 1e10, 40)
    ratio = []
    for seed in range(40):
        rows = simulate_rows(
            "power_N", {"A": 50.0, "alpha": 0.2}, rows_design(N=size, D=size), Noise(0, 0.01), seed=seed
        )
        sample = load(rows, COLUMNS).sample("simulated", "loss")[0]
        fit = fit_law(sample, "power_N", objective="log-mse", check=False)
        setup = prepare(sample, "power_N")[0]
        known = uncertainty(setup, fit, linearise(setup, fit))
        textbook = 0.01**2 / np.sum((np.log(size) - np.log(size).mean()) ** 2)
        ratio.append(known.variance(np.array([0.0, 1.0])) / textbook)
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.12)


def test_directions_of_runs_and_of_rows_have_their_own_freedom() -> None:
    fit, known = of(table(True))
    names = fit.shape.names
    alpha, beta = (np.eye(5)[names.index(n)] for n in ("alpha", "beta"))
    assert known.freedom(alpha) < 4 < 25 < known.freedom(beta)
    assert known.reach(alpha) == pytest.approx(
        stats.t.ppf(0.975, known.freedom(alpha)) * np.sqrt(known.variance(alpha)), rel=1e-12
    )


def test_pooled_noise_is_used_when_it_is_larger() -> None:
    sample = table(True)
    alpha = np.eye(5)[2]
    alone, pooled = of(sample)[1], of(sample, TrunkNoise(0.01**2, 0.004**2, 30.0, 300.0))[1]
    assert pooled.variance(alpha) > alone.variance(alpha) and pooled.freedom(alpha) > 5 * alone.freedom(alpha)


def test_sandwich_intervals_are_of_every_parameter_a_and_b() -> None:
    sample = table(False)
    fit = fit_law(sample, "free", check=False)
    found = sandwich_intervals(fit)
    assert set(found) == {"E", "A", "alpha", "B", "beta", "a", "b"} and all(item.known for item in found.values())
    assert fit.covariance is not None
    half = stats.t.ppf(0.975, 43) * np.sqrt(fit.covariance[2, 2])
    assert (found["alpha"].low, found["alpha"].high) == pytest.approx(
        (fit.params["alpha"] - half, fit.params["alpha"] + half)
    )
    scale = found["A"]
    assert scale.high / scale.value == pytest.approx(scale.value / scale.low, rel=1e-9)
    assert found["a"].high - found["a"].value == pytest.approx(found["b"].value - found["b"].low, rel=1e-6)


def test_fewer_runs_than_rows_count_as_runs() -> None:
    fit = fit_law(table(True, seeds=3), "free", check=False)
    assert fit.covariance is not None
    half = stats.t.ppf(0.975, 17) * np.sqrt(fit.covariance[2, 2])
    assert sandwich_intervals(fit, ("alpha",))["alpha"].high == pytest.approx(fit.params["alpha"] + half)


def test_what_a_covariance_cannot_say_is_not_known() -> None:
    fit = fit_law(table(False), "free", check=False)
    lost = sandwich_intervals(replace(fit, covariance=None), ("alpha",))["alpha"]
    assert not lost.known and lost.why == "the curvature is singular" and np.isnan(lost.low)
    assert fit.covariance is not None
    held = fit.covariance.copy()
    held[0] = held[:, 0] = 0.0
    at_bound = sandwich_intervals(replace(fit, covariance=held), ("E", "alpha"))
    assert at_bound["E"].why == "E is at its bound" and at_bound["alpha"].known
