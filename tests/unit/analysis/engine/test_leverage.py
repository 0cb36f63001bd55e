from __future__ import annotations

import numpy as np
import pytest

from analysis.engine.leverage import MOST_LEVERAGE, covariance_of, left_out, scores_of

RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(24), RNG.standard_normal((24, 2))])
Y = X @ [1.0, 2.0, -1.0] + RNG.standard_normal(24)


def residual_of(rows: np.ndarray, y: np.ndarray = Y) -> np.ndarray:
    """Residuals of all rows from the least squares of ``rows`` alone."""
    return y - X @ np.linalg.lstsq(X[rows], y[rows], rcond=None)[0]


@pytest.mark.parametrize("codes", [np.arange(24), np.repeat(np.arange(6), 4), np.tile(np.arange(8), 3)])
def test_the_correction_is_the_residual_of_a_fit_without_the_group(codes: np.ndarray) -> None:
    everything = residual_of(np.arange(24))
    corrected = left_out(X, everything, codes)
    for group in np.unique(codes):
        here = codes == group
        np.testing.assert_allclose(corrected[here], residual_of(np.nonzero(~here)[0])[here], rtol=1e-10)


def test_half_the_correction_lies_between() -> None:
    everything, codes = residual_of(np.arange(24)), np.repeat(np.arange(6), 4)
    sizes = [np.sum(left_out(X, everything, codes, power) ** 2) for power in (0.0, 0.5, 1.0)]
    assert sizes[0] == pytest.approx(np.sum(everything**2)) and sizes[0] < sizes[1] < sizes[2]


def test_half_the_correction_is_unbiased_for_equal_noise() -> None:
    """HC2: the expected square of a corrected residual is the variance of the noise, row by row."""
    hat = X @ np.linalg.pinv(X)
    covariance = np.eye(24) - hat
    corrected = np.stack([left_out(X, column, np.arange(24), 0.5) for column in covariance.T], axis=1)
    np.testing.assert_allclose(np.sum(corrected**2, axis=1), 1.0, rtol=1e-10)


def test_a_group_that_alone_fixes_a_direction_stays_finite() -> None:
    lonely = np.column_stack([X, np.arange(24) == 5])
    corrected = left_out(lonely, np.ones(24), np.arange(24))
    assert corrected[5] == pytest.approx(1.0 / (1.0 - MOST_LEVERAGE)) and np.isfinite(corrected).all()


def test_the_covariance_is_nearly_the_jackknife_of_the_runs() -> None:
    codes = np.repeat(np.arange(6), 4)
    scores = scores_of(X, residual_of(np.arange(24)), codes)
    got = covariance_of(np.linalg.inv(X.T @ X), scores)
    without = np.stack([np.linalg.lstsq(X[codes != g], Y[codes != g], rcond=None)[0] for g in range(6)])
    around = without - np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(got, 5 / 6 * around.T @ around, rtol=1e-9)
