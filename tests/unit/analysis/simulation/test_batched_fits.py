from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.laws.catalogue import law_named
from analysis.rows.table import load
from analysis.simulation.batch import fit_batch, variance_components
from analysis.simulation.simulator import COLUMNS, Design, Noise, grid, repeated, responses, simulate_rows
from analysis.simulation.surfaces import EARLY, EARLY_SIZES, paper_design

LAW = law_named("chinchilla")


def drawn(design: Design, noise: Noise, count: int = 300, seed: int = 0) -> np.ndarray:
    return responses(LAW, EARLY.params, design, noise, count, seed)


def test_each_fit_of_a_batch_is_the_fit_alone() -> None:
    design, noise = paper_design(), Noise(0.0, 0.004)
    found = fit_batch(LAW, design.columns, drawn(design, noise, 1, 7), design.run, robust=False)
    rows = simulate_rows(LAW, EARLY.params, design, noise, seed=7)
    alone = fit_law(load(rows, COLUMNS).sample("simulated", "loss")[0], "free", check=False, objective="log-mse")
    np.testing.assert_allclose(found.theta[0], alone.theta, rtol=1e-6)
    assert alone.covariance is not None and found.freedom == 67 and found.converged.all()
    np.testing.assert_allclose(found.covariance[0], alone.covariance, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("design", "noise", "method"),
    [
        (paper_design(), Noise(0.0, 0.004), "sandwich over 72 rows"),
        (repeated(grid(EARLY_SIZES, [3e9, 1e10, 1e11, 5e11], one_run=True), 4), Noise(0.003, 0.001), "over 24 runs"),
        (grid(EARLY_SIZES, [3e9, 1e10, 1e11, 5e11], one_run=True), Noise(0.003, 0.001), "variances of 6 runs"),
    ],
)
def test_covariances_are_the_scatter_of_the_fits(design: Design, noise: Noise, method: str) -> None:
    found = fit_batch(LAW, design.columns, drawn(design, noise), design.run, start=EARLY.params)
    assert method in found.method
    alpha, beta = LAW.names.index("alpha"), LAW.names.index("beta")
    for at in (alpha, beta):
        scatter = 1.4826 * np.median(np.abs(found.theta[:, at] - np.median(found.theta[:, at])))
        assert np.median(np.sqrt(found.covariance[:, at, at])) == pytest.approx(scatter, rel=0.2)
    truth = LAW.to_working(np.array([[EARLY.params[name] for name in LAW.names]]), found.centre)[0]
    error = np.abs(found.theta[:, beta] - truth[beta]) / np.sqrt(found.covariance[:, beta, beta])
    assert 0.90 < np.mean(error < 1.96 * found.widening) <= 1.0


def test_variance_components_are_found_behind_a_fit() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(10), 6)
    noise = 0.02 * rng.standard_normal((2000, 10))[:, codes] + 0.005 * rng.standard_normal((2000, 60))
    jacobian = np.stack([np.ones(60), codes - 4.5, np.tile(np.arange(6.0), 10)], axis=1)
    residual = noise - noise @ np.linalg.pinv(jacobian).T @ jacobian.T
    run, row, freedom = variance_components(residual, jacobian, codes)
    assert np.mean(run) == pytest.approx(4e-4, rel=0.05) and np.mean(row) == pytest.approx(2.5e-5, rel=0.03)
    assert freedom in (7, 8)
    with pytest.raises(ValueError, match="2 runs cannot tell"):
        variance_components(residual[:, :12], jacobian[:12], codes[:12])


def test_too_few_rows_are_refused() -> None:
    design = grid(EARLY_SIZES[:5], [1e10])
    with pytest.raises(ValueError, match="5 parameters; 5 rows"):
        fit_batch(LAW, design.columns, drawn(design, Noise(), 2), design.run)
