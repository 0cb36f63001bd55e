from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from analysis.decisions.multiplier import MultiplierCurve, largest_observed, multiplier_curve
from analysis.fit import fit_law
from analysis.result import FitResult, plain
from analysis.rows.table import load
from analysis.simulation.simulator import COLUMNS, Noise, grid, simulate_rows
from analysis.simulation.surfaces import EARLY
from analysis.uncertainty.bootstrap import bootstrap

SIZES = tuple(np.geomspace(2e8, 6e9, 6))
TOKENS = tuple(np.geomspace(2e9, 6e11, 6))
FACTOR = 1.5
BUDGETS = np.geomspace(1e20, 3e21, 9)


def fit_of(params: dict[str, float], group: str, seed: int, noise: float = 0.002) -> FitResult:
    rows = simulate_rows("chinchilla", params, grid(SIZES, TOKENS), Noise(0.0, noise), group=group, seed=seed)
    sample, _ = load(rows, COLUMNS).sample(group, "loss")
    return bootstrap(fit_law(sample, "free", check=False), sample, 150)


@pytest.fixture(scope="module")
def fits() -> tuple[FitResult, FitResult]:
    """``slow`` needs 1.5 x the parameters and 1.5 x the tokens for the same loss, so 2.25 x the compute everywhere."""
    p = EARLY.params
    slower = p | {"A": p["A"] * FACTOR ** p["alpha"], "B": p["B"] * FACTOR ** p["beta"]}
    return fit_of(p, "fast", 0), fit_of(slower, "slow", 1)


@pytest.fixture(scope="module")
def curve(fits: tuple[FitResult, FitResult]) -> MultiplierCurve:
    found = multiplier_curve(*fits, BUDGETS)
    assert found is not None
    return found


def test_the_curve_is_that_of_the_surfaces(curve: MultiplierCurve) -> None:
    seen = curve.observed()
    assert seen.sum() >= 6
    value, low, high = (np.array(v) for v in (curve.value, curve.low, curve.high))
    np.testing.assert_allclose(value[seen], FACTOR**2, rtol=0.08)
    assert (np.array(curve.band_low)[seen] < FACTOR**2).all() and (np.array(curve.band_high)[seen] > FACTOR**2).all()
    assert (np.array(curve.band_low) <= low).all() and (low <= value).all()
    assert (value <= high).all() and (high <= np.array(curve.band_high)).all()


def test_seen_the_other_way_round_it_is_the_inverse(fits: tuple[FitResult, FitResult], curve: MultiplierCurve) -> None:
    turned = multiplier_curve(fits[1], fits[0], BUDGETS * FACTOR**2)
    assert turned is not None
    both = curve.observed() & turned.observed()
    np.testing.assert_allclose(np.array(curve.value)[both] * np.array(turned.value)[both], 1.0, rtol=0.02)


def test_more_than_was_tested_is_a_bound_and_not_a_number(fits: tuple[FitResult, FitResult]) -> None:
    fast, slow = fits
    top = slow.compute_range[1]
    found = multiplier_curve(fast, slow, np.geomspace(top / 8, top, 6))
    assert found is not None and found.mark[-1] == ">=" and found.mark[0] == ""
    assert found.value[-1] == pytest.approx(1.0) and found.open_high[-1] and not found.open_high[0]
    assert all(value * c <= top * (1 + 1e-9) for value, c in zip(found.high, found.compute, strict=True))
    below = multiplier_curve(slow, fast, np.geomspace(fast.compute_range[0], 4 * fast.compute_range[0], 4))
    assert below is not None and below.mark[0] == "<=" and below.open_low[0]


def test_the_largest_observed_budget_is_the_headline(curve: MultiplierCurve) -> None:
    item, at = largest_observed(curve, "slow")
    last = int(np.nonzero(curve.observed())[0][-1])
    assert item is not None and at == curve.compute[last] and item.value == curve.value[last]
    assert largest_observed(None, "slow") == (None, None)
    nowhere = replace(curve, at_edge=(True,) * len(curve.compute))
    assert largest_observed(nowhere, "slow") == (None, None)
    opened = replace(curve, open_high=(True,) * len(curve.compute))
    assert "high end lies outside the compute tested for slow" in largest_observed(opened, "slow")[0].why  # type: ignore[union-attr]


def test_it_is_a_table_and_survives_json(curve: MultiplierCurve) -> None:
    rows = curve.rows()
    assert len(rows) == 9 and rows[0]["compute"] == curve.compute[0]
    assert MultiplierCurve.from_dict(json.loads(json.dumps(plain(asdict(curve)), allow_nan=False))) == curve
