"""How a law says that its parameters move when a column is divided by its geometric mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from examples import EXAMPLES

from analysis.engine.jet import Column, Jet
from analysis.engine.law import Exponent, Scale, Signed, law_from

COLUMNS = {"N": np.geomspace(1e6, 1e9, 5), "D": np.geomspace(1e8, 1e11, 5)}


@law_from(centre="A: alpha N, c: -alpha N, x: 1 N, D", source="test")
def mixed(N: Any, D: Any, *, A: Scale, alpha: Exponent, c: Signed, x: Scale) -> Any:
    """L = A / N^alpha + c N^alpha / (N + x) + D"""
    return A * N**-alpha + c * N**alpha * (N / (N + x)) + D


def test_scales_signed_coefficients_and_shifts_translate() -> None:
    centre = mixed.centre_of(COLUMNS)
    assert mixed.centred == ("N", "D") and centre["N"] == pytest.approx(np.log(COLUMNS["N"]).mean())
    natural = np.array([[300.0, 0.3, -2.0, 5e7]])
    theta = mixed.to_working(natural, centre)
    np.testing.assert_allclose(mixed.to_natural(theta, centre), natural, rtol=1e-12)
    at = dict(zip(mixed.names, natural[:, :, None].transpose(1, 0, 2), strict=True))
    there = COLUMNS["D"] / np.exp(centre["D"])
    direct = mixed.function(Column.of(COLUMNS["N"]), there, **at)
    np.testing.assert_allclose(mixed.loss(theta, COLUMNS, centre), direct, rtol=1e-12)


def test_a_column_takes_the_unit_of_another() -> None:
    example = EXAMPLES["data_constrained"]
    assert example.centre["U"] == example.centre["D"] == pytest.approx(np.log(example.columns["D"]).mean())


def test_pinning_a_coefficient_drops_its_centring_and_what_goes_with_it() -> None:
    law = EXAMPLES["data_constrained"].law
    assert law.centred == ("N", "D", "U")
    assert law.pinned(["B"]).centred == ("N",)
    assert law.pinned(["R_D"]).centred == law.centred
    assert EXAMPLES["interaction"].law.pinned(["K"]).centred == ("N", "D")


@pytest.mark.parametrize("centre", ["A: alpha M", "A: beta N", "Z: alpha N", "M", "N as M", "A: alpha", "A: x1 N"])
def test_a_centre_of_unknown_names_is_refused(centre: str) -> None:
    with pytest.raises(ValueError, match="'column as column' with its own names"):

        @law_from(centre=centre, source="test")
        def bad(N: Any, *, A: Scale, alpha: Exponent) -> Any:
            """L = A / N^alpha"""
            return A * N**-alpha


def test_the_smaller_of_two_has_the_derivatives_of_the_smaller() -> None:
    a, b = (Jet(np.array([[2.0]]), {i: 1.0}, {}) for i in range(2))
    x = np.array([1.0, 3.0, 5.0])
    low = np.minimum(a * b, x)
    np.testing.assert_array_equal(low.value, [[1.0, 3.0, 4.0]])
    np.testing.assert_array_equal(low.first[0], [[0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(low.second[0, 1], [[0.0, 0.0, 1.0]])
    both = np.minimum(Column.of(x), a**2) + np.minimum(a * x, b**3)
    np.testing.assert_array_equal(both.value, [[1.0 + 2.0, 3.0 + 6.0, 4.0 + 8.0]])
    np.testing.assert_array_equal(both.first[0], [[0.0 + 1.0, 0.0 + 3.0, 4.0 + 0.0]])
    np.testing.assert_array_equal(both.first[1], [[0.0, 0.0, 12.0]])
