from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.simulation.surfaces import EARLY, EARLY_SIZES, paper_design
from analysis.uncertainty.draws import interval_from, normal_draws, probability, simultaneous_band, spread_of


@pytest.fixture(scope="module")
def fit() -> FitResult:
    rows = simulate_rows("chinchilla", EARLY.params, paper_design(), Noise(0.0, 0.004), seed=5)
    return fit_law(load(rows, COLUMNS).sample("simulated", "loss")[0], "free", check=False)


def test_without_a_bootstrap_the_covariance_speaks(fit: FitResult) -> None:
    spread = spread_of(fit, 4000)
    assert fit.covariance is not None and "delta method" in spread.method and "t(67)" in spread.method
    np.testing.assert_array_equal(spread.theta[0], fit.theta)
    item = interval_from(spread.theta[:, 0], spread.widening, log=False)
    half = 1.996 * np.sqrt(fit.covariance[0, 0])
    assert (item.high - item.low) / 2 == pytest.approx(half, rel=0.05) and item.known


def test_delta_intervals_of_a_loss_are_centred_on_it(fit: FitResult) -> None:
    spread = spread_of(fit, 4000)
    loss = fit.predict_draws(spread.theta, 1.6e9, 1e11)[:, 0]
    item = interval_from(loss, spread.widening)
    assert item.high / item.value == pytest.approx(item.value / item.low, rel=5e-4)
    assert 1.0005 < item.high / item.low < 1.01


def test_checkpoints_count_runs_and_not_rows() -> None:
    design = grid(EARLY_SIZES, [1e10, 3e10, 1e11], one_run=True)
    rows = simulate_rows("chinchilla", EARLY.params, design, Noise(0.003, 0.001))
    fit = fit_law(load(rows, COLUMNS).sample("simulated", "loss")[0], "free", check=False)
    assert "t(5)" in spread_of(fit).method


def test_draws_come_first_and_nothing_is_invented(fit: FitResult) -> None:
    drawn = replace(fit, draws=np.tile(fit.theta, (7, 1)), widening=1.1, ci_method="pairs")
    assert spread_of(drawn).num_draws == 7 and spread_of(drawn).method == "pairs"
    bare = replace(fit, covariance=None)
    alone = spread_of(bare)
    assert (alone.num_draws, alone.method) == (0, "")
    item = interval_from(alone.theta[:, 0], alone.widening, log=False)
    assert not item.known and "neither bootstrap draws nor a covariance" in item.why and np.isnan(item.low)


def test_normal_draws_have_the_covariance_even_a_singular_one() -> None:
    root = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, 2.5]])
    many = normal_draws(root @ root.T, 20000)
    np.testing.assert_allclose(np.cov(many.T), root @ root.T, atol=0.15)
    np.testing.assert_allclose(many[:, 2], many[:, 0] + many[:, 1], atol=1e-6)
    np.testing.assert_array_equal(many, normal_draws(root @ root.T, 20000))


def test_an_interval_too_wide_is_not_a_number() -> None:
    wide = np.concatenate([[1.0], np.geomspace(1e-3, 1e3, 200)])
    assert "spans a factor of" in interval_from(wide, 1.0).why
    missing = np.concatenate([[1.0], np.full(20, np.nan), np.ones(180)])
    assert "10 % of the draws have no optimum" in interval_from(missing, 1.0, what="optimum").why
    assert "there is no loss" in interval_from(np.array([np.nan, 1.0, 2.0]), 1.0, what="loss").why
    assert interval_from(np.array([2.0, 1.0, 2.0, 4.0]), 1.0).known


def test_probabilities_never_reach_certainty() -> None:
    assert probability(np.ones(98)) == pytest.approx(0.99)
    assert probability(-np.ones(98)) == pytest.approx(0.01)
    assert probability(np.zeros(98)) == pytest.approx(0.5)


def test_a_simultaneous_band_covers_whole_curves() -> None:
    rng = np.random.default_rng(0)
    scale = np.linspace(0.5, 3.0, 12)
    low, high = simultaneous_band(np.zeros(12), scale * rng.standard_normal((2000, 12)))
    fresh = scale * rng.standard_normal((2000, 12))
    assert 0.93 < np.mean(((fresh > low) & (fresh < high)).all(axis=1)) < 0.97
    many = simultaneous_band(
        np.zeros((3, 12)), np.stack([k * scale * rng.standard_normal((500, 12)) for k in (1, 2, 3)])
    )
    assert many[1].shape == (3, 12) and (many[1][2] > many[1][0]).all()
