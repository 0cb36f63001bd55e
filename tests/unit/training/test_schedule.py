"""The learning rate as a table of expected values, and that a branch is the same function as a run of its own."""

from __future__ import annotations

import math

import pytest

from nmm.config import Budget, Parent, RunConfig, Schedule
from nmm.training.schedule import factor, lr_factor

# step (0-based), total, branch step, warmup, shape -> share of the peak
TABLE = [
    # warmup: update k uses (k + 1) / warmup
    (0, 100, 75, 10, "linear", 0.1),
    (4, 100, 75, 10, "linear", 0.5),
    (9, 100, 75, 10, "linear", 1.0),
    # constant up to the branch point
    (10, 100, 75, 10, "linear", 1.0),
    (74, 100, 75, 10, "linear", 1.0),
    # 25 updates of cooldown, which would reach 0 with a 26th
    (75, 100, 75, 10, "linear", 25 / 26),
    (87, 100, 75, 10, "linear", 0.5),
    (99, 100, 75, 10, "linear", 1 / 26),
    (75, 100, 75, 10, "one_minus_sqrt", 1 - math.sqrt(1 / 26)),
    (99, 100, 75, 10, "one_minus_sqrt", 1 - math.sqrt(25 / 26)),
    # no warmup, no cooldown
    (0, 100, 75, 0, "linear", 1.0),
    (0, 100, 100, 1, "linear", 1.0),
    (99, 100, 100, 10, "linear", 1.0),
    # a cooldown that begins inside the warmup scales it
    (4, 8, 4, 10, "linear", 0.5 * 4 / 5),
    (7, 8, 4, 10, "linear", 0.8 * 1 / 5),
    # the smallest runs
    (0, 1, 1, 0, "linear", 1.0),
    (1, 2, 1, 0, "linear", 0.5),
]


@pytest.mark.parametrize(("step", "total", "branch_step", "warmup", "shape", "expected"), TABLE)
def test_table(step: int, total: int, branch_step: int, warmup: int, shape: str, expected: float) -> None:
    assert factor(step, total, branch_step, warmup, shape) == pytest.approx(expected, rel=1e-12)


def test_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="schedule.cooldown_shape='cosine' is not one of linear, one_minus_sqrt"):
        factor(80, 100, 75, 0, "cosine")


@pytest.mark.parametrize("shape", ["linear", "one_minus_sqrt"])
def test_it_rises_stays_and_falls_and_never_reaches_zero(shape: str) -> None:
    values = [factor(step, 200, 150, 20, shape) for step in range(200)]
    assert all(a < b for a, b in zip(values[:19], values[1:20], strict=True))
    assert set(values[19:150]) == {1.0}
    assert all(a > b for a, b in zip(values[149:-1], values[150:], strict=True))
    assert values[-1] > 0


def config(role: str, steps: int, fraction: float, parent_step: int = 0) -> RunConfig:
    return RunConfig(
        role=role,
        budget=Budget(steps=steps),
        schedule=Schedule(warmup_steps=8, cooldown_fraction=fraction),
        parent=Parent("trunk", parent_step) if role == "branch" else Parent(),
    )


@pytest.mark.parametrize("total", [20, 33, 64])
def test_trunk_then_branch_is_the_run_of_its_own(total: int) -> None:
    alone, branch, trunk = config("run", total, 0.25), config("branch", total, 0.25), config("trunk", 64, 0.0)
    joined = [lr_factor(trunk if step < alone.branch_step else branch, step) for step in range(total)]
    assert joined == [lr_factor(alone, step) for step in range(total)]
