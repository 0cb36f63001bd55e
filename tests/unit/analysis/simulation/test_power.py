from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.result import Interval
from analysis.simulation.power import PowerRow, growing, power, runs_needed
from analysis.simulation.simulator import Noise, grid, isoflop, rows_design
from analysis.simulation.surfaces import EARLY, LATE, SPARSE, Truth, paper_design

SMALL = grid([3e8, 6e8, 1.2e9, 2.4e9], [5e9, 2e10, 8e10, 3.2e11])
NOISE = Noise(0.0, 0.004)


def shifted(factor: float) -> Truth:
    """Early with its data term raised: above it everywhere."""
    return replace(EARLY, name="worse", params=EARLY.params | {"B": EARLY.params["B"] * factor})


def test_equal_laws_are_hardly_ever_told_apart() -> None:
    for question in ("loss", "beta"):
        (row,) = power(EARLY, EARLY, [paper_design()], NOISE, question=question, simulations=200)
        assert row.truth == "equal" and row.effect == 0.0 and row.right.value == 0.0
        assert row.wrong.value < 0.09 and row.wrong.low < 0.05
        assert row.wrong.value + row.undecided.value == pytest.approx(1.0)


def test_more_seeds_make_a_real_difference_clear() -> None:
    rows = power(EARLY, shifted(1.02), growing(SMALL, (1, 4, 12)), NOISE, simulations=200)
    shares = [row.right.value for row in rows]
    assert shares == sorted(shares) and shares[0] < 0.5 < 0.8 < shares[-1]
    assert all(row.truth == "left" and row.wrong.value < 0.05 for row in rows)
    assert [row.runs for row in rows] == [32, 128, 384] and rows[1].flops == pytest.approx(4 * rows[0].flops)
    assert rows[2].spread == pytest.approx(rows[0].spread / 12**0.5, rel=0.25)
    assert runs_needed(rows) is not None and runs_needed(rows).runs in (128, 384)  # type: ignore[union-attr]
    assert 0.002 < rows[0].effect < 0.01


def test_a_large_difference_needs_one_seed_and_the_sign_follows_the_order() -> None:
    (ahead,), (behind,) = (
        power(*pair, [SMALL], NOISE, simulations=40) for pair in ((EARLY, shifted(1.5)), (shifted(1.5), EARLY))
    )
    assert (ahead.truth, behind.truth) == ("left", "right")
    assert ahead.right.value == behind.right.value == 1.0 and ahead.right.low > 0.9


def test_a_quantity_can_be_the_question() -> None:
    (alpha,) = power(EARLY, SPARSE, [SMALL], Noise(0.0, 0.002), question="alpha", simulations=60)
    assert alpha.truth == "left" and alpha.effect == pytest.approx(0.409) and alpha.right.value > 0.9
    (loss,) = power(EARLY, shifted(1.5), [SMALL], NOISE, question="loss(N=1e9, D=2e10)", simulations=60)
    assert loss.right.value == 1.0 and loss.effect > 0.05


def test_runs_with_checkpoints_and_two_designs() -> None:
    trunks = grid([3e8, 6e8, 1.2e9, 2.4e9], [5e9, 2e10, 8e10, 3.2e11], seeds=4, one_run=True)
    (row,) = power(EARLY, shifted(1.5), [(trunks, SMALL)], Noise(0.004, 0.001), simulations=40, labels=["mixed"])
    assert row.label == "mixed" and row.runs == 16 + 16 and row.right.value > 0.9


def test_the_same_seed_gives_the_same_shares() -> None:
    one, again = (power(EARLY, LATE, [SMALL], NOISE, simulations=40, seed=3) for _ in range(2))
    assert one == again
    heard: list[str] = []
    power(EARLY, LATE, [SMALL], NOISE, simulations=20, on_design=heard.append)
    assert heard == ["16 + 16 runs"]


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        power(EARLY, LATE, [SMALL], NOISE, simulations=5)
    with pytest.raises(ValueError, match="overlaps by less than a factor of 2"):
        power(EARLY, LATE, [(isoflop([1e18, 1.5e18]), isoflop([1e24, 1.5e24]))], NOISE, simulations=20)
    with pytest.raises(ValueError, match="no column N"):
        power(EARLY, LATE, [rows_design(C=[1e18, 1e19])], NOISE, simulations=20)
    with pytest.raises(ValueError, match="no quantity 'gamma'"):
        power(EARLY, LATE, [SMALL], NOISE, question="gamma", simulations=20)


def test_runs_needed_wants_the_share_to_last() -> None:
    def row(runs: int, share: float) -> PowerRow:
        item = Interval(share, share, share)
        return PowerRow("", runs, 0.0, 100, item, item, item, "left", 0.1, 0.1)

    assert runs_needed([row(10, 0.9), row(20, 0.7), row(40, 0.85), row(80, 0.95)]).runs == 40  # type: ignore[union-attr]
    assert runs_needed([row(10, 0.2)]) is None
