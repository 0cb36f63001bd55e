from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.decisions.optimum import SIX_ND, Landscape, has_closed_form, optimum, tolerated
from analysis.engine.law import Exponent, Law, Offset, Scale, law_from
from analysis.laws.catalogue import law_named
from analysis.simulation.surfaces import EARLY

RANGES = {"C": (1e19, 1e22), "N": (1e8, 1e10), "D": (1e9, 1e12)}
BUDGETS = np.geomspace(1e19, 1e24, 5)
CENTRE = {"N": 20.0, "D": 24.0}


@law_from(centre="A: alpha N, B: beta D", source="a test: the formula of chinchilla, with nothing known about it")
def searched(N: Any, D: Any, *, E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent) -> Any:
    """L = E + A / N^alpha + B / D^beta"""
    return E + A * N**-alpha + B * D**-beta


def theta_of(law: Law, count: int = 3) -> np.ndarray:
    point = law.to_working(np.array([[EARLY.params[name] for name in law.names]]), CENTRE)
    return (
        point
        + 0.02 * np.random.default_rng(0).standard_normal((count, law.num_params)) * (np.arange(count) > 0)[:, None]
    )


@pytest.mark.parametrize("cost", [SIX_ND, (9.0, 0.9, 0.0)])
def test_search_and_closed_form_agree(cost: tuple[float, float, float]) -> None:
    closed = Landscape(law_named("chinchilla"), CENTRE, cost, RANGES)
    blind = Landscape(searched, CENTRE, cost, RANGES)
    assert has_closed_form(closed.law) and not has_closed_form(searched)
    theta = theta_of(closed.law)
    a, b = optimum(closed, theta, BUDGETS), optimum(blind, theta, BUDGETS)
    assert (a.method, b.method) == ("closed form", "search") and b.found.all()
    np.testing.assert_allclose(b.size, a.size, rtol=1e-6)
    np.testing.assert_allclose(b.loss, a.loss, rtol=1e-12)
    np.testing.assert_allclose(closed.compute(a.size, a.tokens), np.tile(BUDGETS, (3, 1)), rtol=1e-12)
    np.testing.assert_allclose(a.loss[0], EARLY.loss(a.size[0], a.tokens[0]), rtol=1e-12)


def test_skaling_shares_the_split_of_chinchilla() -> None:
    law = law_named("skaling")
    params = EARLY.params | {"k": 0.7}
    theta = law.to_working(np.array([[params[name] for name in law.names]]), {})
    plain = law_named("chinchilla")
    other = plain.to_working(np.array([[EARLY.params[name] for name in plain.names]]), {})
    found, same = (optimum(Landscape(a, {}, SIX_ND, RANGES), t, BUDGETS) for a, t in ((law, theta), (plain, other)))
    np.testing.assert_allclose(found.size, same.size, rtol=1e-12)


def test_a_law_that_only_rewards_size_has_no_optimum() -> None:
    flat = Landscape(searched, {}, SIX_ND, RANGES)
    theta = searched.to_working(np.array([[1.0, 100.0, 0.5, 1e-20, 0.001]]), {})
    best = optimum(flat, theta, np.array([1e22]))
    assert not best.found.any() and np.isnan(best.loss).all()
    low, high = tolerated(flat, theta, best, np.array([1e22]), 1.0)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_tolerated_sizes_cost_exactly_that_much() -> None:
    land = Landscape(law_named("chinchilla"), CENTRE, SIX_ND, RANGES)
    theta = theta_of(land.law, 1)
    best = optimum(land, theta, BUDGETS)
    low, high = tolerated(land, theta, best, BUDGETS, 0.5)
    assert (low < best.size[0]).all() and (best.size[0] < high).all()
    for end in (low, high):
        np.testing.assert_allclose(EARLY.loss(end, BUDGETS / (6 * end)), 1.005 * best.loss[0], rtol=1e-9)
    without_end = tolerated(land, theta, best, BUDGETS, 1e9)
    assert (without_end[0] == 0).all() and np.isinf(without_end[1]).all()
    with pytest.raises(ValueError, match="must be positive"):
        tolerated(land, theta, best, BUDGETS, 0.0)


def test_further_columns_must_be_given() -> None:
    law = law_named("data_constrained")
    with pytest.raises(ValueError, match="also reads U: give its value"):
        Landscape(law, {}, SIX_ND, RANGES)
    with pytest.raises(ValueError, match="needs a law of both N and D"):
        Landscape(law_named("power_C"), {}, SIX_ND, RANGES)
    params = EARLY.params | {"R_D": 15.0, "R_N": 5.0}
    theta = law.to_working(np.array([[params[name] for name in law.names]]), {})
    unlimited = Landscape(law, {}, SIX_ND, RANGES, {"U": 1e16})
    limited = replace(unlimited, given={"U": 1e10})
    scarce, plenty = (optimum(land, theta, np.array([1e22])).loss[0, 0] for land in (limited, unlimited))
    best = optimum(Landscape(law_named("chinchilla"), {}, SIX_ND, RANGES), theta[:, :5], np.array([1e22]))
    assert plenty == pytest.approx(best.loss[0, 0], rel=1e-9) and scarce > plenty


def test_the_known_entropy_is_added() -> None:
    law = law_named("chinchilla_excess")
    theta = law.to_working(np.array([[EARLY.params[name] for name in law.names]]), {})
    land = Landscape(law, {}, SIX_ND, RANGES, added=EARLY.params["E"])
    best = optimum(land, theta, BUDGETS)
    np.testing.assert_allclose(best.loss[0], EARLY.loss(best.size[0], best.tokens[0]), rtol=1e-12)
