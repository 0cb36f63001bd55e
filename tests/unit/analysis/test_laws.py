from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import Law, center_of, chinchilla, interaction, law_named
from analysis.solver import Problem, derivatives, huber, jacobian
from analysis.synthetic import Surface

LAWS = [chinchilla(), chinchilla(offset=False), interaction(), interaction(offset=False)]
SIZE = np.repeat([2e4, 6e4, 3e5], 3)
TOKENS = np.tile([1e6, 3e6, 1e7], 3)
CENTER = center_of(SIZE, TOKENS)


def example(law: Law, count: int = 4) -> np.ndarray:
    """Working parameters (count, P) well inside the bounds."""
    rng = np.random.default_rng(5)
    middle = {"E": 0.4, "A": -1.0, "B": -1.2, "K": -0.7, "alpha": 0.5, "beta": 0.4, "gamma": 0.05}
    theta = np.array([middle[name] for name in law.names])
    return theta * (1 + 0.1 * rng.standard_normal((count, law.num_params)))


def problem_of(law: Law, count: int, delta: float) -> Problem:
    rng = np.random.default_rng(7)
    design = law.design(np.log(SIZE), np.log(TOKENS), CENTER)
    low, high = np.array(law.bounds).T
    return Problem(design, law.offset, rng.normal(-0.2, 0.3, 9), rng.uniform(0.5, 2, (count, 9)), delta, low, high)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_natural_and_working_parameters_are_inverse(law: Law) -> None:
    theta = example(law)
    natural = law.to_natural(theta, CENTER)
    np.testing.assert_allclose(law.to_working(natural, CENTER), theta, rtol=1e-10)
    assert law_named(law.name).names == law.names and len(law.names) == law.num_params == len(law.bounds)


def test_chinchilla_is_the_formula() -> None:
    surface = Surface(0.3, 150.0, 210.0, 0.64, 0.45)
    law = chinchilla()
    theta = law.to_working(np.array([[0.3, 150.0, 0.64, 210.0, 0.45]]), CENTER)
    np.testing.assert_allclose(law.loss(theta, SIZE, TOKENS, CENTER)[0], surface.loss(SIZE, TOKENS), rtol=1e-12)


def test_interaction_is_the_formula() -> None:
    law = interaction()
    theta = law.to_working(np.array([[0.3, 0.5, 0.2, 0.4, 0.07]]), CENTER)
    n, d = SIZE / np.exp(CENTER[0]), TOKENS / np.exp(CENTER[1])
    want = 0.3 + 0.5 * n**-0.2 * d ** -(0.4 + 0.07 * np.log(n))
    np.testing.assert_allclose(law.loss(theta, SIZE, TOKENS, CENTER)[0], want, rtol=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("delta", [np.inf, 0.2])
def test_derivatives_match_finite_differences(law: Law, delta: float) -> None:
    theta, step = example(law), 1e-6
    problem = problem_of(law, len(theta), delta)
    _, gradient, hessian, metric = derivatives(problem, theta)
    for j in range(law.num_params):
        move = np.zeros(law.num_params)
        move[j] = step
        up, gradient_up, _, _ = derivatives(problem, theta + move)
        down, gradient_down, _, _ = derivatives(problem, theta - move)
        np.testing.assert_allclose((up - down) / (2 * step), gradient[:, j], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose((gradient_up - gradient_down) / (2 * step), hessian[:, j], rtol=1e-4, atol=1e-6)
    assert (np.linalg.eigvalsh(metric) > -1e-10).all()


def test_offset_may_be_exactly_zero() -> None:
    law = chinchilla()
    theta = example(law, 1)
    theta[0, 0] = 0.0
    log_loss, jac, _ = jacobian(problem_of(law, 1, np.inf), theta)
    np.testing.assert_allclose(jac[0, :, 0], np.exp(-log_loss[0]))


def test_huber_is_quadratic_inside_and_linear_outside() -> None:
    residual = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(huber(residual, 1.0), [2.5, 0.125, 0.0, 0.125, 2.5])
    np.testing.assert_allclose(huber(residual, np.inf), residual**2 / 2)


def test_unknown_law_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown law 'kaplan'; the laws are: chinchilla"):
        law_named("kaplan")
