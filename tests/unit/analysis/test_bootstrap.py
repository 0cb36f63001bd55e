from __future__ import annotations

import numpy as np
import pytest

from analysis.bootstrap import TrunkNoise, bootstrap, interval, plan_for, pooled_noise, trunk_noise
from analysis.fit import FitError, fit_law, prepare
from analysis.notation import parameter
from analysis.synthetic import SURFACES, Surface, simulate
from analysis.table import Columns, RunTable, Sample, load

CAPTION = Columns(targets=("caption",))


def caption_sample(seeds: int = 1, noise: float = 0.01, seed: int = 0, rows: float = 0.003) -> Sample:
    surface = {"early": {"caption": SURFACES["early"]["caption"]}}
    return load(simulate(surface, seeds=seeds, trunk_noise=noise, row_noise=rows, seed=seed), CAPTION).sample(
        "early", "caption"
    )[0]


def test_the_table_decides_what_is_resampled() -> None:
    few, many = caption_sample(1), caption_sample(3)
    single = few.where(few.tokens == few.tokens[0])
    assert plan_for(single, 4).method == "pairs"
    assert (plan_for(few, 4).method, plan_for(few, 4).freedom) == ("trunks", 2)
    assert (plan_for(many, 4).method, plan_for(many, 4).freedom) == ("clusters", 14)
    assert "5 trunks, 20 rows" in plan_for(few, 4).text and plan_for(few, 4).widening > plan_for(many, 4).widening > 1
    with pytest.raises(FitError, match="allowed are auto, pairs, clusters, trunks"):
        plan_for(few, 4, "jackknife")


@pytest.mark.parametrize("method", ["pairs", "clusters", "trunks"])
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


def test_rows_of_one_trunk_are_not_taken_as_independent() -> None:
    sample = caption_sample(3, noise=0.02, rows=0.001)
    fit = fit_law(sample, "known")
    naive, whole = (bootstrap(fit, sample, 100, method=m).ci["alpha"] for m in ("pairs", "clusters"))
    assert whole.high - whole.low > 1.3 * (naive.high - naive.low)


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
    assert pooled is not None and pooled.freedom == 2 * noise.freedom
    assert pooled.trunk == pytest.approx(noise.trunk)
    assert pooled_noise([]) is None


def test_pooled_noise_narrows_by_its_degrees_of_freedom() -> None:
    sample = caption_sample(1)
    fit = fit_law(sample, "known")
    own = trunk_noise(prepare(sample, "known")[0], fit)
    alone = bootstrap(fit, sample, 60)
    pooled = bootstrap(fit, sample, 60, noise=TrunkNoise(own.trunk, own.row, 30))
    assert pooled.widening < alone.widening
    assert pooled.ci["beta"].high - pooled.ci["beta"].low < alone.ci["beta"].high - alone.ci["beta"].low


def test_an_unidentified_parameter_is_words_not_digits() -> None:
    surface = {"early": {"caption": Surface(0.02, 4.0, 4.0, 0.15, 0.1)}}
    sample = load(simulate(surface, row_noise=0.01), CAPTION).sample("early", "caption")[0]
    fit = bootstrap(fit_law(sample, "free"), sample, 40)
    assert fit.status == "not_identified" and not fit.ci["E"].known
    assert parameter(fit, "E").startswith("not identified (")
    assert not any(character.isdigit() for character in parameter(fit, "E").replace("reaches 0", ""))


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
