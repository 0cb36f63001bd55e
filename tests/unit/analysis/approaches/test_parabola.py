from __future__ import annotations

import numpy as np
import pytest
from isoflop_rows import SYMMETRIC, isoflop_rows
from scipy import optimize

from analysis.approaches import parabola
from analysis.approaches.isoflop import Options, isoflop
from analysis.approaches.resample import resample
from analysis.approaches.rows import group_close, rows_from
from analysis.approaches.slices import Fit, cut_slices, fit_slices, noise_by_slice

Z = np.linspace(-1, 1, 9)
CURVES = {2: np.array([2.0, -0.2, 0.5]), 3: np.array([2.0, -0.2, 0.5, 0.3])}


@pytest.mark.parametrize("degree", [2, 3])
def test_the_minimum_is_that_of_the_polynomial(degree: int) -> None:
    coef = CURVES[degree]
    found = parabola.minimum(coef[None])
    scan = optimize.minimize_scalar(lambda z: np.polyval(coef[::-1], z), bounds=(-1, 1), method="bounded")
    assert found.z[0] == pytest.approx(scan.x, abs=1e-5) and found.value[0] == pytest.approx(scan.fun)
    step = 1e-4
    around = np.polyval(coef[::-1], found.z[0] + step * np.array([-1, 0, 1]))
    assert found.curvature[0] == pytest.approx((around[0] - 2 * around[1] + around[2]) / step**2, rel=1e-5)


def test_curves_without_a_minimum_say_so() -> None:
    assert parabola.minimum(np.array([[2.0, 0.1, -0.5]])).curvature[0] < 0
    assert np.isnan(parabola.minimum(np.array([[2.0, 1.0, 0.1, 1.0]])).z[0])
    assert parabola.minimum(np.array([[2.0, -0.2, 0.5, 0.0]])).z[0] == pytest.approx(0.2)


@pytest.mark.parametrize("degree", [2, 3])
def test_errors_by_the_delta_method_are_those_of_repeated_noise(degree: int) -> None:
    coef, noise = CURVES[degree], 2e-3
    exact = parabola.powers(Z, degree) @ coef
    y = exact + noise * np.random.default_rng(0).standard_normal((20_000, 9))
    many = parabola.minimum(parabola.fit(Z, y, np.ones_like(y), degree)[0])
    error = parabola.spread(Z, np.ones(9), coef, parabola.minimum(coef[None]))
    assert many.z.std() == pytest.approx(noise * error.z, rel=0.03)
    assert many.curvature.std() == pytest.approx(noise * error.curvature, rel=0.03)


def test_huber_reaches_the_minimum_of_its_objective() -> None:
    rng = np.random.default_rng(1)
    y = parabola.powers(Z, 2) @ CURVES[2] + 0.01 * rng.standard_t(2, 9)
    (coef,), _ = parabola.fit(Z, y[None], np.ones((1, 9)), 2, delta=5e-3)

    def objective(c: np.ndarray) -> float:
        r = np.abs(y - parabola.powers(Z, 2) @ c)
        return float(np.where(r < 5e-3, r**2 / 2, 5e-3 * (r - 2.5e-3)).sum())

    best = optimize.minimize(objective, coef + 0.01, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16})
    assert objective(coef) <= best.fun * (1 + 1e-9)


def test_weights_are_repeated_rows_and_too_few_sizes_give_nothing() -> None:
    y = np.random.default_rng(2).normal(size=9)
    counts = np.array([2.0, 0, 1, 3, 0, 1, 1, 0, 1])
    weighted, _ = parabola.fit(Z, y[None], counts[None], 2)
    repeated = np.repeat(np.arange(9), counts.astype(int))
    np.testing.assert_allclose(weighted[0], np.polyfit(Z[repeated], y[repeated], 2)[::-1], rtol=1e-10)
    assert np.isnan(parabola.fit(Z, y[None], (np.arange(9) < 2)[None] * 1.0, 2)[0]).all()
    assert parabola.hat(Z, np.ones(9), 2).sum() == pytest.approx(3)


def test_flipped_residuals_have_the_spread_of_fresh_noise() -> None:
    """Five sizes leave two degrees of freedom: without the leverage the spread would be too small by a third."""
    ratio = []
    for seed in range(200):
        rows = isoflop_rows(SYMMETRIC, 1, 5, noise=1e-3, seed=seed)
        cuts, _ = cut_slices(rows_from(*rows.columns), None, 0.1, "parabola", "loss")
        ys = [cut.y for cut in cuts]
        fits = fit_slices(cuts, ys, "parabola", None)
        drawn = resample(cuts, ys, fits, None, "wild", "loss", 100, seed)
        error = parabola.spread(cuts[0].z, np.ones(5), fits[0].coef, fits[0].found).z
        truth = 1e-3 * cuts[0].unit * cuts[0].half_width * error
        ratio.append(np.var(drawn.values[:, 0, 0]) / truth**2)
    assert np.mean(ratio) == pytest.approx(1, abs=0.2)


def test_draws_that_leave_the_grid_are_left_out_and_counted() -> None:
    rows = isoflop_rows(SYMMETRIC, 6, 7, width=3, noise=2e-3, drift=1.6, seed=1)
    result = isoflop(*rows.columns, slices=rows.slices, options=Options(draws=400))
    drawn = result.resamples
    assert drawn is not None and result.laws is not None and result.laws.draws is not None
    assert 0.02 < drawn.lost < 0.6 and not drawn.valid.all()
    assert any("left the grid" in note for note in result.notes)
    for k, one in enumerate(result.slices):
        inside = drawn.values[drawn.valid[:, k], 0, k]
        assert np.log(min(one.sizes)) <= inside.min() and inside.max() <= np.log(max(one.sizes))
    some = int(np.argmax((~drawn.valid).any(axis=1) & (drawn.valid.sum(axis=1) > 2)))
    used = drawn.valid[some]
    log_c = np.log([one.compute for one in result.slices])
    weights = np.array([one.log_size_error**-1.0 for one in result.slices])
    slope = np.polyfit(log_c[used], drawn.values[some, 0, used], 1, w=weights[used])[0]
    assert np.abs(result.laws.draws[:, 0, 1] - slope).min() < 1e-9


def test_the_spread_is_that_of_the_noise_also_for_huber() -> None:
    rows = isoflop_rows(SYMMETRIC, 9, 25, width=2, noise=2e-3)
    loss = rows.loss.copy()
    loss[::25] *= 1.05
    table = rows_from(rows.size, rows.tokens, loss, rows.compute)
    cuts, _ = cut_slices(table, None, 0.1, "parabola", "loss")
    ys = [cut.y for cut in cuts]

    def sigma(fits: list[Fit]) -> float:
        return float(np.sqrt(np.mean([one.sigma**2 for one in noise_by_slice(cuts, ys, fits)[0]])))

    assert sigma(fit_slices(cuts, ys, "parabola", "auto")) == pytest.approx(2e-3, rel=0.4)
    assert sigma(fit_slices(cuts, ys, "parabola", None)) > 6e-3
    clean = [cut.y for cut in cut_slices(rows_from(*rows.columns), None, 0.1, "parabola", "loss")[0]]
    tight = fit_slices(cuts, clean, "parabola", 1e-3)
    assert noise_by_slice(cuts, clean, tight)[1] == pytest.approx(2e-3, rel=0.2)


def test_groups_end_at_the_gap() -> None:
    values = np.array([0.30, 0.0, 0.09, 0.18, 0.295])
    assert list(group_close(values, 0.1)) == [1, 0, 0, 0, 1]
    assert list(group_close(values, 0.12)) == [0] * 5


def test_a_bad_slice_is_noisy_and_the_others_are_not() -> None:
    rows = isoflop_rows(SYMMETRIC, 9, 9, noise=1e-3)
    loss = rows.loss * np.where(rows.slices == 4, np.exp(0.05 * np.sin(7.0 * np.arange(81))), 1.0)
    result = isoflop(rows.size, rows.tokens, loss, slices=rows.slices, options=Options(draws=0))
    assert len(result.slices) == 9 and result.sigma == pytest.approx(1e-3, rel=0.4)
    clean = isoflop(*rows.columns, slices=rows.slices, options=Options(draws=0))
    ratio = np.array([s.log_size_error / c.log_size_error for s, c in zip(result.slices, clean.slices, strict=True)])
    assert ratio[4] > 5 and np.delete(ratio, 4) == pytest.approx(1, abs=0.2)
    assert result.laws is not None and result.laws.a.value == pytest.approx(0.5, abs=5e-3)
