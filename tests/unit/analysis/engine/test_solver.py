"""Problem, Newton and starts: exact derivatives for every objective, and optima that no multi-start undercuts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from analysis.engine.law import Exponent, Law, Offset, Scale, law_from, linear_params
from analysis.engine.newton import solve
from analysis.engine.objective import OBJECTIVES, Objective, objective_named
from analysis.engine.point import FitError, fit_point
from analysis.engine.problem import Problem, derivatives, make_problem
from analysis.engine.starts import global_starts, make_grid

RNG = np.random.default_rng(0)
COLUMNS = {"N": np.repeat(np.geomspace(1e7, 1e10, 6), 5), "D": np.tile(np.geomspace(1e9, 1e12, 5), 6)}
TRUTH = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 2000.0, "beta": 0.37}


@law_from(centre="A: alpha N, B: beta D", source="test")
def plain(N, D, *, E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent):  # type: ignore[no-untyped-def]
    """L = E + A / N^alpha + B / D^beta"""
    return E + A * N**-alpha + B * D**-beta


@law_from(source="test", log_value=True)
def logged(N, D, *, E: Offset, alpha: Exponent, beta: Exponent):  # type: ignore[no-untyped-def]
    """ln L = E - alpha ln N - beta ln D"""
    return E * 10 - alpha * np.log(N) - beta * np.log(D)


def response(noise: float = 0.01, truth: Mapping[str, float] = TRUTH) -> np.ndarray:
    clean = plain.function(COLUMNS["N"], COLUMNS["D"], **truth)
    return clean * np.exp(noise * np.random.default_rng(1).standard_normal(len(clean)))


def problem_of(law: Law, objective: Objective, count: int = 3) -> tuple[Problem, np.ndarray]:
    weights = np.random.default_rng(2).uniform(0.5, 2.0, (count, 30))
    centre = law.centre_of(COLUMNS)
    middle = {"E": 1.5, "A": 0.2, "B": -0.1, "alpha": 0.3, "beta": 0.4}
    theta = np.array([[middle[n] for n in law.names]]) * (
        1 + 0.1 * np.random.default_rng(3).standard_normal((count, 1))
    )
    return make_problem(law, COLUMNS, centre, response(0.3), weights, objective), theta


@pytest.mark.parametrize("law", [plain, logged], ids=lambda law: law.name)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("tilt", [1.0, 4.0])
def test_gradient_and_hessian_are_exact(law: Law, name: str, tilt: float) -> None:
    problem, theta = problem_of(law, objective_named(name, 0.7, tilt))
    found, step = derivatives(problem, theta), 1e-6
    np.testing.assert_allclose(found.value, problem.values(theta), rtol=1e-13)
    for j in range(law.num_params):
        move = step * np.eye(law.num_params)[j]
        up, down = derivatives(problem, theta + move), derivatives(problem, theta - move)
        np.testing.assert_allclose((up.value - down.value) / (2 * step), found.gradient[:, j], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(
            (up.gradient - down.gradient) / (2 * step), found.hessian[:, j], rtol=1e-4, atol=1e-4
        )
    np.testing.assert_allclose(found.scores.sum(axis=1), found.gradient, rtol=1e-10, atol=1e-12)


def test_linear_parameters_are_found_from_the_function() -> None:
    assert linear_params(plain, plain.prepare(COLUMNS, {})) == ("E", "A", "B")
    assert linear_params(logged, logged.prepare(COLUMNS, {})) == ("E", "alpha", "beta")


def test_centring_changes_nothing_but_the_working_parameters() -> None:
    centre = plain.centre_of(COLUMNS)
    natural = np.array([[TRUTH[n] for n in plain.names]])
    theta = plain.to_working(natural, centre)
    np.testing.assert_allclose(plain.to_natural(theta, centre), natural, rtol=1e-12)
    np.testing.assert_allclose(plain.loss(theta, COLUMNS, centre)[0], response(0.0), rtol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_multi_start_of_scipy_goes_lower(name: str) -> None:
    y, centre = response(0.02), plain.centre_of(COLUMNS)
    point = fit_point(plain, COLUMNS, centre, y, name, 1e-2)
    smooth = point.problem.objective if point.problem.objective.penalty != "lad" else Objective("log", "huber", 1e-7)
    if name == "lin-lad":
        smooth = Objective("lin", "huber", 1e-7)
    problem = make_problem(plain, COLUMNS, centre, y, np.ones((1, 30)), smooth)
    best = np.inf
    for _ in range(12):
        start = point.theta + RNG.normal(0.0, 0.3, 5)
        found = minimize(
            lambda x: 1e3 * problem.values(x[None])[0],
            np.clip(start, problem.low, problem.high),
            jac=lambda x: 1e3 * derivatives(problem, x[None]).gradient[0],
            bounds=list(zip(problem.low, problem.high, strict=True)),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 3000},
        )
        best = min(best, point.problem.values(found.x[None])[0])
    assert point.converged and point.value <= best * (1 + 1e-9)


def test_least_absolute_deviations_end_at_a_vertex() -> None:
    """In a log-linear law LAD is one linear program: the fit must reach its optimum."""
    x = np.log(COLUMNS["N"])
    y = np.exp(3.0 - 0.1 * x + np.random.default_rng(5).standard_t(2, 30) * 0.05)

    @law_from(source="test", log_value=True)
    def line(N, *, a: Offset, b: Exponent):  # type: ignore[no-untyped-def]
        """ln L = a - b ln N"""
        return a - b * np.log(N)

    point = fit_point(line, COLUMNS, {}, y, "log-lad")
    system = np.hstack([np.ones((30, 1)), -x[:, None], -np.eye(30), np.eye(30)])
    exact = linprog(np.r_[0, 0, np.ones(60)], A_eq=system, b_eq=np.log(y), bounds=[(0, None)] * 62)
    assert point.value == pytest.approx(exact.fun, rel=1e-10)


def test_weights_are_rows_left_out_or_repeated() -> None:
    y, centre = response(0.02), plain.centre_of(COLUMNS)
    kept = np.arange(30) >= 5
    weights = np.stack([np.ones(30), kept.astype(float)])
    problem = make_problem(plain, COLUMNS, centre, y, weights, Objective("log", "mse"))
    starts = global_starts(problem, make_grid(problem), 2)
    found = solve(problem, starts[:, 0])
    columns = {name: values[kept] for name, values in COLUMNS.items()}
    alone = fit_point(plain, columns, centre, y[kept], "log-mse")
    np.testing.assert_allclose(found.theta[1], alone.theta, rtol=1e-6)
    assert found.converged.all() and found.objective[1] == pytest.approx(alone.value, rel=1e-10)


def test_every_problem_may_have_its_own_response_and_delta() -> None:
    centre = plain.centre_of(COLUMNS)
    ys, deltas = np.stack([response(0.02), response(0.05)]), np.array([[1e-3], [1e-2]])
    problem = make_problem(plain, COLUMNS, centre, ys, np.ones((2, 30)), Objective("log", "huber", deltas))
    found = solve(problem, global_starts(problem, make_grid(problem), 1)[:, 0])
    for k in range(2):
        alone = fit_point(plain, COLUMNS, centre, ys[k], "log-huber", float(deltas[k, 0]))
        assert found.objective[k] == pytest.approx(alone.value, rel=1e-9)


def test_fixed_parameters_stay_where_they_are_put() -> None:
    law = plain.pinned(("A",))
    fixed = {"E": 1.7, "A": 400.0, "alpha": 0.34}
    point = fit_point(law, COLUMNS, law.centre_of(COLUMNS), response(0.0), "log-mse", fixed=fixed)
    natural = dict(zip(law.names, law.to_natural(point.theta[None], law.centre_of(COLUMNS))[0], strict=True))
    assert natural == pytest.approx(TRUTH, rel=1e-6)
    assert natural["A"] == pytest.approx(400.0, rel=1e-14)


def test_a_tilted_objective_lies_lower() -> None:
    y, centre = response(0.05), plain.centre_of(COLUMNS)
    level, tilted = (fit_point(plain, COLUMNS, centre, y, "log-mse", tilt=t) for t in (1.0, 10.0))
    above = [np.mean(p.problem.predict(p.theta[None])[0] > np.log(y)) for p in (level, tilted)]
    assert above[1] < above[0]


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="objective is 'l1'; allowed are log-huber"):
        objective_named("l1")
    with pytest.raises(FitError, match="delta is 'sharp'; allowed are auto, chinchilla"):
        fit_point(plain, COLUMNS, {}, response(), delta="sharp")
    with pytest.raises(ValueError, match="parameter E has no kind"):
        law_from()(lambda N, *, E: E)  # noqa: B023
    with pytest.raises(ValueError, match="centre 'A: gamma N' is not"):

        @law_from(centre="A: gamma N")
        def wrong(N, *, A: Scale):  # type: ignore[no-untyped-def]
            """A"""
            return A * N
