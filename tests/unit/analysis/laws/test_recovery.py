"""Every law is found from data alone: its parameters without noise, and with it no worse a point than scipy finds."""

from __future__ import annotations

import numpy as np
import pytest
from examples import EXAMPLES
from scipy.optimize import minimize

from analysis.engine.point import PointFit, fit_point
from analysis.engine.problem import derivatives


def fitted(name: str, noise: float) -> tuple[PointFit, np.ndarray, np.ndarray]:
    """The fit, its natural parameters and the true ones."""
    example = EXAMPLES[name]
    law, columns = example.law, example.columns
    centre = law.centre_of(columns)
    truth = np.array([[example.params[n] for n in law.names]])
    clean = law.loss(law.to_working(truth, example.centre), columns, example.centre)[0]
    drawn = noise * np.random.default_rng(4).standard_normal(len(clean))
    response = clean * np.exp(drawn) if law.positive else clean + drawn
    fit = fit_point(law, columns, centre, response, "log-mse" if law.positive else "lin-mse")
    return fit, law.to_natural(fit.theta[None], centre)[0], truth[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_noise_free_parameters_come_back(name: str) -> None:
    fit, found, truth = fitted(name, 0.0)
    assert fit.converged
    np.testing.assert_allclose(found, truth, rtol=1e-6)


@pytest.mark.parametrize("name", EXAMPLES)
def test_scipy_started_at_the_truth_finds_nothing_better(name: str) -> None:
    """The optimum nearest to the truth is the one to beat; scipy gets it for free, the fit has to search."""
    fit, _, truth = fitted(name, 0.003)
    problem, law = fit.problem, EXAMPLES[name].law
    start = law.to_working(truth[None], law.centre_of(EXAMPLES[name].columns))[0]
    scale = 1.0 / problem.values(start[None])[0]
    reached = minimize(
        lambda x: scale * problem.values(x[None])[0],
        np.clip(start, problem.low, problem.high),
        jac=lambda x: scale * derivatives(problem, x[None]).gradient[0],
        bounds=list(zip(problem.low, problem.high, strict=True)),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 3000, "maxfun": 6000},
    )
    assert fit.value <= reached.fun / scale * (1 + 1e-9)
    assert fit.value <= problem.values(start[None])[0]
