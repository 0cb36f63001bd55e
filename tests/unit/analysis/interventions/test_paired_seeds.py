from __future__ import annotations

import math
from typing import Any

import made_up
import numpy as np
import pytest
from scipy import stats

from analysis.interventions.paired import by_seed, mean, means, paired, paired_all, sign_test, wilson
from analysis.interventions.rows import Data, RowsError

ONE = {"n": 120_000, "d": 8_000_000}


def rows_of(data: Data, **changes: Any) -> Data:
    return Data(data.study, tuple({**row, **changes} for row in data.rows))


def test_the_mean_has_students_interval() -> None:
    values = [1.0, 2.0, 4.0]
    found = mean(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.n == 3 and found.known


def test_one_number_has_no_interval_and_missing_ones_do_not_count() -> None:
    assert not mean([0.3]).known and mean([0.3]).n == 1
    assert mean([0.3, math.nan, 0.5]).n == 2
    with pytest.raises(ValueError, match="no number to average"):
        mean([math.nan])


def test_wilson_agrees_with_scipy_and_stays_inside() -> None:
    low, high = stats.binomtest(7, 40).proportion_ci(method="wilson")
    assert (wilson(7, 40).low, wilson(7, 40).high) == pytest.approx((low, high))
    assert wilson(0, 50).low == 0.0 and 0 < wilson(0, 50).high < 0.1
    with pytest.raises(ValueError, match="has 3 of 2"):
        wilson(3, 2)


def test_pairs_are_formed_by_seed_and_shared_noise_cancels() -> None:
    data = made_up.worth_two(own=1e-4, shared=0.05)
    gap = paired(data, "lowest", where=ONE)
    spread = np.std(list(by_seed(data, "lowest", where=ONE).values()), ddof=1)
    assert gap.difference.high - gap.difference.low < 0.5 * spread
    assert gap.outcome == "better" and gap.losses == 0 and gap.wins == 4
    lowest, control = (by_seed(data, arm, where=ONE) for arm in ("lowest", "control"))
    assert dict(gap.per_seed) == pytest.approx({seed: lowest[seed] - control[seed] for seed in lowest})


def test_better_means_lower_for_a_loss_and_higher_for_an_accuracy() -> None:
    data = made_up.worth_two(own=1e-4)
    loss, accuracy = paired(data, "lowest", where=ONE), paired(data, "lowest", "accuracy", where=ONE)
    assert loss.difference.value < 0 < accuracy.difference.value
    assert loss.outcome == accuracy.outcome == "better"
    assert paired(data, "control", control="lowest", where=ONE).outcome == "worse"


def test_further_columns_are_averaged_within_a_seed_which_stays_the_unit() -> None:
    data = made_up.worth_two()
    gap = paired(data, "lowest", by=("n", "d"))
    assert gap.difference.n == 4 and gap.wins == 4
    with pytest.raises(RowsError, match="arm lowest has several rows with seed 0: say which to pair"):
        paired(data, "lowest")


def test_a_family_is_corrected_for_its_size() -> None:
    gaps = paired_all(made_up.worth_two(), where=ONE)
    assert [gap.arm for gap in gaps] == ["lowest", "random"] and {gap.comparisons for gap in gaps} == {2}
    for gap in gaps:
        ratio = (gap.corrected.high - gap.corrected.low) / (gap.difference.high - gap.difference.low)
        assert ratio == pytest.approx(stats.t.ppf(1 - 0.025 / 2, 3) / stats.t.ppf(0.975, 3))
    assert gaps[1].outcome == "unresolved"


def test_only_seeds_of_both_arms_make_pairs() -> None:
    data = made_up.worth_two()
    part = Data(data.study, tuple(r for r in data.rows if r["arm"] != "lowest" or r["seed"] in (0, 1)))
    assert paired(part, "lowest", where=ONE).difference.n == 2
    alone = Data(data.study, (*data.where("control").rows, *rows_of(data.where("lowest"), seed=9).rows))
    with pytest.raises(RowsError, match="lowest and control share no seed with a number for loss"):
        paired(alone, "lowest", where=ONE | {"seed": (0, 1, 2, 3)})


def test_one_pair_gives_a_number_and_no_verdict() -> None:
    gap = paired(made_up.worth_two(seeds=1), "lowest", where=ONE)
    assert gap.outcome == "one seed" and not gap.difference.known and math.isfinite(gap.difference.value)


def test_the_sign_test_counts_both_tails() -> None:
    assert sign_test(3, 0) == 0.25 and sign_test(6, 0) == pytest.approx(0.03125) and sign_test(0, 0) == 1.0


def test_arms_without_a_number_have_no_mean() -> None:
    data = made_up.worth_two()
    nulled = Data(data.study, tuple({**r, "loss": None} if r["arm"] == "random" else r for r in data.rows))
    assert list(means(nulled, where=ONE)) == ["control", "lowest"]
