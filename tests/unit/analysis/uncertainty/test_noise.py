from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.fit import FitError, fit_law, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.uncertainty.noise import TrunkNoise, pooled_noise, serial_correlation, trunk_noise

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def table(runs: int = 6, steps: int = 8, seeds: int = 1, noise: Noise | None = None, seed: int = 0) -> Sample:
    design = grid(np.geomspace(5e7, 5e9, runs), np.geomspace(1e9, 1e11, steps), seeds, one_run=True)
    rows = simulate_rows("chinchilla", SURFACE, design, noise or Noise(0.004, 0.002), seed=seed)
    return load(rows, COLUMNS).sample("simulated", "loss")[0]


def fitted(sample: Sample) -> tuple[FitResult, TrunkNoise]:
    fit = fit_law(sample, "free", check=False)
    return fit, trunk_noise(prepare(sample, "free")[0], fit)


def test_variances_are_unbiased_although_the_fit_bent_towards_the_noise() -> None:
    found = [fitted(table(seed=s))[1] for s in range(40)]
    assert np.mean([n.trunk for n in found]) == pytest.approx(0.004**2, rel=0.3)
    assert np.mean([n.row for n in found]) == pytest.approx(0.002**2, rel=0.1)


def test_degrees_of_freedom_follow_from_the_law() -> None:
    """Six runs of six sizes: level, coefficient and exponent of size absorb three of the six means."""
    noise = fitted(table())[1]
    assert noise.freedom == pytest.approx(3.0, abs=0.1) and 38 < noise.row_freedom < 42
    assert fitted(table(6, 4, seeds=3))[1].freedom == pytest.approx(15.0, abs=0.5)


def test_three_runs_of_three_sizes_cannot_tell() -> None:
    sample = table(3)
    with pytest.raises(FitError, match="3 runs cannot tell how much runs vary"):
        fitted(sample)
    fit = fit_law(sample, "free", check=False)
    assert pooled_noise([(fit, sample)]) is None


def test_pooling_weighs_by_degrees_of_freedom() -> None:
    samples = [table(seed=1), table(6, 8, seeds=2, seed=2)]
    fits = [fitted(s) for s in samples]
    pooled = pooled_noise([(fit, s) for (fit, _), s in zip(fits, samples, strict=True)])
    assert pooled is not None
    weights = [noise.freedom for _, noise in fits]
    assert pooled.freedom == pytest.approx(sum(weights))
    assert pooled.trunk == pytest.approx(np.average([noise.trunk for _, noise in fits], weights=weights))
    assert pooled_noise([]) is None


def test_draws_have_the_tails_of_t_for_runs_and_not_for_rows() -> None:
    codes = np.repeat(np.arange(4), 50)
    draws = TrunkNoise(1.0, 0.01, 3.0, 500.0).draw(codes, 20_000, np.random.default_rng(0))
    means = draws[:, :50].mean(axis=1)
    within = (draws[:, 0] - draws[:, 1]) / np.sqrt(2.0)
    assert np.percentile(means, 97.5) == pytest.approx(stats.t.ppf(0.975, 3), rel=0.05)
    assert np.percentile(within, 97.5) == pytest.approx(0.1 * 1.96, rel=0.05)


def test_a_zero_variance_of_runs_stays_near_zero() -> None:
    draws = TrunkNoise(0.0, 1.0, 3.0, 500.0).draw(np.repeat(np.arange(6), 8), 2000, np.random.default_rng(0))
    assert 0.9 < draws.std() < 1.5


def test_wandering_runs_are_told_from_shifted_ones() -> None:
    def share(walks: bool) -> float:
        small = 0
        for seed in range(10):
            sample, rng = table(noise=Noise(), seed=seed), np.random.default_rng(seed)
            noise = rng.standard_normal((6, 8))
            for i in range(1, 8):
                noise[:, i] = 0.8 * noise[:, i - 1] + 0.6 * noise[:, i]
            if not walks:
                noise = rng.standard_normal((6, 1)) + 0.5 * rng.standard_normal((6, 8))
            loss = sample.loss * np.exp(0.004 * noise.ravel())
            noisy = Sample(**{**vars(sample), "loss": loss})
            fit, found = fitted(noisy)
            small += serial_correlation(prepare(noisy, "free")[0], fit, found, rng) < 0.05
        return small / 10

    assert share(walks=True) > 0.5 and share(walks=False) < 0.4


def test_laws_of_accuracies_have_noise_of_the_response_itself() -> None:
    rng = np.random.default_rng(0)
    task_loss = np.repeat(np.linspace(0.5, 3.0, 30), 4) + np.tile([0.0, 0.01, 0.02, 0.03], 30)
    shift = 0.02 * np.repeat(rng.standard_normal(30), 4)
    accuracy = 0.6 - 0.7 / (1.0 + np.exp(-3.0 * (task_loss - 1.6))) + shift + 0.005 * rng.standard_normal(120)
    assert accuracy.min() < 0.0
    names = tuple(map(str, range(120)))
    sample = Sample("all", "acc", names, {"L": task_loss}, accuracy, None, np.repeat(np.arange(30), 4))
    fit = fit_law(sample, "accuracy_sigmoid", objective="lin-mse", check=False)
    noise = trunk_noise(prepare(sample, "accuracy_sigmoid")[0], fit)
    assert np.sqrt(noise.trunk) == pytest.approx(0.02, rel=0.3) and np.sqrt(noise.row) == pytest.approx(0.005, rel=0.2)
