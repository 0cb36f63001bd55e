"""Columns from sparse records against the sum over every step, for the published coefficients of the 400M curves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from analysis.engine.law import Law
from analysis.laws.schedule import annealing, multi_power
from analysis.rows.schedules import Array, columns_at, columns_from_curves

WARMUP, PEAK, LOW = 500, 3e-4, 3e-5
TRUTH: dict[str, list[float]] = {
    "multi_power": [2.37474, 0.65421, 0.42879, 523.425, 2.02463, 0.59350, 0.63472],
    "annealing": [2.39, 0.62, 0.456, 0.93, 600.0],
}


def schedule(shape: str, total: int = 6000) -> Array:
    """The learning rate of every step 0..total after a linear warm-up from zero."""
    step = np.arange(total + 1.0)
    after = np.clip((step - WARMUP) / (total - WARMUP), 0.0, 1.0)
    late = np.clip((step - 4500) / (total - 4500), 0.0, 1.0)
    decay: dict[str, Array] = {
        "constant": np.full(len(step), PEAK),
        "cosine": LOW + 0.5 * (PEAK - LOW) * (1 + np.cos(np.pi * after)),
        "cosine to zero": 0.5 * PEAK * (1 + np.cos(np.pi * after)),
        "linear decay": PEAK + (LOW - PEAK) * late,
        "exponential decay": PEAK * (LOW / PEAK) ** late,
        "two stages": np.where(step < 3072, PEAK, 0.3 * PEAK),
        "restarts": LOW + 0.5 * (PEAK - LOW) * (1 + np.cos(np.pi * ((step - 512) % 1920) / 1920 * (step >= 512))),
    }
    return np.asarray(np.where(step < WARMUP, PEAK * step / WARMUP, decay[shape]))


SHAPES = ["constant", "cosine", "cosine to zero", "linear decay", "exponential decay", "two stages", "restarts"]


def summed(name: str, lr: Array, at: Array) -> Array:
    """The law's loss by the definition: a sum over every step."""
    total = np.cumsum(lr)
    fall = np.concatenate([[0.0], -np.diff(lr)])
    changed = np.flatnonzero((fall != 0) & (lr > 0))
    out = []
    for t in at.astype(int):
        k = changed[changed <= t]
        if name == "multi_power":
            L0, A, alpha, B, C, beta, gamma = TRUTH[name]
            kernel = 1 - (1 + C * lr[k] ** -gamma * (total[t] - total[k - 1])) ** -beta
        else:
            L0, A, alpha, B, memory = TRUTH[name]
            kernel = memory * (1 - (1 - 1 / memory) ** (t - k + 1.0))
        out.append(L0 + A * total[t] ** -alpha - B * np.sum(fall[k] * kernel))
    return np.array(out)


def predicted(law: Law, columns: dict[str, Array]) -> Array:
    return law.loss(law.to_working(np.array([TRUTH[law.name]]), {}), columns, {})[0]


LAWS = [multi_power, annealing]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_records_give_the_loss_of_the_sum_over_every_step(shape: str, law: Law) -> None:
    lr = schedule(shape)
    at = np.arange(512.0, 6001.0, 128.0)
    columns = columns_from_curves(["run"] * len(at), at, lr[at.astype(int)], warmup=WARMUP)
    error = np.abs(predicted(law, columns) - summed(law.name, lr, at))
    assert error.max() < (1.5e-3 if shape == "restarts" else 1e-3)
    assert np.median(error) < (7e-4 if shape == "restarts" else 5e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_of_merging_falls_with_the_square_of_the_bin_width(shape: str) -> None:
    lr = schedule(shape)
    at = np.arange(512.0, 6001.0, 128.0)
    step = np.arange(len(lr))
    for law in LAWS:
        want = summed(law.name, lr, at)
        error = [np.abs(predicted(law, columns_at(step, lr, at, num_bins=b)) - want).max() for b in (16, 32, 128)]
        assert error[0] < 1.2e-3 and error[1] < 0.4 * error[0] and error[2] < 3e-5


@pytest.mark.parametrize("shape", ["cosine", "two stages"])
def test_S1_is_the_sum_of_every_rate_and_falls_add_up(shape: str) -> None:
    lr = schedule(shape)
    at = np.array([1000.0, 3071.0, 3072.0, 6000.0])
    columns = columns_at(np.arange(len(lr)), lr, at)
    assert columns["S1"] == pytest.approx(np.cumsum(lr)[at.astype(int)], rel=1e-12)
    assert columns["drop"].sum(axis=1) == pytest.approx(lr[0] - lr[at.astype(int)], rel=1e-9)
    assert (columns["since"] > 0).all() and (columns["eta"] > 0).all() and (columns["age"] >= 0).all()


def test_a_jump_lies_on_the_record_that_shows_it_first() -> None:
    step = np.array([1.0, 100.0, 200.0, 300.0, 400.0])
    lr = np.array([2.0, 2.0, 2.0, 1.0, 1.0])
    columns = columns_from_curves([0] * 5, step, lr)
    assert columns["S1"].tolist() == pytest.approx([2.0, 200.0, 400.0, 599.0, 699.0])
    assert columns["drop"][:, 0].tolist() == pytest.approx([0, 0, 0, 1, 1])
    assert columns["since"][3:, 0].tolist() == pytest.approx([1.0, 101.0])
    assert columns["age"][3:, 0].tolist() == pytest.approx([0.0, 100.0])


def test_an_unrecorded_warmup_rises_linearly_from_zero() -> None:
    step, lr = np.array([400.0, 500.0]), np.array([2.0, 2.0])
    short = columns_from_curves([0, 0], step, lr, warmup=200)
    whole = columns_from_curves([0, 0], step, lr)
    assert short["S1"].tolist() == pytest.approx([201 + 400, 201 + 600])
    assert whole["S1"].tolist() == pytest.approx([401, 601])
    assert short["drop"].sum(axis=1).tolist() == pytest.approx([-2, -2])
    assert short["age"].max() <= 500
    none = columns_from_curves([0, 0], step, lr, warmup=0)
    assert none["S1"].tolist() == pytest.approx([802, 1002]) and not none["drop"].any()
    recorded = columns_from_curves([0] * 3, [1, 2, 3], [2.0, 2.0, 2.0])
    assert recorded["S1"].tolist() == [2, 4, 6] and not recorded["drop"].any()


def test_rows_keep_their_order_and_runs_do_not_touch() -> None:
    parts = {name: schedule(name)[512:6000:128] for name in ("cosine", "constant", "two stages")}
    step = np.arange(512.0, 6000.0, 128.0)
    run = np.repeat(list(parts), len(step))
    steps, rates = np.tile(step, 3), np.concatenate(list(parts.values()))
    order = np.random.default_rng(0).permutation(len(run))
    steps.flags.writeable = False
    mixed = columns_from_curves(run[order], steps[order], rates[order], warmup=WARMUP)
    for name, lr in parts.items():
        alone = columns_from_curves([name] * len(step), step, lr, warmup=WARMUP)
        mine = np.flatnonzero(run[order] == name)
        back = mine[np.argsort(steps[order][mine])]
        assert mixed["S1"][back] == pytest.approx(alone["S1"], rel=1e-14)
        for law in LAWS:
            joined = {key: value[back] for key, value in mixed.items()}
            assert predicted(law, joined) == pytest.approx(predicted(law, alone), rel=1e-13)


def test_a_stopped_run_has_the_columns_of_its_first_rows() -> None:
    step = np.arange(512.0, 6000.0, 128.0)
    lr = schedule("cosine")[step.astype(int)]
    whole = columns_from_curves(["a"] * len(step), step, lr, warmup=WARMUP)
    part = columns_from_curves(["a"] * 20, step[:20], lr[:20], warmup=WARMUP)
    assert predicted(multi_power, part) == pytest.approx(predicted(multi_power, whole)[:20], rel=1e-13)


def test_a_planned_schedule_may_be_given_by_its_corners() -> None:
    lr = schedule("linear decay")
    corners = np.array([0.0, WARMUP, 4500.0, 6000.0])
    planned = columns_at(corners, lr[corners.astype(int)], [6000.0])
    every = columns_at(np.arange(len(lr)), lr, [6000.0])
    assert predicted(multi_power, planned) == pytest.approx(predicted(multi_power, every), abs=2e-4)


def test_a_ramp_between_two_flat_stretches_is_a_ramp_where_it_is_planned_and_a_jump_where_it_is_recorded() -> None:
    step, lr = np.array([1.0, 100.0, 200.0, 300.0]), np.array([2.0, 2.0, 1.0, 1.0])
    planned = columns_at(step, lr, [200.0])
    assert planned["S1"][0] == pytest.approx(200 + 149.5)
    assert columns_from_curves([0] * 4, step, lr)["S1"][2] == pytest.approx(200 + 2 * 99 + 1)


def test_the_unit_of_the_step_may_be_large() -> None:
    """Tokens instead of steps: intervals are followed in equal parts, and the learning rate is summed over tokens."""
    lr = schedule("cosine")
    at = np.arange(600.0, 6001.0, 300.0)
    per_step = columns_from_curves([0] * len(at), at, lr[at.astype(int)], warmup=WARMUP)
    tokens = columns_from_curves([0] * len(at), at * 1e6, lr[at.astype(int)] / 1e6, warmup=WARMUP * 1e6)
    assert tokens["S1"] == pytest.approx(per_step["S1"], rel=2e-3)
    assert tokens["drop"].sum(axis=1) * 1e6 == pytest.approx(per_step["drop"].sum(axis=1), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: columns_from_curves(["a"], [1], [1.0]), "run a: 1 row"),
        (lambda: columns_from_curves(["a", "a"], [5, 5], [1.0, 1.0]), "step 5 follows step 5"),
        (lambda: columns_from_curves(["a", "a"], [1, 2], [1.0, -1.0]), "must be finite and not negative"),
        (lambda: columns_from_curves(["a", "a"], [1, 2], [np.nan, 1.0]), "must be finite and not negative"),
        (lambda: columns_from_curves(["a", "a"], [1, 2], [0.0, 0.0]), "lr is 0 in every row"),
        (lambda: columns_from_curves(["a", "a"], [0, 2], [0.0, 1.0]), "S1 = 0"),
        (lambda: columns_from_curves(["a", "a"], [1, 2], [1.0]), "must be equal"),
        (lambda: columns_at([0, 10], [1.0, 1.0], [11]), "the schedule covers 0 to 10"),
    ],
)
def test_unusable_curves_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
