from __future__ import annotations

from dataclasses import replace
from typing import Any

import made_up
import numpy as np
import pytest
from scipy import stats

from analysis.fit import FitError
from analysis.interventions import budget, lawcheck, lawfit
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, OBSERVED
from analysis.interventions.rows import Data, Metric, RowsError
from analysis.interventions.samples import sample_of
from analysis.laws.arms import arm_labels, arms_own
from analysis.simulation.interventions import TRUTH, Setup, study, true_loss

DRAWS = 60


@pytest.fixture(scope="module")
def laws() -> lawfit.ArmLaws:
    """Arm "lowest" is worth 2, "random" 1; three seeds; nothing charged."""
    return lawfit.fit_arms(study(Setup({"lowest": 2.0, "random": 1.0}), seed=1), draws=DRAWS)


def without_noise(**options: Any) -> Data:
    return study(Setup({"lowest": 2.0, "half": 0.5}, own=0.0, shared=0.0, **options))


def test_without_noise_the_law_and_the_multipliers_are_the_truth() -> None:
    found = lawfit.fit_arms(without_noise(seeds=1), draws=20, own_beta=False)
    assert found.fit.params == pytest.approx(
        {k: TRUTH[k] for k in ("E", "A", "alpha", "beta")}
        | {"B_control": 300.0, "B_lowest": 300.0 / 2**0.4, "B_half": 300.0 / 0.5**0.4},
        rel=1e-3,
    )
    assert found.data_multiplier("lowest").value == pytest.approx(2.0, rel=1e-3)
    assert found.data_multiplier("half").value == pytest.approx(0.5, rel=1e-3)


def test_the_intervals_hold_the_truth_and_name_the_effect(laws: lawfit.ArmLaws) -> None:
    two, one = laws.data_multiplier("lowest"), laws.data_multiplier("random")
    assert two.low < 2.0 < two.high and two.high / two.low < 1.5
    assert one.low < 1.0 < one.high
    worth, nothing = laws.compute_multiplier("lowest"), laws.compute_multiplier("random")
    assert worth.outcome == "better" and "lowest is cheaper than control at" in worth.sentence()
    assert nothing.outcome == "no effect"
    assert "No effect in this range" in nothing.sentence() and "does not exclude 1" in nothing.sentence()
    item, at = worth.headline()
    assert item is not None and item.known and item.low < item.value < item.high and worth.cost[0] < at < worth.cost[-1]


def test_the_band_is_wider_than_the_pointwise_interval(laws: lawfit.ArmLaws) -> None:
    worth = laws.compute_multiplier("lowest")
    seen = worth.observed()
    assert np.all(worth.band_low[seen] <= worth.low[seen]) and np.all(worth.high[seen] <= worth.band_high[seen])
    assert np.all(worth.low[seen] <= worth.value[seen]) and np.all(worth.value[seen] <= worth.high[seen])
    assert AT_LEAST in worth.mark  # at its largest budgets the arm is better than the control ever was
    assert np.all(worth.value[[m == AT_LEAST for m in worth.mark]] < 2.0)


def test_a_charge_eats_the_gain_at_small_budgets_and_fades_at_large_ones() -> None:
    data = study(Setup({"lowest": 2.0}, charged=4e11, own=0.002, shared=0.002), seed=2)
    free, paid = (lawfit.fit_arms(d, draws=DRAWS, own_beta=False) for d in (_uncharged(data), data))
    assert free.data_multiplier("lowest").value == paid.data_multiplier("lowest").value
    one, two = (f.compute_multiplier("lowest") for f in (free, paid))
    assert two.cost[0] > 4e11 and two.value[0] < 1.0
    k, at = 20, two.cost[20]
    without = np.exp(np.interp(np.log(at - 4e11), np.log(one.cost), np.log(one.value)))
    assert two.mark[k] == OBSERVED and two.value[k] == pytest.approx(without * (at - 4e11) / at, rel=0.01)


def _uncharged(data: Data) -> Data:
    return Data(data.study, tuple({**row, "charged": 0.0} for row in data.rows))


def test_an_arm_that_is_never_that_good_costs_more() -> None:
    found = lawfit.fit_arms(study(Setup({"half": 0.4}), seed=4), draws=DRAWS, own_beta=False)
    worth = found.compute_multiplier("half")
    assert worth.outcome == "worse" and worth.mark[0] == AT_MOST


def test_a_data_exponent_of_its_own_is_found_and_both_laws_are_kept() -> None:
    setup = Setup(
        {"faster": 1.0}, betas={"faster": 0.46}, own=0.003, shared=0.003, sizes=(20_000, 50_000, 120_000, 300_000)
    )
    found = lawfit.fit_arms(study(setup, seed=5), draws=DRAWS)
    assert found.own_beta and found.own is found.fit and "faster differs from the control's" in found.why
    assert found.fit.params["beta_faster"] - found.fit.params["beta_control"] == pytest.approx(0.06, abs=0.02)
    curve = found.data_curve("faster")
    assert np.all(np.diff(np.log(curve.value[curve.observed()])) > 0)  # worth more, the more data
    assert lawfit.differing(found.own) == ("faster",)


def test_equal_exponents_stay_shared(laws: lawfit.ArmLaws) -> None:
    assert not laws.own_beta and laws.fit is laws.shared
    assert laws.own is not None and "none differs" in laws.why
    curve = laws.data_curve("lowest")
    assert curve.value[0] == pytest.approx(laws.data_multiplier("lowest").value)
    asked = lawfit.fit_arms(study(Setup({"lowest": 2.0}), seed=1), draws=20, own_beta=True)
    assert asked.own_beta and asked.why.endswith("as asked for.")


def test_one_size_has_a_law_in_data_alone() -> None:
    data = study(Setup({"lowest": 2.0}, sizes=(50_000,), tokens=[2**k * 500_000 for k in range(6)]), seed=6)
    found = lawfit.fit_arms(data, draws=DRAWS, own_beta=False)
    assert "A" not in found.fit.params and not found.compute_multiplier("lowest").at_edge.any()
    item = found.data_multiplier("lowest")
    assert item.low < 2.0 < item.high


def test_a_known_entropy_is_not_fitted() -> None:
    found = lawfit.fit_arms(study(Setup({"lowest": 2.0}), seed=1), draws=20, entropy=0.5, own_beta=False)
    assert found.fit.params["E"] == 0.5 and found.fit.fixed == {"E": 0.5}


def test_runs_of_one_block_are_one_unit(laws: lawfit.ArmLaws) -> None:
    assert laws.fit.n_clusters == 3 * 4 * 3 and laws.fit.n_rows == 3 * laws.fit.n_clusters
    trunks = lawfit.fit_arms(study(Setup({"lowest": 2.0}), seed=1), draws=20, own_beta=False, block=("n", "seed"))
    assert trunks.fit.n_clusters == 3 * 3


def test_what_cannot_carry_a_law_says_why() -> None:
    data = study(Setup({"lowest": 2.0}, seeds=1))
    with pytest.raises(RowsError, match="n is null; a law needs n and d in every row"):
        lawfit.fit_arms(Data(data.study, tuple({**r, "n": None} for r in data.rows)))
    with pytest.raises(RowsError, match="arm lowest has no row with a number for loss"):
        lawfit.fit_arms(data.where("control"), arms=["lowest"])
    with pytest.raises(RowsError, match="needs an arm beside the control"):
        lawfit.fit_arms(data.where("control"))
    with pytest.raises(RowsError, match="accuracy is not"):
        lawfit.fit_arms(data, metric="accuracy")
    with pytest.raises(FitError, match="4 usable rows, 7 needed for 6 parameters"):
        lawfit.fit_arms(data, where={"d": 1_000_000, "n": (20_000, 50_000)}, draws=20)
    with pytest.raises(FitError, match="all rows share one of the token counts D"):
        lawfit.fit_arms(study(Setup({"lowest": 2.0})), where={"d": 1_000_000}, draws=20)
    negative = replace(data.study, metrics=(Metric("gap", "gap (nats)", "lower"),))
    with pytest.raises(RowsError, match="gap is -1.0; a law of losses needs positive ones"):
        lawfit.fit_arms(Data(negative, tuple({**r, "gap": -1.0} for r in data.rows)))


def test_costs_are_those_of_the_rows() -> None:
    rows = study(Setup({"lowest": 2.0}, seeds=1)).where("lowest")
    charges = tuple({**r, "charged": 1e10 + 3e4 * r["d"] + 0.5 * r["n"] * r["d"]} for r in rows.rows)
    found = budget.budget_of(Data(rows.study, charges), "lowest")
    assert found.charged == pytest.approx((1e10, 0.0, 3e4, 0.5), rel=1e-6, abs=1e-6) and found.error < 1e-6
    size, tokens = (np.array([float(r[name]) for r in charges]) for name in ("n", "d"))
    assert found.total(size, tokens) == pytest.approx([r["flops"] + r["charged"] for r in charges])
    back = found.tokens_for(found.total(size, tokens), size)
    assert np.diag(back) == pytest.approx(tokens)
    wild = tuple({**r, "flops": r["flops"] * (1 + 0.5 * (r["d"] > 2e6))} for r in rows.rows)
    with pytest.raises(RowsError, match="flops / d differs by"):
        budget.budget_of(Data(rows.study, wild), "lowest")
    odd = tuple({**r, "charged": 1e10 * (1 + (r["d"] == 2_000_000))} for r in rows.rows)
    with pytest.raises(RowsError, match="charged FLOPs follow no sum"):
        budget.budget_of(Data(rows.study, odd), "lowest")


def test_only_tested_splits_are_used() -> None:
    rows = study(Setup({"lowest": 2.0}, seeds=1)).where("lowest")
    tested = tuple(r for r in rows.rows if not (r["n"] == 120_000 and r["d"] > 2_000_000))
    found = budget.budget_of(Data(rows.study, tested), "lowest")
    assert found.most.tolist() == [8e6, 8e6, 2e6]
    seen: list[tuple[float, float]] = []

    def loss_at(size: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        seen.extend(zip(size, tokens, strict=True))
        return (80 / size**0.42 + 300 / tokens**0.4)[None]

    budget.frontier(found, np.geomspace(*found.span, 15), loss_at)
    assert max(d for n, d in seen if n > 119_999) <= 2e6 * 1.00001


def test_names_of_arms_become_names_of_parameters() -> None:
    assert arm_labels(["keep 20 %", "a-b"]) == ("keep_20__", "a_b")
    with pytest.raises(ValueError, match="must differ in letters"):
        arm_labels(["a-b", "a b"])
    law = arms_own(["control", "a-b"])
    assert law.names == ("E", "A", "alpha", "B_control", "B_a_b", "beta_control", "beta_a_b")
    found = lawfit.fit_arms(
        _renamed(study(Setup({"lowest": 2.0}, seeds=1)), "lowest", "low, 20 %: x"), draws=20, own_beta=False
    )
    assert found.compute_multiplier("low, 20 %: x").arm == "low, 20 %: x"


def _renamed(data: Data, old: str, new: str) -> Data:
    arms = tuple(replace(arm, name=new) if arm.name == old else arm for arm in data.study.arms)
    rows = tuple({**r, "arm": new} if r["arm"] == old else r for r in data.rows)
    return Data(replace(data.study, arms=arms), rows)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = made_up.worth_two(seeds=1)
    one, two = (lawfit.fit_arms(data, draws=20, own_beta=False).data_multiplier("lowest") for _ in range(2))
    assert one == two


def test_a_floor_of_its_own_and_seeds_that_move_together_are_cautions() -> None:
    quiet: dict[str, Any] = {"own": 0.003, "shared": 0.003}
    raised = lawfit.fit_arms(
        study(Setup({"high": 1.0, "other": 1.0}, floors={"high": 0.8}, **quiet), seed=7), draws=20, own_beta=False
    )
    assert lawcheck.is_missed(lawcheck.at_most_data(raised.sample, raised.fit, "high"))
    assert "The law misses high by +" in raised.compute_multiplier("high").caution
    together = lawfit.fit_arms(study(Setup({"drawn": 1.0}, seedwise=0.01, **quiet), seed=8), draws=20, own_beta=False)
    effect = lawcheck.seed_effect(together.sample, together.fit, "drawn", "control")
    assert effect.chance < 1e-3 and effect.seeds == 3 and effect.ratio > 10
    assert "All runs of one seed of drawn move together" in together.compute_multiplier("drawn").caution
    half = together.data_multiplier("drawn")
    assert half.low < 1.0 < half.high and np.log(half.high / half.low) > np.log(1.1)


def test_seeds_that_do_not_move_together_are_rarely_accused(laws: lawfit.ArmLaws) -> None:
    chances = []
    for seed in range(12):
        data = study(Setup({"arm": 1.0}), seed=100 + seed)
        sample = sample_of(data, "loss", ("control", "arm"), ("n", "d", "seed"))
        expected = [true_loss(Setup({"arm": 1.0}), r["arm"], r["n"], r["d"]) for r in data.rows]
        chances.append(lawcheck.seed_effect(sample, replace(laws.fit, fitted=tuple(expected)), "arm", "control").chance)
    assert sum(p < 0.05 for p in chances) <= 3 and 0.2 < float(np.mean(chances)) < 0.8


def test_intervals_widen_the_more_the_runs_of_a_seed_move_together() -> None:
    factors = [lawcheck.SeedEffect(0.5, ratio, 3, 12).stretch(35) for ratio in (0.3, 1.0, 1.5, 4.0, 1e6)]
    assert factors[:2] == [1.0, 1.0] and factors == sorted(factors)
    limit = stats.t.ppf(0.975, 2) / stats.t.ppf(0.975, 35)
    assert factors[-1] == pytest.approx(1e3 * limit, rel=1e-3) and factors[2] < 1.5
    assert lawcheck.SeedEffect(np.nan, np.nan, 1, 12).stretch(11) == 1.0
