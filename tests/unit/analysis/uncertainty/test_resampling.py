from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.engine.newton import solve
from analysis.engine.starts import global_starts, make_grid
from analysis.fit import FitError, Setup, fit_law, objective_of, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.uncertainty.bootstrap import bootstrap
from analysis.uncertainty.noise import TrunkNoise
from analysis.uncertainty.resampling import METHODS, cells_between, choose, plan_for, refit, resample, signs

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def table(runs: int, steps: int, one_run: bool, seeds: int = 1, noise: Noise | None = None, seed: int = 0) -> Sample:
    design = grid(np.geomspace(5e7, 5e9, runs), np.geomspace(1e9, 1e11, steps), seeds, one_run)
    rows = simulate_rows("chinchilla", SURFACE, design, noise or Noise(0.004, 0.002), seed=seed)
    return load(rows, COLUMNS).sample("simulated", "loss")[0]


def fitted(sample: Sample, **options: object) -> tuple[Setup, FitResult]:
    fit = fit_law(sample, "free", check=False, **options)  # type: ignore[arg-type]
    return prepare(sample, "free")[0], fit


def wandering(seed: int = 0) -> Sample:
    sample, rng = table(6, 8, True, noise=Noise()), np.random.default_rng(seed)
    noise = rng.standard_normal((6, 8))
    for i in range(1, 8):
        noise[:, i] = 0.9 * noise[:, i - 1] + 0.4 * noise[:, i]
    return replace(sample, loss=sample.loss * np.exp(0.004 * noise.ravel()))


def test_the_table_decides_what_is_resampled_and_the_plan_says_why() -> None:
    single, few, many = table(5, 5, False), table(6, 8, True), table(5, 6, True, seeds=3)
    plans = [plan_for(s, 5) for s in (single, few, many)]
    assert [plan.method for plan in plans] == ["pairs", "trunks", "clusters"]
    assert [plan.freedom for plan in plans] == [20, 3, 14]
    assert "25 independent runs" in plans[0].text and plans[0].text.endswith("every run gave one row")
    assert "6 independent runs, 48 rows" in plans[1].text and "own degrees of freedom" in plans[1].text
    assert "15 independent runs, 90 rows" in plans[2].text and "t(14)/1.96" in plans[2].text
    assert plans[1].widening == 1.0 < plans[0].widening < plans[2].widening
    assert plan_for(few, 5, no_trunks="why").method == "wild_cluster"
    naive = plan_for(few, 5, "pairs").text
    assert naive.endswith("asked for") and "48 rows of 6 runs as if independent" in naive
    one = few.where(few.cluster == few.cluster[0])
    assert plan_for(one, 3).method == "pairs" and "there is one run" in plan_for(one, 3).text


def test_an_unknown_method_lists_the_names() -> None:
    with pytest.raises(FitError, match="'jackknife'; allowed are auto, pairs, clusters, wild, wild_cluster, trunks"):
        plan_for(table(5, 5, False), 5, "jackknife")


def test_checkpoints_that_wander_are_not_redrawn_as_shifts() -> None:
    setup, fit = fitted(wandering())
    plan, noise = choose(setup, fit, "auto", None, np.random.default_rng(0))
    assert plan.method == "wild_cluster" and noise is None and "serially correlated" in plan.text


def test_runs_that_cannot_tell_their_noise_fall_back_or_say_so() -> None:
    setup, fit = fitted(table(3, 8, True))
    rng = np.random.default_rng(0)
    plan = choose(setup, fit, "auto", None, rng)[0]
    assert plan.method == "wild_cluster" and "too few runs to tell" in plan.text
    with pytest.raises(FitError, match="3 runs cannot tell"):
        choose(setup, fit, "trunks", None, rng)
    pooled = TrunkNoise(1e-5, 1e-6, 12.0, 100.0)
    assert choose(setup, fit, "auto", pooled, rng) == (plan_for(setup.sample, 5, freedom=12), pooled)


def test_a_group_noisier_than_the_pool_keeps_its_own_noise() -> None:
    setup, fit = fitted(table(6, 8, True))
    own = choose(setup, fit, "trunks", None, np.random.default_rng(0))[1]
    quiet, loud = TrunkNoise(0.0, 0.0, 20.0), TrunkNoise(1.0, 1.0, 20.0)
    assert own is not None
    found = [choose(setup, fit, "trunks", n, np.random.default_rng(0))[1] for n in (quiet, loud)]
    assert found[0] == TrunkNoise(own.trunk, own.row, 20.0) and found[1] == loud


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_resamples_have_the_right_unit(method: str) -> None:
    """Rows or whole runs: within a run, weights agree and the wild signs do."""
    sample = table(6, 8, True)
    setup, fit = fitted(sample)
    rng = np.random.default_rng(1)
    plan, noise = choose(setup, fit, method, None, rng)
    weights, responses = resample(setup, fit, plan, 50, rng, noise)
    assert weights.shape == (50, 48) and weights.sum(axis=1) == pytest.approx(48 * np.ones(50))
    by_run = weights.reshape(50, 6, 8)
    assert (np.ptp(by_run, axis=2).max() == 0) == (method != "pairs")
    if responses is None:
        assert method in ("pairs", "clusters")
        return
    deviation = np.log(responses / np.array(fit.fitted)).reshape(50, 6, 8)
    if method == "wild_cluster":
        shape = np.abs(deviation / np.abs(deviation).max(axis=2, keepdims=True))
        np.testing.assert_allclose(shape, np.broadcast_to(shape[:1], shape.shape), rtol=1e-9)
    if method == "wild":
        size = np.abs(deviation)
        np.testing.assert_allclose(size, np.broadcast_to(size[:1], size.shape), rtol=1e-9)


def test_signs_have_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(0)
    for groups, values in ((6, 6), (40, 2)):
        drawn = signs(rng, 20_000, groups)
        assert len(np.unique(drawn)) == values
        assert drawn.mean() == pytest.approx(0.0, abs=0.02) and drawn.var() == pytest.approx(1.0, abs=0.02)


def test_wild_residuals_are_plain_where_the_objective_is() -> None:
    sample = table(5, 5, False)
    setup, fit = fitted(sample, objective="lin-mse")
    plan = plan_for(sample, 5, "wild")
    responses = resample(setup, fit, plan, 40, np.random.default_rng(0))[1]
    assert responses is not None
    np.testing.assert_allclose(np.ptp(np.abs(responses - np.array(fit.fitted)), axis=0), 0.0, atol=1e-12)


def test_no_resample_ends_above_a_wider_search() -> None:
    sample = table(8, 6, False, noise=Noise(0.0, 0.02, tails=3.0))
    setup, fit = fitted(sample)
    plan = plan_for(sample, 5)
    weights, _ = resample(setup, fit, plan, 300, np.random.default_rng(2))
    found = refit(setup, fit, weights)
    problem = setup.problem(weights, objective_of(fit))
    starts = global_starts(problem, make_grid(problem), 4)
    best = np.min([solve(problem, starts[:, k]).objective for k in range(4)], axis=0)
    assert np.sum(found.objective > best * (1 + 1e-9)) <= 1


def test_a_law_searched_by_a_sequence_is_searched_from_both_starts() -> None:
    """More than two nonlinear parameters: there are no cells to be near in, so every resample gets both starts."""
    sample = table(5, 5, False)
    setup = prepare(sample, "farseer")[0]
    fit = fit_law(sample, "farseer", check=False)
    problem = setup.problem(np.ones((2, 25)), objective_of(fit))
    grid_ = make_grid(problem, coarse=True)
    assert grid_.sides == ()
    theta = np.repeat(fit.theta[None], 2, axis=0)
    assert np.isinf(cells_between(setup.law, grid_, theta, theta)).all()


def test_distance_is_in_cells_of_the_grid() -> None:
    sample = table(5, 5, False)
    setup, fit = fitted(sample)
    problem = setup.problem(np.ones((1, 25)), objective_of(fit))
    grid_ = make_grid(problem, coarse=True)
    moved = fit.theta.copy()
    moved[setup.law.names.index("alpha")] *= (2.5 / 0.03) ** (2.0 / (grid_.sides[0] - 1))
    assert cells_between(setup.law, grid_, fit.theta[None], moved[None])[0] == pytest.approx(2.0)
    assert cells_between(setup.law, grid_, fit.theta[None], fit.theta[None])[0] == 0.0


@pytest.mark.parametrize("objective", ["log-lad", "lin-huber", "log-mse"])
@pytest.mark.parametrize("method", ["pairs", "wild"])
def test_every_objective_can_be_bootstrapped(objective: str, method: str) -> None:
    sample = table(5, 5, False, seed=1)
    fit = bootstrap(fitted(sample, objective=objective)[1], sample, 60, method=method)
    assert 0.01 < fit.ci["alpha"].high - fit.ci["alpha"].low < 0.3
    assert fit.ci["alpha"].low < 0.35 < fit.ci["alpha"].high
