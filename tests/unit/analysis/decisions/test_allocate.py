from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.decisions.allocate import (
    SIX_ND,
    allocate,
    allocation_exponents,
    best_splits,
    fit_cost,
    fit_frontier,
    frontier,
)
from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import Columns, Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, crossed, rows_design, simulate_rows
from analysis.simulation.surfaces import EARLY, EARLY_SIZES, paper_design
from analysis.simulation.synthetic import Surface
from analysis.study import Study
from analysis.uncertainty.bootstrap import bootstrap

SURFACE = Surface(1.8, 480.0, 2100.0, 0.35, 0.37)


def test_cost_is_recovered_from_exact_flops() -> None:
    size, tokens = np.repeat([1e4, 1e5, 1e6], 2), np.tile([1e6, 4e6], 3)
    scale, power, error = fit_cost(size, tokens, 9.0 * size**0.9 * tokens)
    assert (scale, power) == pytest.approx((9.0, 0.9)) and error < 1e-9
    assert fit_cost(size[:2], tokens[:2], 6 * size[:2] * tokens[:2])[:2] == pytest.approx((6.0, 1.0))


def test_frontier_is_the_closed_form_optimum() -> None:
    compute = np.geomspace(1e19, 1e22, 4)
    best = frontier(lambda n, d: SURFACE.loss(n, d)[None], compute, (6.0, 1.0, 0.0), (1e7, 1e11), (1e8, 1e13))
    a, b = allocation_exponents(np.array(SURFACE.alpha), np.array(SURFACE.beta))
    ratio = (SURFACE.alpha * SURFACE.A / (SURFACE.beta * SURFACE.B)) ** (1 / (SURFACE.alpha + SURFACE.beta))
    size = ratio * (compute / 6) ** float(a)
    np.testing.assert_allclose(best.size[0], size, rtol=0.07)
    np.testing.assert_allclose(best.loss[0], SURFACE.loss(size, compute / (6 * size)), rtol=3e-5)
    assert not best.at_edge.any() and float(a + b) == pytest.approx(1.0)


def test_frontier_never_leaves_the_tested_box() -> None:
    compute = np.array([1e8, 1e12, 1e30])
    best = frontier(lambda n, d: SURFACE.loss(n, d)[None], compute, (6.0, 1.0, 0.0), (1e4, 1e6), (1e5, 1e7))
    assert np.isnan(best.loss[0, [0, 2]]).all() and best.at_edge[0, [0, 2]].all()
    assert 1e4 <= best.size[0, 1] <= 1e6 and 1e5 <= best.tokens[0, 1] <= 1e7


def test_best_splits_of_a_fit_carry_intervals(study: Study) -> None:
    fit = study.fit("early", "avg", "known")
    assert fit is not None
    splits = best_splits(fit, np.geomspace(*fit.compute_range, 5)[1:-1])
    assert len(splits) == 3
    for split in splits:
        assert split.size.low <= split.size.value <= split.size.high
        assert split.loss.low < split.loss.value < split.loss.high
    assert splits[0].loss.value > splits[-1].loss.value


@pytest.fixture(scope="module")
def sample() -> Sample:
    rows = simulate_rows("chinchilla", EARLY.params, paper_design(), Noise(0.0, 0.004), group="early", seed=3)
    return load(rows, COLUMNS).sample("early", "loss")[0]


@pytest.fixture(scope="module")
def fit(sample: Sample) -> FitResult:
    return bootstrap(fit_law(sample, "free", check=False), sample, 200)


def test_budgets_are_split_as_the_truth_would(fit: FitResult) -> None:
    p = EARLY.params
    ratio = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    budgets = np.array([1e20, 1e22, 1e24])
    size = ratio * (budgets / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    found = allocate(fit, budgets)
    assert [a.method for a in found] == ["closed form"] * 3 and all("rows drawn" in a.ci_method for a in found)
    for a, true in zip(found, size, strict=True):
        assert a.size.low < true < a.size.high and a.size.known
        assert a.loss.low < float(EARLY.loss(true, a.compute / (6 * true))) < a.loss.high
        assert 6 * a.size.value * a.tokens.value == pytest.approx(a.compute, rel=1e-6)
        assert a.tokens_per_parameter.value == pytest.approx(a.tokens.value / a.size.value)
    assert found[0].size.high / found[0].size.low < found[2].size.high / found[2].size.low


def test_extrapolation_is_said_with_its_factors(fit: FitResult) -> None:
    inside, outside, below = allocate(fit, [1e21, 1e24, 1e18])
    assert not inside.extrapolates and set(inside.beyond.values()) == {1.0}
    assert outside.extrapolates and outside.beyond["C"] == pytest.approx(1e24 / fit.compute_range[1])
    assert outside.beyond["N"] == pytest.approx(outside.size.value / fit.size_range[1])
    assert below.beyond["C"] == pytest.approx(fit.compute_range[0] / 1e18) and below.beyond["N"] > 1


def test_the_covariance_stands_in_for_a_bootstrap(fit: FitResult) -> None:
    (drawn,), (linear,) = allocate(fit, 1e21), allocate(replace(fit, draws=None), 1e21)
    assert "delta method" in linear.ci_method
    widths = [a.size.high / a.size.low for a in (drawn, linear)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    (nothing,) = allocate(replace(fit, draws=None, covariance=None), 1e21)
    assert nothing.ci_method == "none" and not nothing.size.known and nothing.size.value == drawn.size.value


def test_the_price_of_another_size_is_a_range(fit: FitResult) -> None:
    (found,) = allocate(fit, 1e21, tolerances=(0.5, 2.0))
    half, two = found.near
    assert two.low < half.low < found.size.value < half.high < two.high
    tokens = 1e21 / (6 * half.low)
    assert fit.predict(half.low, tokens)[0] == pytest.approx(1.005 * found.loss.value, rel=1e-6)


def test_a_law_without_a_formula_is_searched(sample: Sample) -> None:
    kaplan = fit_law(sample, "kaplan", check=False)
    found = allocate(kaplan, [1e20, 1e23])
    assert [a.method for a in found] == ["search"] * 2 and all(a.size.known for a in found)
    for a in found:
        nearby = a.size.value * np.array([0.98, 1.0, 1.02])
        loss = kaplan.predict(nearby, a.compute / (6 * nearby))
        assert loss[1] < loss[0] and loss[1] < loss[2] and a.loss.value == pytest.approx(float(loss[1]), rel=1e-9)


def test_a_flat_direction_is_no_recommendation(fit: FitResult) -> None:
    lost = replace(fit, unidentified={"alpha": "interval reaches 3"})
    (found,) = allocate(lost, 1e21)
    assert not found.size.known and found.size.why == "alpha is not identified (interval reaches 3)"
    assert found.loss.known


def test_a_concrete_config_comes_with_its_penalty(fit: FitResult) -> None:
    sizes = [("275M", 274.8e6), ("1.6B", 1626.8e6), ("8B", 8129.1e6)]
    (found,) = allocate(fit, 1e21, sizes=sizes, step=2e6)
    config = found.config
    assert config is not None and config.name == "1.6B" and config.steps == int(1e21 / (6 * 1626.8e6) / 2e6)
    assert config.compute <= 1e21 and config.tokens == config.steps * 2e6
    assert 0 <= config.penalty.low <= config.penalty.value <= config.penalty.high < 0.5
    expected = 100 * (fit.predict(config.size, config.tokens)[0] / found.loss.value - 1)
    assert config.penalty.value == pytest.approx(expected, rel=1e-6)


def test_the_cost_of_the_runs_or_a_given_one(sample: Sample) -> None:
    fit = fit_law(sample, "free", check=False)
    (own,), (other,) = allocate(fit, 1e21), allocate(fit, 1e21, cost=(12.0, 1.0, 0.0))
    assert 12 * other.size.value * other.tokens.value == pytest.approx(1e21)
    assert other.loss.value > own.loss.value
    with pytest.raises(ValueError, match="give cost=SIX_ND"):
        allocate(replace(fit, cost=None), 1e21)
    (given,) = allocate(replace(fit, cost=None), 1e21, cost=SIX_ND)
    assert given.size.value == pytest.approx(own.size.value, rel=1e-6)


def test_laws_with_other_columns() -> None:
    params = EARLY.params | {"R_D": 15.0, "R_N": 5.0}
    base = rows_design(N=np.tile(EARLY_SIZES, 4), D=np.repeat([1e10, 3e10, 1e11, 3e11], 6))
    rows = simulate_rows("data_constrained", params, crossed(base, U=[1e10, 1e12]), Noise(0.0, 1e-4))
    table = load(rows, COLUMNS, needed=("N", "D", "U"))
    fit = fit_law(table.sample("simulated", "loss")[0], "data_constrained", check=False)
    (scarce,), (plenty,) = (allocate(fit, 1e22, given={"U": u}, draws=50) for u in (2e10, 1e12))
    assert scarce.loss.value > plenty.loss.value and scarce.size.value != plenty.size.value
    with pytest.raises(ValueError, match="also reads U"):
        allocate(fit, 1e22)
    with pytest.raises(ValueError, match="also reads U"):
        fit_frontier(fit, np.array([1e21]))
    assert np.isfinite(fit_frontier(fit, np.array([1e21]), {"U": 1e11}).loss).all()


def test_what_cannot_be_split_is_refused(fit: FitResult) -> None:
    for budget in (0.0, -1e20, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            allocate(fit, budget)
    rows = simulate_rows(
        "power_C", {"A": 30.0, "alpha": 0.05}, rows_design(C=np.geomspace(1e18, 1e21, 8)), Noise(0, 1e-3)
    )
    columns = Columns(compute="C", group="group", cluster="run", targets=("loss",))
    alone = fit_law(load(rows, columns, needed=("C",)).sample("simulated", "loss")[0], "power_C", check=False)
    with pytest.raises(ValueError, match="reads C; splitting a budget needs a law of both N and D"):
        allocate(alone, 1e21, cost=SIX_ND)
    best = fit_frontier(alone, np.array([1e19, 1e20]))
    np.testing.assert_allclose(best.loss[0], alone.respond({"C": np.array([1e19, 1e20])})[0])
    assert np.isnan(best.size).all() and not best.at_edge.any()
