from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fit import FitError, fit_law, prepare
from analysis.notation import parameter
from analysis.result import FitResult, Interval
from analysis.rows.table import Columns, RunTable, Sample, load
from analysis.simulation.synthetic import SURFACES, Surface, simulate
from analysis.uncertainty.bootstrap import (
    METHODS,
    TrunkNoise,
    bootstrap,
    interval,
    plan_for,
    pooled_noise,
    trunk_noise,
)

CAPTION = Columns(targets=("caption",))


def caption_sample(seeds: int = 1, noise: float = 0.01, seed: int = 0, rows: float = 0.003) -> Sample:
    surface = {"early": {"caption": SURFACES["early"]["caption"]}}
    return load(simulate(surface, seeds=seeds, trunk_noise=noise, row_noise=rows, seed=seed), CAPTION).sample(
        "early", "caption"
    )[0]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_intervals_hold_the_point_and_repeat_with_the_seed(method: str) -> None:
    sample = caption_sample(3)
    fit = fit_law(sample, "free")
    one, two = (bootstrap(fit, sample, 40, seed=4, method=method) for _ in range(2))
    assert one.ci == two.ci and one.draws is not None and one.draws.shape == (40, 5)
    assert bootstrap(fit, sample, 40, seed=5, method=method).ci != one.ci
    for name, item in one.ci.items():
        assert item.low <= item.value == fit.params[name] <= item.high
    assert 0 < one.derived["a"].low < one.derived["a"].high < 1
    assert one.derived["a"].value + one.derived["b"].value == pytest.approx(1.0)
    assert one.ci_method.endswith("asked for") and one.noise is not None


def test_the_default_says_which_method_and_why() -> None:
    few, many = caption_sample(1), caption_sample(3)
    single = few.where(few.tokens == few.tokens[0])
    assert plan_for(single, 4).method == "pairs"
    for sample, method in ((few, "run and row noise redrawn"), (many, "whole runs drawn")):
        fit = bootstrap(fit_law(sample, "known", check=False), sample, 30)
        assert fit.ci_method.startswith(method) and f"{sample.num_clusters} independent runs" in fit.ci_method


def test_rows_of_one_trunk_are_not_taken_as_independent() -> None:
    sample = caption_sample(3, noise=0.02, rows=0.001)
    fit = fit_law(sample, "known")
    naive, whole, signs = (bootstrap(fit, sample, 100, method=m) for m in ("pairs", "clusters", "wild_cluster"))
    width = [f.ci["alpha"].high - f.ci["alpha"].low for f in (naive, whole, signs)]
    assert width[1] > 1.3 * width[0] and width[2] > 1.3 * width[0]


def test_two_groups_get_different_draws(table: RunTable) -> None:
    samples = [table.sample(group, "avg")[0] for group in ("early", "late")]
    fits = [bootstrap(fit_law(s, "known"), s, 60, seed=0) for s in samples]
    first, second = (f.draws[:, 3] for f in fits if f.draws is not None)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_trunk_variance_is_estimated() -> None:
    sample = caption_sample(40, noise=0.02, rows=0.005)
    setup, _ = prepare(sample, "free")
    fit = fit_law(sample, "free")
    noise = trunk_noise(setup, fit)
    assert np.sqrt(noise.trunk) == pytest.approx(0.02, rel=0.15)
    assert np.sqrt(noise.row) == pytest.approx(0.005, rel=0.15)
    pooled = pooled_noise([(fit, sample), (fit, sample)])
    assert pooled is not None and pooled.freedom == pytest.approx(2 * noise.freedom)
    assert pooled.trunk == pytest.approx(noise.trunk)


def test_pooled_noise_narrows_by_its_degrees_of_freedom() -> None:
    sample = caption_sample(1)
    fit = fit_law(sample, "known")
    own = trunk_noise(prepare(sample, "known")[0], fit)
    alone, pooled = (
        bootstrap(fit, sample, 300, method="trunks", noise=n)
        for n in (None, TrunkNoise(own.trunk, own.row, 30.0, 300.0))
    )
    width = {name: [f.ci[name].high - f.ci[name].low for f in (alone, pooled)] for name in ("alpha", "beta")}
    assert own.freedom < 4 and width["alpha"][1] < 0.85 * width["alpha"][0]
    assert "t(30)" not in pooled.ci_method and pooled.widening == 1.0


def test_an_unidentified_parameter_is_words_not_digits() -> None:
    surface = {"early": {"caption": Surface(0.02, 4.0, 4.0, 0.15, 0.1)}}
    sample = load(simulate(surface, row_noise=0.01), CAPTION).sample("early", "caption")[0]
    fit = bootstrap(fit_law(sample, "free"), sample, 40)
    assert fit.status == "not_identified" and not fit.ci["E"].known
    assert parameter(fit, "E").startswith("not identified (")
    assert not any(character.isdigit() for character in parameter(fit, "E").replace("reaches 0", ""))


def test_a_lost_exponent_takes_its_coefficient_and_the_allocation_with_it() -> None:
    """No dependence on size at all: alpha may be anything, and so may A, a and b."""
    sample = caption_sample(seeds=1, noise=0.0)
    rng = np.random.default_rng(0)
    loss = (0.32 + 210.0 * sample.tokens**-0.45 + 1e-4) * np.exp(0.005 * rng.standard_normal(len(sample)))
    flat = replace(sample, loss=loss, cluster=np.arange(len(sample)))
    fit = bootstrap(fit_law(flat, "free"), flat, 60)
    assert {"alpha", "A"} <= set(fit.unidentified) and fit.status == "not_identified"
    assert not fit.derived["a"].known and fit.derived["a"].why == "alpha is not identified"


def test_fixed_parameters_have_no_interval() -> None:
    sample = caption_sample(3)
    fit = bootstrap(fit_law(sample, "free", fixed={"E": 0.32}), sample, 40)
    assert fit.ci["E"] == Interval(0.32, 0.32, 0.32, why="fixed") and "E" not in fit.unidentified
    assert fit.ci["alpha"].low < fit.ci["alpha"].high
    assert fit.draws is not None and np.ptp(fit.draws[:, 0]) == 0.0


def test_a_law_with_its_own_derived_numbers_gives_them_intervals() -> None:
    sample = caption_sample(3)
    fit = bootstrap(fit_law(sample, "chinchilla_tied", check=False), sample, 40)
    assert set(fit.derived) == {"eta", "a of the paper", "b of the paper"}
    assert fit.derived["eta"].low < fit.params["alpha"] / 2 == fit.derived["eta"].value < fit.derived["eta"].high


def test_a_result_with_intervals_survives_json() -> None:
    sample = caption_sample(1)
    fit = bootstrap(fit_law(sample, "known"), sample, 40)
    back = FitResult.from_dict(fit.to_dict())
    assert (back.ci, back.derived, back.noise, back.ci_method) == (fit.ci, fit.derived, fit.noise, fit.ci_method)
    np.testing.assert_array_equal(back.draws, fit.draws)


def test_small_coverage_study() -> None:
    """Nominal 95 % intervals of trunk-correlated noise, 24 tables of 5 trunks: binomial 99.9 % lower limit is 0.79."""
    truth = SURFACES["early"]["caption"]
    hits = []
    for seed in range(24):
        sample = caption_sample(1, seed=seed)
        fit = bootstrap(fit_law(sample, "known", check=False), sample, 60, seed=seed)
        low, high = fit.band(np.array([5.74e5]), np.array([8e6]))
        inside = [fit.ci[n].low <= getattr(truth, n) <= fit.ci[n].high for n in ("alpha", "beta")]
        hits.append([*inside, low[0] <= float(truth.loss(5.74e5, 8e6)) <= high[0]])
    assert (np.mean(hits, axis=0) >= 0.79).all()


def test_too_few_draws_are_refused() -> None:
    sample = caption_sample()
    with pytest.raises(FitError, match="at least 20"):
        bootstrap(fit_law(sample, "known"), sample, 5)


def test_interval_is_stretched_about_the_point() -> None:
    draws = np.linspace(-1.0, 1.0, 2001)
    narrow, wide = interval(0.0, draws, 1.0), interval(0.0, draws, 2.0)
    assert (wide.low, wide.high) == pytest.approx((2 * narrow.low, 2 * narrow.high))
    scale = interval(10.0, np.exp(np.log(10.0) + draws), 1.0, log=True)
    assert scale.high / 10.0 == pytest.approx(10.0 / scale.low, rel=1e-6)
