from __future__ import annotations

import json

import numpy as np
import pytest
from isoflop_rows import SPARSE, a_of, grid_rows, isoflop_rows

from analysis.approaches.envelope import Options as EnvelopeOptions
from analysis.approaches.envelope import envelope
from analysis.approaches.isoflop import Options, isoflop
from analysis.approaches.rows import Array
from analysis.approaches.summary import Parametric, ThreeWays, three_ways
from analysis.result import Interval

BUDGET = 1e23
TRUTH = np.array([SPARSE.E, SPARSE.A, SPARSE.B, SPARSE.alpha, SPARSE.beta])


def drawn_surfaces(count: int = 60) -> Array:
    draws = np.tile(TRUTH, (count, 1))
    draws[:, 3:] *= np.exp(0.01 * np.random.default_rng(0).standard_normal((count, 2)))
    return draws


@pytest.fixture(scope="module")
def table() -> ThreeWays:
    rows = isoflop_rows(SPARSE, width=8, noise=5e-4)
    curves = grid_rows(SPARSE, np.geomspace(1e8, 2e10, 12), np.geomspace(1e9, 3e12, 30), 5e-4)
    return three_ways(
        BUDGET,
        envelope=envelope(*curves.columns, options=EnvelopeOptions(draws=40)),
        isoflop=isoflop(*rows.columns, slices=rows.slices, options=Options(draws=200)),
        parametric=Parametric(SPARSE, (1e18, 1e22), draws=drawn_surfaces(), method="simulated fit"),
    )


def test_every_way_is_there_and_covers_the_exponents(table: ThreeWays) -> None:
    names = [way.name for way in table.ways]
    assert names == ["3 closed form", "3 regression", "2 isoFLOP", "2 isoFLOP, corrected", "1 envelope"]
    for way in table.ways:
        assert way.a is not None and way.b is not None
        assert way.a.low <= a_of(SPARSE) <= way.a.high and way.b.low <= 1 - a_of(SPARSE) <= way.b.high
        assert way.method not in ("", "none")
        assert (way.c is None) == (way.name == "3 closed form")


def test_the_bias_is_shown_and_corrected(table: ThreeWays) -> None:
    truth = float(SPARSE.optimum(BUDGET)[1])
    raw, fixed = (table.named(name).tokens for name in ("2 isoFLOP", "2 isoFLOP, corrected"))
    assert raw is not None and fixed is not None
    assert raw.high < truth and fixed.low < truth < fixed.high
    assert raw.value / truth - 1 == pytest.approx(-0.16, abs=0.02) and abs(fixed.value / truth - 1) < 0.02
    assert "-16" in table.named("2 isoFLOP, corrected").notes[-1]
    assert "factor of 10" in table.named("2 isoFLOP").at_why


def test_both_forms_of_approach_3_agree_under_6nd(table: ThreeWays) -> None:
    closed, regression = table.named("3 closed form"), table.named("3 regression")
    for name in ("a", "b", "size", "tokens"):
        one, other = getattr(closed, name), getattr(regression, name)
        assert one.value == pytest.approx(other.value, rel=1e-6)
        assert one.low == pytest.approx(other.low, rel=1e-5) and one.high == pytest.approx(other.high, rel=1e-5)
    assert closed.size is not None and closed.size.value == pytest.approx(float(SPARSE.optimum(BUDGET)[0]))


def test_refusals_and_notes_travel_with_their_way(table: ThreeWays) -> None:
    way = table.named("1 envelope")
    assert any("smallest size" in text for text in way.refusals) and any("whole sizes" in text for text in way.notes)
    one_slice = isoflop_rows(SPARSE, 1)
    alone = three_ways(BUDGET, isoflop=isoflop(*one_slice.columns), parametric=Parametric(SPARSE, (1e18, 1e22)))
    assert [w.name for w in alone.ways] == ["3 closed form", "3 regression", "2 isoFLOP"]
    assert alone.named("2 isoFLOP").a is None and "two are needed" in alone.named("2 isoFLOP").notes[-1]


def test_intervals_of_the_fit_replace_those_of_the_draws() -> None:
    mine = Interval(a_of(SPARSE), 0.30, 0.40)
    given = three_ways(BUDGET, parametric=Parametric(SPARSE, (1e18, 1e22), intervals={"a": mine}))
    closed = given.named("3 closed form")
    assert closed.a == mine and closed.b is not None and not closed.b.known and "no draws" in closed.b.why


def test_another_cost_has_no_closed_form() -> None:
    def late(size: Array, tokens: Array) -> Array:
        return 6 * tokens * (size + 5e7)

    found = three_ways(1e21, parametric=Parametric(SPARSE, (1e19, 1e21), cost=late, size_range=(1e6, 1e12)))
    assert [w.name for w in found.ways] == ["3 regression"]
    way = found.ways[0]
    assert way.size is not None and way.tokens is not None and way.a is not None and way.b is not None
    assert float(late(np.array(way.size.value), np.array(way.tokens.value))) == pytest.approx(1e21)
    assert abs(way.a.value - a_of(SPARSE)) > 0.01


def test_the_table_is_plain_json_and_names_its_rows(table: ThreeWays) -> None:
    values = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert [row["name"] for row in values["ways"]][-1] == "1 envelope" and values["ways"][0]["c"] is None
    with pytest.raises(ValueError, match="there are: 3 closed form"):
        table.named("4")
    with pytest.raises(ValueError, match="at least one"):
        three_ways(BUDGET)
    with pytest.raises(ValueError, match="positive"):
        three_ways(-1.0, parametric=Parametric(SPARSE, (1e18, 1e22)))
