from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.engine.jet import Column, Jet

X = np.array([0.7, 1.3, 2.9])
EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "sum and product": lambda a, b: a + b * X - a * b + 3.0 - a,
    "quotients": lambda a, b: a / b + X / a + b / X,
    "column to a power": lambda a, b: a * Column.of(X) ** -b,
    "power of a parameter": lambda a, b: a**2 + b**-0.5 + a**b + (a * X) ** b,
    "number to a power": lambda a, b: 2.0**a + X**b,
    "exp and log": lambda a, b: np.exp(-a * X) + np.log(a + b * X) + np.log1p(a) + np.expm1(b * X),
    "tanh, sqrt, square": lambda a, b: np.tanh(a * X) * np.sqrt(b) + np.square(a - b),
    "column first": lambda a, b: Column.of(X) * a + Column.of(X) / b - Column.of(X) + (1.0 - a),
    "norm of powers": lambda a, b: ((a * X**-b) ** (1 / b) + (b / X) ** (1 / a)) ** a,
    "sum over an axis": lambda a, b: (a[..., None] * np.exp(-b[..., None] * X[:, None] * X)).sum(axis=-1),
}


def jets(theta: np.ndarray) -> tuple[Jet, Jet]:
    one, two = (Jet(theta[:, i : i + 1], {i: 1.0}, {}) for i in range(2))
    return one, two


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_derivatives_match_finite_differences(name: str) -> None:
    f, step, wide = EXPRESSIONS[name], 1e-5, 1e-4
    theta = np.array([[0.8, 1.7], [1.9, 0.6]])

    def plain(at: np.ndarray) -> np.ndarray:
        return np.broadcast_to(f(at[:, :1], at[:, 1:]), (2, 3))

    jet = f(*jets(theta))
    np.testing.assert_allclose(np.broadcast_to(jet.value, (2, 3)), plain(theta), rtol=1e-14)
    for i in range(2):
        e = step * np.eye(2)[i]
        want = (plain(theta + e) - plain(theta - e)) / (2 * step)
        np.testing.assert_allclose(np.broadcast_to(jet.first.get(i, 0.0), (2, 3)), want, rtol=1e-7, atol=1e-9)
        for j in range(i, 2):
            e, d = wide * np.eye(2)[i], wide * np.eye(2)[j]
            mixed = plain(theta + e + d) - plain(theta + e - d) - plain(theta - e + d) + plain(theta - e - d)
            got = np.broadcast_to(jet.second.get((i, j), 0.0), (2, 3))
            np.testing.assert_allclose(got, mixed / (4 * wide**2), rtol=2e-4, atol=3e-6)


def test_absent_second_derivatives_say_what_is_linear() -> None:
    a, b = jets(np.array([[0.8, 1.7]]))
    assert set((a * X + b).second) == set()
    assert set((a * Column.of(X) ** -b).second) == {(0, 1), (1, 1)}


def test_an_operation_without_derivative_is_refused_by_name() -> None:
    a, _ = jets(np.array([[0.8, 1.7]]))
    with pytest.raises(TypeError, match="may not use np.maximum on a parameter; allowed are add"):
        np.maximum(a, 0.0)


def test_a_column_remembers_its_logarithm_and_leaves_its_source_alone() -> None:
    source = np.array([1.0, 10.0])
    source.flags.writeable = False
    column = Column.of(source)
    assert np.log(column) is column.log
    np.testing.assert_allclose(column ** np.array([[2.0]]), [[1.0, 100.0]])
    assert not isinstance(column * 2.0, Column)
