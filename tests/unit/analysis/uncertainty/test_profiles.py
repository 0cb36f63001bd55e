from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from analysis.engine.newton import solve
from analysis.engine.problem import Pull, derivatives
from analysis.fit import FitError, Setup, fit_law, objective_of, pinned, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, rows_design, simulate_rows
from analysis.uncertainty.delta import uncertainty
from analysis.uncertainty.linear import linearise
from analysis.uncertainty.profiles import Profile, profiles
from analysis.uncertainty.quantities import quantity

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def table(one_run: bool = False, noise: float = 0.004, truth: dict[str, float] = SURFACE, seed: int = 1) -> Sample:
    design = grid(np.geomspace(5e7, 5e9, 6), np.geomspace(1e9, 1e11, 6), one_run=one_run)
    rows = simulate_rows("chinchilla", truth, design, Noise(noise if one_run else 0.0, noise / 2), seed=seed)
    return load(rows, COLUMNS).sample("simulated", "loss")[0]


@pytest.fixture(scope="module")
def study() -> tuple[Setup, FitResult, Sample, dict[str, Profile]]:
    sample = table()
    fit = fit_law(sample, "free", check=False)
    return prepare(sample, "free")[0], fit, sample, profiles(fit, sample, budgets=[1e20])


def test_every_curve_rises_from_the_point_and_crosses_at_its_ends(
    study: tuple[Setup, FitResult, Sample, dict[str, Profile]],
) -> None:
    _, fit, _, found = study
    assert set(found) == {*fit.params, "a", "b", "N*(1e+20)", "D*(1e+20)", "loss(1e+20)"}
    for curve in found.values():
        values, objective = np.array(curve.values), np.array(curve.objective)
        middle = int(np.argmin(objective))
        assert values[middle] == pytest.approx(curve.interval.value, rel=1e-6)
        assert (np.diff(values) > 0).all()
        assert (np.diff(objective[: middle + 1]) < 0).all() and (np.diff(objective[middle:]) > 0).all()
        assert curve.interval.known and curve.interval.low < curve.interval.value < curve.interval.high
        assert min(curve.rise) == 0.0 and curve.rise[0] > 1.0 < curve.rise[-1]
        ends = np.interp([curve.interval.low, curve.interval.high], values, objective)
        assert ends == pytest.approx([curve.threshold] * 2, rel=1e-3)


def test_a_parameter_follows_the_same_curve_as_when_it_is_pinned(
    study: tuple[Setup, FitResult, Sample, dict[str, Profile]],
) -> None:
    setup, fit, _, found = study
    for name in ("E", "alpha", "beta"):
        curve = found[name]
        held = pinned(setup, fit, [(fit.shape.names.index(name), float(value)) for value in curve.values])
        np.testing.assert_allclose(curve.objective, held, rtol=1e-8)


@pytest.mark.parametrize("name", ["a", "N*(1e+20)", "loss(1e+20)", "A"])
def test_a_derived_quantity_follows_constrained_minimisation(
    study: tuple[Setup, FitResult, Sample, dict[str, Profile]], name: str
) -> None:
    """No point of the curve lies above what a general constrained solver finds, and none below."""
    setup, fit, _, found = study
    wanted = quantity(fit, name)
    problem = setup.problem(np.ones((1, len(setup.y))), objective_of(fit))
    curve = found[name]
    for at in (1, len(curve.values) - 2):
        target = float(np.log(curve.values[at]) if wanted.log else curve.values[at])
        answer = minimize(
            lambda x: 1e4 * problem.values(x[None])[0],
            fit.theta,
            jac=lambda x: 1e4 * derivatives(problem, x[None]).gradient[0],
            constraints={"type": "eq", "fun": lambda x, t=target: wanted.scaled(x[None])[0] - t},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert curve.objective[at] == pytest.approx(1e-4 * answer.fun, rel=1e-4)


def test_a_straight_line_has_the_interval_of_its_standard_error() -> None:
    """ln L = ln A - alpha ln N by least squares: the profile is a parabola, its ends are t standard errors away."""
    size = np.geomspace(1e7, 1e10, 20)
    rows = simulate_rows("power_N", {"A": 50.0, "alpha": 0.2}, rows_design(N=size, D=size), Noise(0, 0.01), seed=3)
    sample = load(rows, COLUMNS).sample("simulated", "loss")[0]
    fit = fit_law(sample, "power_N", objective="log-mse", check=False)
    setup = prepare(sample, "power_N")[0]
    known = uncertainty(setup, fit, linearise(setup, fit))
    half = stats.t.ppf(0.975, 18) * np.sqrt(known.variance(np.array([0.0, 1.0])))
    curve = profiles(fit, sample, ["alpha"])["alpha"]
    value = fit.params["alpha"]
    assert (curve.interval.low, curve.interval.high) == pytest.approx((value - half, value + half), rel=1e-5)
    spread = np.sum((np.log(size) - np.log(size).mean()) ** 2)
    parabola = fit.objective_value + spread * (np.array(curve.values) - value) ** 2
    np.testing.assert_allclose(curve.objective, parabola, rtol=1e-7)
    narrow = profiles(fit, sample, ["alpha"], level=0.5)["alpha"].interval
    assert (narrow.high - value) / half == pytest.approx(stats.t.ppf(0.75, 18) / stats.t.ppf(0.975, 18), rel=1e-4)


def test_correlated_checkpoints_widen_the_interval() -> None:
    sample = table(one_run=True)
    fit = fit_law(sample, "free", check=False)
    alone = replace(sample, cluster=np.arange(len(sample)))
    together, apart = (profiles(fit, s, ["alpha", "beta"]) for s in (sample, alone))
    width = {
        name: [found[name].interval.high - found[name].interval.low for found in (together, apart)]
        for name in ("alpha", "beta")
    }
    assert width["alpha"][0] > 2 * width["alpha"][1] and width["beta"][0] < 1.5 * width["beta"][1]
    assert "6 independent runs" in together["alpha"].text


def test_a_flat_valley_has_an_open_end_and_says_how_far() -> None:
    far_from_the_floor = {"E": 0.05, "A": 30.0, "alpha": 0.12, "B": 60.0, "beta": 0.15}
    sample = table(noise=0.02, truth=far_from_the_floor, seed=0)
    fit = fit_law(sample, "free")
    found = profiles(fit, sample, ["E", "alpha"])["E"].interval
    assert not found.known and found.low == 0.0
    assert found.why == "profile stays below the 95 % threshold down to 0"


def test_a_rate_without_a_limit_is_open_to_infinity() -> None:
    """Repeats that never lose their value: R_D may be anything large."""
    rng = np.random.default_rng(0)
    tokens, unique = np.geomspace(1e9, 3e10, 12), 1e10
    size = np.tile([1e8, 1e9], 6)
    loss = 1.8 + 480.0 * size**-0.35 + 2100.0 * tokens**-0.37
    rows = [
        {"N": n, "D": d, "U": min(unique, d), "loss": y, "C": 6 * n * d, "group": "a", "run": f"r{i}"}
        for i, (n, d, y) in enumerate(zip(size, tokens, loss * np.exp(0.003 * rng.standard_normal(12)), strict=True))
    ]
    columns = replace(COLUMNS, extra=(("U", "U"),))
    sample = load(rows, columns, needed=("N", "D", "U")).sample("a", "loss")[0]
    fixed = SURFACE | {"R_N": 5.3}
    fit = fit_law(sample, "data_constrained", fixed=fixed, check=False)
    found = profiles(fit, sample, ["R_D"])["R_D"].interval
    assert not found.known and found.high == np.inf and "up to" in found.why and found.low > 0.3


def test_a_fixed_parameter_stays_fixed_along_the_curve() -> None:
    sample = table()
    fit = fit_law(sample, "free", fixed={"E": 1.8}, check=False)
    found = profiles(fit, sample)
    assert "E" not in found
    free = profiles(fit_law(sample, "free", check=False), sample, ["alpha"])["alpha"].interval
    assert found["alpha"].interval.high - found["alpha"].interval.low < 0.7 * (free.high - free.low)


def test_a_failed_fit_and_an_unknown_name_are_refused(
    study: tuple[Setup, FitResult, Sample, dict[str, Profile]],
) -> None:
    _, fit, sample, _ = study
    with pytest.raises(FitError, match="did not converge, its profiles mean nothing"):
        profiles(replace(fit, status="failed"), sample, ["alpha"])
    with pytest.raises(ValueError, match="no quantity 'gamma'"):
        profiles(fit, sample, ["gamma"])


def test_the_spring_has_exact_derivatives_of_a_linear_quantity_and_travels_with_its_problem(
    study: tuple[Setup, FitResult, Sample, dict[str, Profile]],
) -> None:
    setup, fit, _, _ = study
    targets = np.array([0.30, 0.33, 0.40])
    pull = Pull(lambda t: t[:, 2], lambda t: np.tile(np.eye(5)[2], (len(t), 1)), targets, 5.0)
    problem = replace(setup.problem(np.ones((3, 36)), objective_of(fit)), pull=pull)
    theta = np.repeat(fit.theta[None], 3, axis=0)
    with_pull, without = derivatives(problem, theta), derivatives(replace(problem, pull=None), theta)
    gap = theta[:, 2] - targets
    np.testing.assert_allclose(with_pull.value - without.value, 2.5 * gap**2, rtol=1e-9)
    np.testing.assert_allclose((with_pull.gradient - without.gradient)[:, 2], 5.0 * gap, rtol=1e-9)
    np.testing.assert_allclose(
        with_pull.hessian - without.hessian, 5.0 * np.eye(5)[2] * np.eye(5)[2][:, None] + np.zeros((3, 1, 1)), atol=1e-9
    )
    part = problem.take(np.array([2]))
    assert part.pull is not None and part.pull.target.tolist() == [0.40]
    assert np.all(np.diff(solve(problem, theta).theta[:, 2]) > 0)
