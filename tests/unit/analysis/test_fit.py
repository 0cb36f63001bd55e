from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from analysis.engine.point import robust_sigma
from analysis.engine.problem import derivatives
from analysis.fit import FORMS, FitError, fit_law, flat_ends, flat_reason, objective_of, pinned, prepare
from analysis.laws.catalogue import law_named
from analysis.result import FitResult
from analysis.rows.table import Columns, RunTable, Sample, load
from analysis.simulation.synthetic import SIZES, SURFACES, TOKENS


def sample_of(table: RunTable, group: str = "early", target: str = "avg") -> Sample:
    return table.sample(group, target)[0]


@pytest.mark.parametrize("form", ["free", "known"])
@pytest.mark.parametrize("delta", ["auto", "chinchilla", np.inf])
def test_a_noise_free_surface_is_recovered(quiet_table: RunTable, form: str, delta: float | str) -> None:
    truth = SURFACES["early"]["caption"]
    fit = fit_law(sample_of(quiet_table, target="caption"), form, delta)
    assert fit.status == "converged" and not fit.unidentified
    for name, value in fit.params.items():
        assert value == pytest.approx(getattr(truth, name), rel=1e-6)
    assert fit.r2_log_excess == pytest.approx(1.0, abs=1e-9)


def test_a_noise_free_interaction_surface_is_recovered() -> None:
    law, size, tokens = law_named("interaction"), np.repeat(SIZES, len(TOKENS)), np.tile(TOKENS, len(SIZES))
    columns = {"N": size, "D": tokens}
    centre = law.centre_of(columns)
    truth = np.array([[0.35, 0.45, 0.2, 0.4, 0.06]])
    loss = law.loss(law.to_working(truth, centre), columns, centre)[0]
    rows = [{"n": n, "d": d, "loss": y} for n, d, y in zip(size, tokens, loss, strict=True)]
    sample = sample_of(load(rows, Columns("n", "d", targets=("loss",))), "all", "loss")
    fit = fit_law(sample, "interaction")
    np.testing.assert_allclose(list(fit.params.values()), truth[0], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("delta", [1e-3, np.inf])
def test_no_multi_start_of_scipy_goes_lower(table: RunTable, form: str, delta: float) -> None:
    sample = sample_of(table)
    fit = fit_law(sample, form, delta)
    setup, _ = prepare(sample, form)
    problem = setup.problem(np.ones((1, len(sample))), objective_of(fit))
    rng = np.random.default_rng(0)
    low, high = problem.low, problem.high
    reached = []
    for _ in range(12):
        start = fit.theta + rng.normal(0, 0.3, len(fit.theta))
        found = minimize(
            lambda x: 1e3 * problem.values(x[None])[0],
            np.clip(start, low, high),
            jac=lambda x: 1e3 * derivatives(problem, x[None]).gradient[0],
            bounds=list(zip(low, high, strict=True)),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 2000},
        )
        reached.append(found.fun / 1e3)
    assert fit.objective_value <= min(reached) * (1 + 1e-9)
    assert fit.objective_value == pytest.approx(min(reached), rel=1e-5)


def test_objective_is_a_sum_over_rows(table: RunTable) -> None:
    sample = sample_of(table)
    columns = {symbol: np.tile(values, 2) for symbol, values in sample.columns.items()}
    rows = (np.tile(values, 2) for values in (sample.loss, sample.entropy, sample.cluster))
    doubled = Sample(sample.group, sample.target, sample.run_ids * 2, columns, *rows)
    one, two = fit_law(sample, "free", 1e-3), fit_law(doubled, "free", 1e-3)
    assert two.objective_value == pytest.approx(2 * one.objective_value, rel=1e-9)
    assert two.params["beta"] == pytest.approx(one.params["beta"], rel=1e-6)


def test_arrays_are_neither_needed_writable_nor_written(table: RunTable) -> None:
    sample = sample_of(table)
    before = sample.digest()
    for values in (sample.size, sample.tokens, sample.compute, sample.loss, sample.entropy, sample.cluster):
        assert values is not None
        values.flags.writeable = False
    assert fit_law(sample, "known").status == "converged"
    assert sample.digest() == before


def test_losses_far_above_e_are_reported_as_not_identified() -> None:
    rng = np.random.default_rng(3)
    size, tokens = np.repeat(SIZES, 4), np.tile(TOKENS, 5)
    loss = (0.05 + 4.0 * size**-0.15 + 4.0 * tokens**-0.1) * np.exp(0.01 * rng.standard_normal(20))
    rows = [{"n": n, "d": d, "loss": y} for n, d, y in zip(size, tokens, loss, strict=True)]
    fit = fit_law(sample_of(load(rows, Columns("n", "d", targets=("loss",))), "all", "loss"), "free")
    assert fit.status == "not_identified"
    assert fit.unidentified["E"] == "profile reaches 0"


def test_the_end_that_a_flat_profile_reaches_is_in_natural_units(table: RunTable) -> None:
    setup = prepare(sample_of(table), "free")[0]
    curves = replace(setup, law=law_named("annealing"))
    ends = {(name, flat_reason(curves, name, end)) for name, _, end in flat_ends(curves)}
    assert {("memory", "profile reaches 2"), ("memory", "profile reaches 1e+08")} <= ends
    assert {("alpha", "profile reaches 0"), ("alpha", "profile reaches 3")} <= ends
    rates = replace(setup, law=law_named("data_constrained"))
    assert ("R_D", "profile reaches infinity") in {(n, flat_reason(rates, n, end)) for n, _, end in flat_ends(rates)}


def test_a_loss_without_dependence_on_size_ends_at_a_bound_and_says_so() -> None:
    size, tokens = np.repeat(SIZES, 4), np.tile(TOKENS, 5)
    noise = np.random.default_rng(0).standard_normal(20)
    loss = (0.3 + 200.0 * tokens**-0.45) * np.exp(0.003 * noise)
    rows = [{"n": n, "d": d, "loss": y} for n, d, y in zip(size, tokens, loss, strict=True)]
    fit = fit_law(sample_of(load(rows, Columns("n", "d", targets=("loss",))), "all", "loss"), "free")
    assert fit.status == "not_identified" and "alpha" in fit.unidentified


def test_profile_touches_the_optimum_and_rises_away_from_it(table: RunTable) -> None:
    sample = sample_of(table)
    fit = fit_law(sample, "free")
    setup, _ = prepare(sample, "free")
    values = fit.params["beta"] + np.array([-0.1, -0.02, 0.0, 0.02, 0.1])
    curve = pinned(setup, fit, [(fit.shape.names.index("beta"), float(value)) for value in values])
    assert curve[2] == pytest.approx(fit.objective_value, rel=1e-9)
    assert curve[0] > curve[1] > curve[2] < curve[3] < curve[4]


def test_samples_that_cannot_carry_the_law_are_refused(table: RunTable) -> None:
    sample = sample_of(table)
    with pytest.raises(FitError, match=r"early/avg, form free: 4 usable rows, 6 needed for 5 parameters"):
        fit_law(sample.where(np.arange(len(sample)) < 4), "free")
    with pytest.raises(FitError, match="all rows share one of the token counts D"):
        fit_law(sample.where(sample.tokens == sample.tokens[0]), "known")
    with pytest.raises(FitError, match="column entropy_avg"):
        fit_law(replace(sample, entropy=None), "known")
    with pytest.raises(FitError, match="unknown law 'cubic'"):
        fit_law(sample, "cubic")
    for delta in ("sharp", -1.0):
        with pytest.raises(FitError, match="allowed are auto, chinchilla, or a positive number"):
            fit_law(sample, "free", delta)


def test_rows_below_the_entropy_are_named_not_dropped_in_silence(table: RunTable) -> None:
    sample = sample_of(table)
    assert sample.entropy is not None
    loss = sample.loss.copy()
    loss[2] = sample.entropy[2] - 0.01
    fit = fit_law(replace(sample, loss=loss), "known")
    assert fit.excluded == (sample.run_ids[2],) and fit.n_rows == len(sample) - 1


def test_a_result_survives_json(study: object, table: RunTable) -> None:
    for fit in (*study.fits[:3], fit_law(sample_of(table), "free", np.inf)):  # type: ignore[attr-defined]
        text = json.dumps(fit.to_dict(), allow_nan=False)
        back = FitResult.from_dict(json.loads(text))
        assert (back.params, back.ci, back.holdouts, back.derived) == (fit.params, fit.ci, fit.holdouts, fit.derived)
        size, tokens = np.array([5e4, 2e5]), np.array([2e6, 3e6])
        np.testing.assert_array_equal(back.predict(size, tokens), fit.predict(size, tokens))
        assert json.loads(text)["objective_value"] == fit.objective_value
    with pytest.raises(ValueError, match="not a fit"):
        FitResult.from_dict({"law": "chinchilla"})


def test_robust_scale_ignores_the_residuals_a_fit_makes_zero() -> None:
    rng = np.random.default_rng(0)
    residual = 0.02 * rng.standard_normal(4000)
    residual[:100] = 5.0
    assert robust_sigma(residual, 5) == pytest.approx(0.02, rel=0.06)
    assert robust_sigma(np.array([0.0, 0.0, 0.0, 0.01, -0.01]), 3) == pytest.approx(0.01 / 0.6745)
