from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.uncertainty.bootstrap import bootstrap
from analysis.uncertainty.quantities import Quantity, bootstrap_interval, closed_forms, quantity, quantity_names

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
KAPLAN = {"A": 20.0, "alpha_N": 0.08, "B": 30.0, "alpha_D": 0.1}


def fitted(law: str = "free", draws: int = 0) -> FitResult:
    design = grid(np.geomspace(5e7, 5e9, 6), np.geomspace(1e9, 1e11, 6))
    name, params = ("chinchilla", SURFACE) if law == "free" else (law, KAPLAN)
    sample = load(simulate_rows(name, params, design, Noise(0, 0.002), seed=1), COLUMNS).sample("simulated", "loss")[0]
    fit = fit_law(sample, law, check=False)
    return bootstrap(fit, sample, draws) if draws else fit


@pytest.fixture(scope="module")
def fit() -> FitResult:
    return fitted(draws=60)


def at_point(fit: FitResult, name: str, **options: object) -> float:
    return float(quantity(fit, name, **options).values(fit.theta[None])[0])  # type: ignore[arg-type]


def test_names_give_the_numbers_they_say(fit: FitResult) -> None:
    p, budget = fit.params, 1e21
    for name in p:
        assert at_point(fit, name) == pytest.approx(p[name], rel=1e-12)
    total = p["alpha"] + p["beta"]
    assert at_point(fit, "a") == pytest.approx(p["beta"] / total) and at_point(fit, "b") == pytest.approx(
        p["alpha"] / total
    )
    size, tokens = at_point(fit, "N*(1e21)"), at_point(fit, "D*(C=1e21)")
    assert 6 * size * tokens == pytest.approx(budget, rel=1e-9)
    run = f"loss(N={size!r}, D={tokens!r})"
    assert at_point(fit, "loss(1e21)") == pytest.approx(at_point(fit, run), rel=1e-12)
    for factor in (0.9, 1.1):
        worse = fit.predict(size * factor, budget / (6 * size * factor))[0]
        assert worse > at_point(fit, "loss(1e21)")


def test_another_cost_moves_the_optimum_and_the_exponent(fit: FitResult) -> None:
    cost = (2.0, 1.2, 0.0)
    size, tokens = (at_point(fit, name, cost=cost) for name in ("N*(1e21)", "D*(1e21)"))
    assert 2.0 * size**1.2 * tokens == pytest.approx(1e21, rel=1e-9)
    bigger = at_point(fit, "N*(1e23)", cost=cost)
    assert np.log(bigger / size) / np.log(100) == pytest.approx(at_point(fit, "a", cost=cost), rel=1e-9)
    assert 1.2 * at_point(fit, "a", cost=cost) + at_point(fit, "b", cost=cost) == pytest.approx(1.0)


def test_a_law_without_closed_form_is_searched() -> None:
    """Kaplan's allocation is a power law too: (A / N^alpha_N)^(1 / alpha_D) + (B / D^alpha_D)^(1 / alpha_D)."""
    fit = fitted("kaplan")
    ratio = fit.params["alpha_N"] / fit.params["alpha_D"]
    assert at_point(fit, "a") == pytest.approx(1.0 / (1.0 + ratio), rel=1e-4)
    assert at_point(fit, "a") + at_point(fit, "b") == pytest.approx(1.0, rel=1e-6)


def test_gradients_are_those_of_the_formula(fit: FitResult) -> None:
    p, free = fit.params, np.ones(5, dtype=bool)
    got = quantity(fit, "a").gradient(fit.theta[None], free)[0]
    total = (p["alpha"] + p["beta"]) ** 2
    want = {"alpha": -p["beta"] / total, "beta": p["alpha"] / total}
    np.testing.assert_allclose(got, [want.get(name, 0.0) for name in fit.shape.names], rtol=1e-6, atol=1e-9)
    held = free.copy()
    held[fit.shape.names.index("alpha")] = False
    assert quantity(fit, "a").gradient(fit.theta[None], held)[0][2] == 0.0


def test_bootstrap_intervals_are_of_every_quantity(fit: FitResult) -> None:
    for name in quantity_names(fit, [1e20]):
        item = bootstrap_interval(fit, quantity(fit, name))
        assert item.low < item.value < item.high and item.known
    assert quantity_names(fit, [1e20])[-3:] == ("N*(1e+20)", "D*(1e+20)", "loss(1e+20)")
    for name in ("alpha", "A", "E"):
        item = bootstrap_interval(fit, quantity(fit, name))
        assert (item.low, item.high) == pytest.approx((fit.ci[name].low, fit.ci[name].high), rel=1e-9)


def test_closed_forms_are_a_and_b_or_what_the_law_derives(fit: FitResult) -> None:
    assert [q.name for q in closed_forms(fit)] == ["a", "b"]
    assert fit.derived["a"].value == pytest.approx(at_point(fit, "a"), rel=1e-12)
    assert [q.name for q in closed_forms(fitted("kaplan"))] == ["N_c", "D_c"]


def test_an_interval_cannot_leave_what_the_quantity_can_be() -> None:
    from analysis.result import Interval

    share = Quantity("share", lambda theta: theta[:, 0], low=0.0, high=1.0)
    assert share.within(Interval(0.5, -0.2, 1.4)) == Interval(0.5, 0.0, 1.0)


def test_without_draws_nothing_is_known() -> None:
    fit = fitted()
    item = bootstrap_interval(fit, quantity(fit, "a"))
    assert not item.known and "neither bootstrap draws" in item.why


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gamma", "no quantity 'gamma'; there are E, A, alpha, B, beta, a, b"),
        ("N*(many)", "'many' is not a number"),
        ("loss(N=1e9)", "law chinchilla also reads D"),
        ("loss(1e9, 1e10)", r"a loss is loss\(1e21\) at a budget or"),
    ],
)
def test_names_that_mean_nothing_are_refused(fit: FitResult, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantity(fit, name)


def test_a_law_of_one_column_has_no_best_split() -> None:
    rows = simulate_rows("power_N", {"A": 50.0, "alpha": 0.2}, grid(np.geomspace(1e7, 1e9, 8), [1e10]), Noise(0, 0.01))
    sample = load(rows, COLUMNS).sample("simulated", "loss")[0]
    fit = fit_law(sample, "power_N", check=False)
    assert quantity_names(fit, [1e20]) == ("A", "alpha")
    with pytest.raises(ValueError, match="needs a law of both N and D"):
        quantity(fit, "N*(1e20)")
