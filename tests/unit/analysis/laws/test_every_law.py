"""What must hold for every law: exact derivatives, translations that invert, a design that identifies it, its kinds."""

from __future__ import annotations

import numpy as np
import pytest
from examples import EXAMPLES, Example

from analysis.engine.law import linear_params
from analysis.laws.catalogue import LAW_NAMES

OF_SCHEDULES = {"annealing", "multi_power"}
LINEAR = {
    "chinchilla": "E A B", "chinchilla_excess": "A B", "chinchilla_tied": "E A B", "skaling": "E", "kaplan": "",
    "interaction": "E K", "interaction_excess": "K", "farseer": "E B", "width_depth": "E A B C F",
    "power_C": "A", "power_C_offset": "E A", "power_N": "A", "power_N_offset": "E A", "power_D": "A",
    "power_D_offset": "E A", "power_C_shifted": "E A", "power_C_broken": "E A", "data_constrained": "E",
    "sparsity": "a b c d e", "granularity": "c g a b", "moe_joint": "a b c", "routed": "a b c d",
    "mixture_additive": "E A B", "mixture_joint": "E", "mixture_exponential": "c k", "mixed_modal": "C A B",
    "step_law_lr": "a b", "step_law_batch": "b", "accuracy_sigmoid": "a b", "error_exponential": "epsilon k",
}  # fmt: skip
every_law = pytest.mark.parametrize("name", EXAMPLES)


def test_every_law_of_the_catalogue_has_an_example_under_its_own_name() -> None:
    assert set(EXAMPLES) == set(LAW_NAMES) - OF_SCHEDULES
    for name, example in EXAMPLES.items():
        assert example.law.name == name
        assert set(example.params) == set(example.law.names)
        assert len(example.response) >= 40


@every_law
def test_the_law_says_what_it_is(name: str) -> None:
    law = EXAMPLES[name].law
    assert " = " in law.formula and "arXiv" in law.source and len(law.notes) > 20
    assert law.columns and set(law.columns) <= set(EXAMPLES[name].columns)


@every_law
def test_gradient_and_hessian_match_finite_differences(name: str) -> None:
    example, step = EXAMPLES[name], 1e-5
    law, ready = example.law, example.law.prepare(example.columns, example.centre)
    theta = example.theta + 0.01 * np.random.default_rng(0).uniform(-1, 1, example.theta.shape)
    jet = law.jet(theta, ready)
    count, rows = law.num_params, len(example.response)
    np.testing.assert_allclose(np.broadcast_to(jet.value, (1, rows)), law.value(theta, ready), rtol=1e-13)
    for i in range(count):
        ahead, behind = (theta + sign * step * np.eye(count)[i] for sign in (1, -1))
        slope = (law.value(ahead, ready) - law.value(behind, ready)) / (2 * step)
        close(jet.first.get(i, 0.0), slope, f"d {law.names[i]}")
        jets = [law.jet(at, ready) for at in (ahead, behind)]
        for j in range(count):
            up, down = (np.broadcast_to(one.first.get(j, 0.0), (1, rows)) for one in jets)
            got = jet.second.get((min(i, j), max(i, j)), 0.0)
            close(got, (up - down) / (2 * step), f"d2 {law.names[i]} {law.names[j]}")


def close(got: object, want: np.ndarray, where: str) -> None:
    """Within 1e-5 of the largest entry over the rows."""
    got = np.broadcast_to(np.asarray(got), want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max() + 1e-8, err_msg=where)


@every_law
def test_working_and_natural_parameters_invert(name: str) -> None:
    example = EXAMPLES[name]
    natural = example.law.to_natural(example.theta, example.centre)
    np.testing.assert_allclose(example.law.to_working(natural, example.centre), example.theta, rtol=1e-10, atol=1e-10)
    if not example.law.loose:
        want = [example.params[n] for n in example.law.names]
        np.testing.assert_allclose(natural[0], want, rtol=1e-10)


@every_law
def test_centring_does_not_change_the_law(name: str) -> None:
    example = EXAMPLES[name]
    columns = {c: np.asarray(v) for c, v in example.columns.items()}
    if example.law.loose:
        columns = {c: v / np.exp(example.centre.get(c, 0.0)) for c, v in columns.items()}
    arrays = [columns[c] for c in example.law.columns]
    direct = example.law.function(*arrays, **{n: np.array([[v]]) for n, v in example.params.items()})
    direct = np.exp(direct) if example.law.log_value else direct
    np.testing.assert_allclose(example.response, direct[0], rtol=1e-11)


@every_law
def test_parameters_lie_inside_their_bounds_and_where_the_search_looks(name: str) -> None:
    example = EXAMPLES[name]
    linear = LINEAR[name].split()
    for value, (low, high), (parameter, kind) in zip(
        example.theta[0], example.law.bounds, example.law.params.items(), strict=True
    ):
        assert low < value < high, parameter
        if parameter not in linear:
            inside = np.exp(value) if kind.log else value
            assert kind.search[0] < inside < kind.search[1], f"{parameter} = {inside}: search {kind.search}"


@every_law
def test_linear_parameters_are_found(name: str) -> None:
    example = EXAMPLES[name]
    ready = example.law.prepare(example.columns, example.centre)
    assert linear_params(example.law, ready) == tuple(n for n in example.law.names if n in LINEAR[name].split())


@every_law
def test_the_design_identifies_every_parameter(name: str) -> None:
    """Columns of the Jacobian, scaled to length one, are far from dependent."""
    assert condition(EXAMPLES[name]) < 1e5


def condition(example: Example) -> float:
    """Condition number of the scaled Jacobian of the response at the truth."""
    jet = example.law.jet(example.theta, example.law.prepare(example.columns, example.centre))
    rows = len(example.response)
    jacobian = np.stack([np.broadcast_to(jet.first[i], (1, rows))[0] for i in range(example.law.num_params)], axis=1)
    return float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0)))


@every_law
def test_derived_quantities_are_finite_and_follow_draws(name: str) -> None:
    law, params = EXAMPLES[name].law, EXAMPLES[name].params
    if law.derived is None:
        return
    one = law.derived({n: np.array([v]) for n, v in params.items()})
    many = law.derived({n: np.array([v, v]) for n, v in params.items()})
    for key, value in one.items():
        assert value.shape == (1,) and np.isfinite(value).all(), key
        assert key not in law.names
        np.testing.assert_array_equal(many[key], np.repeat(value, 2))
