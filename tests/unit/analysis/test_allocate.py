from __future__ import annotations

import numpy as np
import pytest

from analysis.allocate import allocation_exponents, best_splits, fit_cost, frontier
from analysis.study import Study
from analysis.synthetic import Surface

SURFACE = Surface(1.8, 480.0, 2100.0, 0.35, 0.37)


def test_cost_is_recovered_from_exact_flops() -> None:
    size, tokens = np.repeat([1e4, 1e5, 1e6], 2), np.tile([1e6, 4e6], 3)
    scale, power, error = fit_cost(size, tokens, 9.0 * size**0.9 * tokens)
    assert (scale, power) == pytest.approx((9.0, 0.9)) and error < 1e-9
    assert fit_cost(size[:2], tokens[:2], 6 * size[:2] * tokens[:2])[:2] == pytest.approx((6.0, 1.0))


def test_frontier_is_the_closed_form_optimum() -> None:
    compute = np.geomspace(1e19, 1e22, 4)
    best = frontier(lambda n, d: SURFACE.loss(n, d)[None], compute, (6.0, 1.0, 0.0), (1e7, 1e11), (1e8, 1e13))
    a, b = allocation_exponents(np.array(SURFACE.alpha), np.array(SURFACE.beta))
    ratio = (SURFACE.alpha * SURFACE.A / (SURFACE.beta * SURFACE.B)) ** (1 / (SURFACE.alpha + SURFACE.beta))
    size = ratio * (compute / 6) ** float(a)
    np.testing.assert_allclose(best.size[0], size, rtol=0.07)
    np.testing.assert_allclose(best.loss[0], SURFACE.loss(size, compute / (6 * size)), rtol=3e-5)
    assert not best.at_edge.any() and float(a + b) == pytest.approx(1.0)


def test_frontier_never_leaves_the_tested_box() -> None:
    compute = np.array([1e8, 1e12, 1e30])
    best = frontier(lambda n, d: SURFACE.loss(n, d)[None], compute, (6.0, 1.0, 0.0), (1e4, 1e6), (1e5, 1e7))
    assert np.isnan(best.loss[0, [0, 2]]).all() and best.at_edge[0, [0, 2]].all()
    assert 1e4 <= best.size[0, 1] <= 1e6 and 1e5 <= best.tokens[0, 1] <= 1e7


def test_best_splits_of_a_fit_carry_intervals(study: Study) -> None:
    fit = study.fit("early", "avg", "known")
    assert fit is not None
    splits = best_splits(fit, np.geomspace(*fit.compute_range, 5)[1:-1])
    assert len(splits) == 3
    for split in splits:
        assert split.size.low <= split.size.value <= split.size.high
        assert split.loss.low < split.loss.value < split.loss.high
    assert splits[0].loss.value > splits[-1].loss.value
