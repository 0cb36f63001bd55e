from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fit import FitError, fit_law
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.uncertainty.bootstrap import bootstrap
from analysis.uncertainty.prediction import predict

SURFACE = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
NEW = {"N": [1e9, 7e9], "D": [2e10, 1.4e11]}


def table(one_run: bool = False, seed: int = 0) -> Sample:
    design = grid(np.geomspace(5e7, 5e9, 7), np.geomspace(1e9, 1e11, 7), one_run=one_run)
    noise = Noise(0.004, 0.002) if one_run else Noise(0.0, 0.005)
    rows = simulate_rows("chinchilla", SURFACE, design, noise, seed=seed)
    return load(rows, COLUMNS).sample("simulated", "loss")[0]


@pytest.fixture(scope="module")
def sample() -> Sample:
    return table()


@pytest.fixture(scope="module")
def fit(sample: Sample) -> FitResult:
    return bootstrap(fit_law(sample, "free", check=False), sample, 300)


def test_bands_nest_and_the_method_is_named(fit: FitResult) -> None:
    found = predict(fit, NEW)
    for lower, higher in zip(
        (found.run_low, found.low, found.fitted, found.high), (found.low, found.fitted, found.high, found.run_high),
        strict=True,
    ):  # fmt: skip
        assert (lower < higher).all()
    np.testing.assert_allclose(found.fitted, fit.predict(np.array(NEW["N"]), np.array(NEW["D"])), rtol=1e-12)
    assert found.method.startswith("rows drawn with replacement (49 independent runs)")
    assert "a new run varies by 0.00" in found.method
    low, high = fit.band(np.array(NEW["N"]), np.array(NEW["D"]))
    np.testing.assert_allclose(np.stack([found.low, found.high]), np.stack([low, high]), rtol=1e-9)
    np.testing.assert_array_equal(predict(fit, NEW).run_high, found.run_high)


def test_without_draws_the_delta_method_answers(fit: FitResult) -> None:
    bare = replace(fit, draws=None, noise=None)
    drawn, delta = predict(fit, NEW), predict(bare, NEW)
    assert "delta method with the sandwich covariance, t(44)" in delta.method and "robust" in delta.method
    np.testing.assert_allclose(delta.high - delta.low, drawn.high - drawn.low, rtol=0.35)
    with pytest.raises(FitError, match="neither bootstrap draws nor a covariance"):
        predict(replace(bare, covariance=None), NEW)


def test_a_lower_level_is_narrower(fit: FitResult) -> None:
    wide, narrow = predict(fit, NEW), predict(fit, NEW, level=0.5)
    assert ((narrow.high - narrow.low) < 0.5 * (wide.high - wide.low)).all()
    assert ((narrow.run_high - narrow.run_low) < 0.5 * (wide.run_high - wide.run_low)).all()


def test_new_runs_land_in_the_band_of_a_run(sample: Sample, fit: FitResult) -> None:
    fresh = table(seed=99)
    found = predict(fit, {"N": fresh.size, "D": fresh.tokens})
    inside = np.mean((found.run_low <= fresh.loss) & (fresh.loss <= found.run_high))
    assert 0.85 <= inside <= 1.0
    assert np.mean((found.low <= fresh.loss) & (fresh.loss <= found.high)) < 0.8


def test_a_run_of_checkpoints_varies_as_a_run_and_as_a_row() -> None:
    sample = table(one_run=True)
    fit = bootstrap(fit_law(sample, "free", check=False), sample, 100)
    assert fit.noise is not None
    found = predict(fit, {"N": 1e9, "D": 2e10})
    assert "its rows by" in found.method
    half = np.log(found.run_high / found.fitted)[0]
    assert half > 2.5 * np.hypot(*fit.noise)


def test_many_points_and_a_known_entropy() -> None:
    design = grid(np.geomspace(5e7, 5e9, 6), np.geomspace(1e9, 1e11, 6))
    params = {name: value for name, value in SURFACE.items() if name != "E"}
    rows = simulate_rows("chinchilla_excess", params, design, Noise(0, 0.003), entropy=1.8)
    sample = load(rows, COLUMNS).sample("simulated", "loss")[0]
    fit = bootstrap(fit_law(sample, "known", check=False), sample, 40)
    size = np.geomspace(1e8, 1e9, 700)
    found = predict(fit, {"N": size, "D": 1e10})
    assert found.fitted.shape == (700,) and (np.diff(found.fitted) < 0).all() and (np.diff(found.run_high) < 0).all()
    higher = predict(fit, {"N": size, "D": 1e10}, entropy=2.0)
    np.testing.assert_allclose(higher.fitted - found.fitted, 0.2, rtol=1e-9)


def test_missing_columns_and_bad_levels_are_named(fit: FitResult) -> None:
    with pytest.raises(ValueError, match="law chinchilla also reads D; given are N"):
        predict(fit, {"N": [1e9]})
    with pytest.raises(ValueError, match="level is 95; it must lie between 0 and 1"):
        predict(fit, NEW, level=95)
