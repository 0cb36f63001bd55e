from __future__ import annotations

from typing import Any

import made_up
import numpy as np
import pytest

from analysis.interventions import compose, curve
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, OBSERVED
from analysis.interventions.rows import Data, RowsError

ONE = {"n": 50_000}
QUIET: dict[str, Any] = {"own": 1e-6, "shared": 0.0, "charged": 0.0}
TOKENS = tuple(500_000 * 2**k for k in range(6))


def test_a_ladder_has_its_rungs_by_cost_and_its_seeds() -> None:
    found = curve.ladder(made_up.worth_two(), "lowest", where=ONE)
    assert len(found.cost) == 4 and found.seeds == (0, 1, 2, 3) and found.values.shape == (4, 4)
    assert found.cost[0] == pytest.approx(6 * 50_000 * 1e6 + 2e11)
    assert np.all(found.low < found.mean) and np.all(found.mean < found.high)
    assert found.axis == "total cost, charged FLOPs included (FLOPs)" and found.unit == "FLOPs"


def test_twice_the_data_at_every_rung_is_a_multiplier_of_two() -> None:
    worth = curve.multiplier(made_up.worth_two(tokens=TOKENS, **QUIET), "lowest", where=ONE)
    assert (
        worth.mark[:4] == (OBSERVED,) * 4 and worth.mark[5] == AT_LEAST
    )  # the last, doubled, lies beyond the control's
    assert worth.value[:5] == pytest.approx(2.0, rel=1e-3) and worth.value[5] == pytest.approx(1.0)
    assert worth.outcome == "better" and worth.rungs


def test_charged_flops_are_part_of_the_arms_cost() -> None:
    free = made_up.worth_two(tokens=TOKENS, own=1e-6, shared=0.0, charged=0.0)
    paid = made_up.worth_two(tokens=TOKENS, own=1e-6, shared=0.0, charged=3e11)
    one = curve.multiplier(free, "lowest", where=ONE)
    two = curve.multiplier(paid, "lowest", where=ONE)
    assert two.value[:5] == pytest.approx(one.value[:5] * one.cost[:5] / (one.cost[:5] + 3e11), rel=1e-6)
    without = curve.multiplier(paid, "lowest", axis="flops", where=ONE)
    assert without.value == pytest.approx(one.value)


def test_another_axis_counts_what_it_names() -> None:
    worth = curve.multiplier(
        made_up.worth_two(tokens=TOKENS, **QUIET), "lowest", axis="d", axis_label="labels used (images)", where=ONE
    )
    assert worth.unit == "images" and worth.value[0] == pytest.approx(2.0, rel=1e-4)
    assert "images" in worth.sentence()


def test_higher_is_better_gives_the_same_multiplier() -> None:
    data = made_up.worth_two(tokens=TOKENS, **QUIET)
    loss, accuracy = (curve.multiplier(data, "lowest", metric, where=ONE) for metric in ("loss", "accuracy"))
    assert accuracy.mark == loss.mark and accuracy.value[:5] == pytest.approx(loss.value[:5], rel=1e-3)


def test_beyond_the_controls_range_there_is_a_bound_and_no_number() -> None:
    data = made_up.worth_two(tokens=TOKENS, **QUIET)
    short = Data(data.study, tuple(r for r in data.rows if r["arm"] != "control" or r["d"] <= 2_000_000))
    best = curve.multiplier(short, "lowest", where=ONE)
    assert best.mark[-1] == AT_LEAST and best.value[-1] == pytest.approx(0.125)
    assert best.sign[-1] == 0  # "at least 0.125" proves nothing
    assert best.text(len(best.cost) - 1) == ">= 0.13"
    late = Data(data.study, tuple(r for r in data.rows if r["arm"] != "control" or r["d"] >= 8_000_000))
    worst = curve.multiplier(late, "lowest", where=ONE)
    assert worst.mark[0] == AT_MOST and worst.value[0] == pytest.approx(16.0) and worst.sign[0] == 0


def test_an_arm_never_seen_at_a_result_of_the_control_is_not_comparable() -> None:
    data = made_up.worth_two(tokens=TOKENS, **QUIET)
    apart = Data(
        data.study,
        tuple(r for r in data.rows if (r["d"] <= 1_000_000 if r["arm"] == "lowest" else r["d"] >= 4_000_000)),
    )
    worth = curve.multiplier(apart, "lowest", where=ONE)
    assert worth.outcome == "not comparable" and worth.headline()[0] is None
    assert "never tested at the same loss" in worth.sentence()


def test_an_arm_that_is_always_better_has_a_bound_for_a_number() -> None:
    data = made_up.worth_two(tokens=TOKENS, **QUIET)
    ahead = Data(
        data.study,
        tuple(r for r in data.rows if (r["d"] >= 4_000_000 if r["arm"] == "lowest" else r["d"] <= 4_000_000)),
    )
    cheap = Data(ahead.study, tuple({**r, "flops": r["flops"] / 8} if r["arm"] == "lowest" else r for r in ahead.rows))
    worth = curve.multiplier(cheap, "lowest", where=ONE)
    assert worth.outcome == "better" and set(worth.mark) == {AT_LEAST} and worth.headline()[0] is None
    verdict = compose.multiplier_verdict(worth, "?")
    assert verdict.numbers == (">= 8 at 1.5e11 FLOPs",)


def test_two_seeds_give_a_number_without_an_interval() -> None:
    worth = curve.multiplier(made_up.worth_two(seeds=2), "lowest", where=ONE)
    assert worth.outcome == "no interval" and not worth.has_interval and worth.basis.startswith("2 shared seeds")
    assert "[" not in worth.text(0)


def test_shared_noise_of_a_seed_cancels_when_seeds_are_resampled_together() -> None:
    data = made_up.worth_two(seeds=5, tokens=TOKENS, **QUIET)
    luck = (0.97, 1.02, 1.0, 0.99, 1.03)  # of a seed, the same for both arms
    together = Data(data.study, tuple({**r, "loss": r["loss"] * luck[r["seed"]]} for r in data.rows))
    apart = Data(
        together.study,
        tuple({**r, "seed": r["seed"] + 100} if r["arm"] == "lowest" else r for r in together.rows),
    )
    paired, alone = (curve.multiplier(data, "lowest", where=ONE) for data in (together, apart))
    assert paired.basis == "5 seeds resampled together" and alone.basis == "5 and 5 seeds resampled apart"
    assert paired.value == pytest.approx(alone.value)
    widths = [np.log(w.high[1] / w.low[1]) for w in (paired, alone)]
    assert widths[0] < 0.2 * widths[1]


def test_a_dip_of_the_control_is_smoothed_and_never_counted_twice() -> None:
    values = np.array([[0.0, 3.0, 2.0, 4.0]])
    assert curve.monotone(values).tolist() == [[0.0, 2.5, 2.5, 4.0]]
    reached = curve.equivalent_cost(curve.monotone(values), np.arange(4.0), np.array([[-1.0, 1.25, 2.5, 3.25, 9.0]]))
    assert reached.tolist() == [[0.0, 0.5, 1.0, 2.5, 3.0]]


def test_every_resample_of_few_seeds_is_drawn_once() -> None:
    draws = curve.seed_draws(3)
    assert len(draws) == 27 and np.all(draws.sum(axis=1) == 3)
    assert np.array_equal(curve.seed_draws(9), curve.seed_draws(9)) and len(curve.seed_draws(9)) == curve.DRAWS


def test_a_rung_that_some_seeds_lack_is_dropped_or_averaged_over_the_others() -> None:
    data = made_up.worth_two(tokens=TOKENS, **QUIET)
    missing = Data(data.study, tuple(r for r in data.rows if not (r["d"] == TOKENS[2] and r["seed"] == 0)))
    worth = curve.multiplier(missing, "lowest", where=ONE)
    assert len(worth.cost) == 6 and worth.value[:5] == pytest.approx(2.0, rel=1e-3)


def test_two_rows_of_a_seed_on_one_rung_are_refused() -> None:
    data = made_up.worth_two(charged=0.0)
    doubled = Data(data.study, (*data.rows, *data.rows))
    with pytest.raises(RowsError, match="arm control, seed 0 has two rows at total"):
        curve.ladder(doubled, "control", where=ONE)
    with pytest.raises(RowsError, match="control has one rung of total"):
        curve.multiplier(data, "lowest", where=ONE | {"d": 1_000_000})
    with pytest.raises(RowsError, match="arm control has no row with a positive steps"):
        curve.ladder(Data(data.study, tuple({**r, "steps": 0} for r in data.rows)), "control", axis="steps")


def test_rungs_may_be_named_when_costs_wander() -> None:
    data = made_up.worth_two(charged=0.0)
    wander = Data(data.study, tuple({**r, "flops": r["flops"] * (1 + 0.2 * r["seed"])} for r in data.rows))
    assert len(curve.ladder(wander, "control", where=ONE).cost) > 4
    assert len(curve.ladder(wander, "control", rung="d", where=ONE).cost) == 4
