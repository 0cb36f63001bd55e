from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from analysis.decisions.design import Candidate, Plan, default_candidates, design, residual_noise
from analysis.decisions.information import Blocks, blocks_of, inverse_information, log_jacobian, noise_matrix
from analysis.decisions.optimum import SIX_ND, Landscape, landscape
from analysis.decisions.selection import Choice, best_set, blind_variance, in_order, repeated_variance
from analysis.fit import fit_law
from analysis.laws.catalogue import law_named
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.batch import fit_batch
from analysis.simulation.simulator import COLUMNS, Design, Noise, grid, repeated, responses, simulate_rows
from analysis.simulation.surfaces import EARLY, EARLY_SIZES
from analysis.uncertainty.quantities import quantity

NOISE = Noise(0.0, 0.004)
BASE = grid(EARLY_SIZES, np.geomspace(2.5e9, 6e11, 6).tolist())
TRUNKS = grid(EARLY_SIZES, np.geomspace(2.5e9, 6e11, 6).tolist(), one_run=True)


def fitted(base: Design, noise: Noise, seed: int = 3) -> tuple[FitResult, Sample]:
    rows = simulate_rows("chinchilla", EARLY.params, base, noise, seed=seed)
    sample, _ = load(rows, COLUMNS).sample("simulated", "loss")
    return fit_law(sample, "free", check=False), sample


@pytest.fixture(scope="module")
def pair() -> tuple[FitResult, Sample]:
    return fitted(BASE, NOISE)


@pytest.fixture(scope="module")
def plan(pair: tuple[FitResult, Sample]) -> Plan:
    return design(*pair, "N*(1e23)", 0.3 * BASE.flops(), noise=NOISE)


def realised(name: str, base: Design, noise: Noise, seed: int) -> float:
    """Scatter of a quantity (of its logarithm if that is how it is measured) over 300 simulated and fitted sweeps."""
    true, _ = fitted(base, Noise())
    drawn = responses(true.shape, EARLY.params, base, noise, 300, seed)
    found = fit_batch(true.shape, base.columns, drawn, base.run, start=EARLY.params)
    values = quantity(true, name).scaled(found.theta)
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def together(first: Design, second: Design) -> Design:
    columns = {name: np.concatenate([first.columns[name], second.columns[name]]) for name in ("N", "D")}
    run = np.concatenate([first.run, second.run + first.run.max() + 1])
    return Design(columns, run, np.zeros(len(run), dtype=np.intp))


@pytest.mark.parametrize("quantity", ["alpha", "E", "N*(1e23)", "loss(1e24)"])
def test_the_realised_interval_shrinks_as_promised(pair: tuple[FitResult, Sample], quantity: str) -> None:
    found = design(*pair, quantity, 0.3 * BASE.flops(), noise=NOISE)
    before, after = realised(quantity, BASE, NOISE, 5), realised(quantity, together(BASE, found.as_design()), NOISE, 6)
    assert after / before == pytest.approx(found.ratio, rel=0.2)
    assert found.spent <= found.budget and found.ratio < 0.6
    # Equal FLOPs spent on the runs there are already, cheapest first.
    assert found.repeat_ratio is not None and found.ratio < 0.7 * found.repeat_ratio and found.ratio < found.blind_ratio


def test_repeating_the_cheap_runs_is_worth_what_is_said(pair: tuple[FitResult, Sample]) -> None:
    found = design(*pair, "alpha", 0.3 * BASE.flops(), noise=NOISE)
    assert found.repeat_ratio is not None
    cost = 6 * BASE.columns["N"] * BASE.columns["D"]
    order = np.argsort(cost, kind="stable")
    cheap = order[np.cumsum(cost[order]) <= found.spent]
    again = Design(
        {k: v[cheap] for k, v in BASE.columns.items()}, np.arange(len(cheap)), np.zeros(len(cheap), dtype=np.intp)
    )
    before, after = realised("alpha", BASE, NOISE, 5), realised("alpha", together(BASE, again), NOISE, 7)
    assert after / before == pytest.approx(found.repeat_ratio, rel=0.2)


def test_trunks_with_branches_are_designed_as_trunks() -> None:
    noise = Noise(0.003, 0.001)
    fit, sample = fitted(repeated(TRUNKS, 3), noise)
    found = design(fit, sample, "alpha", 0.5 * TRUNKS.flops(), noise=noise, max_runs=8)
    assert all(1 <= len(step.run.tokens) <= 6 for step in found.steps)
    assert any(len(step.run.tokens) > 1 for step in found.steps)
    base = repeated(TRUNKS, 3)
    before, after = realised("alpha", base, noise, 5), realised("alpha", together(base, found.as_design()), noise, 6)
    assert after / before == pytest.approx(found.ratio, rel=0.25)


def test_a_plan_is_a_table_in_order(plan: Plan) -> None:
    rows = plan.rows()
    assert len(rows) == len(plan.steps) and rows[-1]["cumulative"] == pytest.approx(plan.spent)
    assert np.prod([step.ratio for step in plan.steps]) == pytest.approx(plan.ratio, rel=1e-9)
    assert plan.steps[0].before == plan.before and plan.steps[-1].after == plan.after
    assert plan.before.low < plan.after.low < plan.after.value < plan.after.high < plan.before.high
    assert any("beyond the tested N or D" in note for note in plan.notes)


def test_noise_comes_from_the_residuals(pair: tuple[FitResult, Sample]) -> None:
    fit, sample = pair
    assert residual_noise(fit, sample).row == pytest.approx(0.004, rel=0.3) and residual_noise(fit, sample).run == 0.0
    fit, sample = fitted(repeated(TRUNKS, 6), Noise(0.004, 0.001))
    found = residual_noise(fit, sample)
    assert found.run == pytest.approx(0.004, rel=0.3) and found.row == pytest.approx(0.001, rel=0.15)


def test_adding_a_run_is_exact() -> None:
    rng = np.random.default_rng(0)
    jacobian = rng.standard_normal((3, 2, 4))
    jacobian[2, 1] = 0.0
    blocks = Blocks(jacobian, noise_matrix(np.array([2, 2, 1]), 2, 0.5, 0.3))
    start = rng.standard_normal((8, 4))
    information, g = start.T @ start, rng.standard_normal(4)
    covariance = inverse_information(information)
    np.testing.assert_allclose(covariance, np.linalg.inv(information), rtol=1e-9)
    gains = blocks.gains(covariance, g)
    for i in range(3):
        direct = np.linalg.inv(information + blocks.information[i])
        np.testing.assert_allclose(blocks.updated(covariance, i), direct, rtol=1e-9)
        assert gains[i] == pytest.approx(g @ covariance @ g - g @ direct @ g)
    alone = jacobian[2, 0]
    np.testing.assert_allclose(blocks.information[2], np.outer(alone, alone) / (0.5**2 + 0.3**2), rtol=1e-9)


def test_a_second_checkpoint_tells_less_than_a_second_run(pair: tuple[FitResult, Sample]) -> None:
    land, theta = landscape(pair[0]), pair[0].theta
    free = np.ones(len(theta), dtype=bool)
    columns = {"N": np.array([1e9, 1e9]), "D": np.array([1e10, 1.1e10])}
    one, two = (
        blocks_of(land, theta, columns, codes, 0.01, 0.001, free) for codes in (np.array([0, 0]), np.array([0, 1]))
    )
    assert np.trace(one.information.sum(axis=0)) < 0.6 * np.trace(two.information.sum(axis=0))


def test_the_jacobian_is_that_of_the_loss_with_its_entropy() -> None:
    excess = law_named("chinchilla_excess")
    theta = excess.to_working(np.array([[EARLY.params[name] for name in excess.names]]), {})[0]
    land = Landscape(excess, {}, SIX_ND, {"C": (1e18, 1e22), "N": (1e8, 1e10), "D": (1e9, 1e12)}, added=1.904)
    columns = {"N": np.array([1e9]), "D": np.array([2e10])}
    found = log_jacobian(land, theta, columns)[0]
    for i in range(4):
        step = np.eye(4)[i] * 1e-6
        up, down = (np.log(land.loss((theta + s * step)[None])(*columns.values()))[0] for s in (1, -1))
        assert found[i] == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_the_set_is_the_best_there_is_where_all_can_be_tried() -> None:
    rng = np.random.default_rng(1)
    blocks = Blocks(rng.standard_normal((7, 1, 3)), np.full((7, 1, 1), 0.2))
    flops = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
    choice = Choice(blocks, flops, np.eye(3) * 0.5, np.array([1.0, -0.5, 0.3]))
    picked = best_set(choice, 8.0, 3)
    every = [
        list(c) for k in (1, 2, 3) for c in combinations_with_replacement(range(7), k) if flops[list(c)].sum() <= 8.0
    ]
    assert choice.variance(picked) == pytest.approx(min(map(choice.variance, every)), rel=1e-9)
    assert sorted(in_order(choice, picked)) == sorted(picked) and choice.spent(picked) <= 8.0
    assert choice.variance(picked) < blind_variance(choice, 8.0, 3, 0)
    assert repeated_variance(choice, 0.5) is None
    twice = repeated_variance(choice, 2 * flops.sum())
    assert twice == pytest.approx(choice.variance([*range(7), *range(7)]))


def test_candidates_stay_near_what_was_tested(pair: tuple[FitResult, Sample]) -> None:
    fit, sample = pair
    found = default_candidates(landscape(fit), sample)
    ratios = sample.tokens / sample.size
    assert max(c.size for c in found) == pytest.approx(4 * sample.size.max()) and len(found) > 30
    assert all(ratios.min() * 0.999 <= c.tokens[-1] / c.size <= ratios.max() * 1.001 for c in found)
    assert all(c.flops == pytest.approx(6 * c.size * c.tokens[-1], rel=1e-6) for c in found)


def test_own_candidates_and_mistakes(pair: tuple[FitResult, Sample]) -> None:
    fit, sample = pair
    one = Candidate(1e9, (2e10,), 1.2e20)
    found = design(fit, sample, "beta", 4e20, noise=NOISE, candidates=[one])
    assert [step.run for step in found.steps] == [one] * 3
    assert any("only 1 different runs" in note for note in found.notes)
    with pytest.raises(ValueError, match="buy none of the 1 candidates; the cheapest costs 1.2e\\+20"):
        design(fit, sample, "beta", 1e20, candidates=[one])
    with pytest.raises(ValueError, match="no quantity 'gamma'"):
        design(fit, sample, "gamma", 1e21)
    with pytest.raises(ValueError, match="the noise is 0"):
        design(fit, sample, "beta", 1e21, noise=Noise())
