"""The learning rate as a table of expected values, and that a branch is the same function as a run of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest

from nmm.config import Arch, Budget, ConfigError, Parent, RunConfig, Schedule, run_id
from nmm.resolve import finalize, paper_warmup, resolve_warmup
from nmm.training.schedule import cooldown, factor, lr_factor

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
    (75, 100, 75, 10, "inverse_sqrt", 2 / math.sqrt(29 / 26) - 1),
    (99, 100, 75, 10, "inverse_sqrt", 2 / math.sqrt(101 / 26) - 1),
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


SHAPES = ["linear", "one_minus_sqrt", "inverse_sqrt"]


@pytest.mark.parametrize(("step", "total", "branch_step", "warmup", "shape", "expected"), TABLE)
def test_table(step: int, total: int, branch_step: int, warmup: int, shape: str, expected: float) -> None:
    assert factor(step, total, branch_step, warmup, shape) == pytest.approx(expected, rel=1e-12)


def test_unknown_shape_is_named() -> None:
    with pytest.raises(
        ValueError, match="schedule.cooldown_shape='cosine' is not one of linear, one_minus_sqrt, inverse"
    ):
        factor(80, 100, 75, 0, "cosine")


@pytest.mark.parametrize("shape", SHAPES)
def test_it_rises_stays_and_falls_and_never_reaches_zero(shape: str) -> None:
    values = [factor(step, 200, 150, 20, shape) for step in range(200)]
    assert all(a < b for a, b in zip(values[:19], values[1:20], strict=True))
    assert set(values[19:150]) == {1.0}
    assert all(a > b for a, b in zip(values[149:-1], values[150:], strict=True))
    assert values[-1] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cooldown_falls_from_one_to_zero_without_a_jump(shape: str) -> None:
    values = [cooldown(k / 10_000, shape) for k in range(10_001)]
    assert (values[0], values[-1]) == (1.0, 0.0)
    falls = [a - b for a, b in zip(values[:-1], values[1:], strict=True)]
    assert min(falls) > 0 and max(falls) < 0.011  # one_minus_sqrt begins with sqrt(1e-4)


def test_inverse_sqrt_is_a_stretched_inverse_root_with_the_mean_of_one_minus_sqrt() -> None:
    def root(x: float) -> float:
        return (1 + 3 * x) ** -0.5

    for k in range(11):
        stretched = (root(k / 10) - root(1.0)) / (root(0.0) - root(1.0))
        assert cooldown(k / 10, "inverse_sqrt") == pytest.approx(stretched, abs=1e-12)
    means = [sum(cooldown((k + 0.5) / 10_000, shape) for k in range(10_000)) / 10_000 for shape in SHAPES]
    assert means == pytest.approx([1 / 2, 1 / 3, 1 / 3], abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- warmup

# total steps, experts -> updates of warmup
PAPER_WARMUP = [
    (8, 0, 2),
    (999, 0, 249),
    (1_000, 0, 800),  # 1,000, but the cooldown begins at 800
    (1_250, 0, 1_000),
    (4_000, 0, 1_000),
    (4_999, 0, 1_000),
    (5_000, 0, 2_500),
    (15_000, 0, 2_500),
    (15_001, 0, 5_000),
    (200_000, 0, 5_000),
    (400, 8, 100),
    (2_000, 8, 1_600),
    (4_000, 8, 2_500),
    (19_999, 8, 2_500),
    (20_000, 8, 5_000),
]


@pytest.mark.parametrize(("total", "experts", "expected"), PAPER_WARMUP)
def test_the_warmup_of_the_paper_goes_by_the_length_of_the_run(total: int, experts: int, expected: int) -> None:
    schedule = Schedule(5_000, "paper", 0.2, "inverse_sqrt")
    run = RunConfig(arch=Arch(num_experts=experts), budget=Budget(steps=total), schedule=schedule)
    assert paper_warmup(run) == expected
    resolved = resolve_warmup(run)
    assert resolved.schedule == Schedule(expected, "fixed", 0.2, "inverse_sqrt")
    longer = dataclasses.replace(resolved, budget=Budget(steps=10 * total))
    assert resolve_warmup(longer) == longer, "a rule is applied once"


def test_the_rule_never_exceeds_the_given_steps() -> None:
    assert paper_warmup(RunConfig(budget=Budget(steps=8_000), schedule=Schedule(700, "paper"))) == 700


def test_an_open_rule_is_refused_where_it_would_mean_two_warmups() -> None:
    open_rule = Schedule(5_000, "paper")
    branch = dataclasses.replace(config("branch", 8_000, 0.25, 6_000), schedule=open_rule)
    with pytest.raises(ConfigError, match="warmup_rule=paper with role=branch: a trunk and its branches need one"):
        resolve_warmup(branch)
    with pytest.raises(ConfigError, match="not resolved yet"):
        lr_factor(RunConfig(budget=Budget(steps=8_000), schedule=open_rule), 0)


def test_finalize_resolves_it_and_the_run_is_that_of_the_number(make_config: Callable[..., RunConfig]) -> None:
    by_rule = make_config(budget={"steps": 40}, schedule={"warmup_rule": "paper", "warmup_steps": 5_000})
    by_number = make_config(budget={"steps": 40}, schedule={"warmup_steps": 10})
    assert by_rule == by_number
    assert run_id(by_rule) == run_id(by_number)
    assert finalize(by_rule) == by_rule


# --------------------------------------------------------------------------------------------------- trunk and branch


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
