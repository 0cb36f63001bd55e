"""Rows of the study of bridges: when a target is reached does not depend on how long a run went on."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.interventions.bridge_rows import main_rows, steps_to
from sweeps.interventions.bridge_scale import scale_of

PLAN = scale_of("cpu")
CHANCE = 0.125


def measured(last: int, slope: float) -> dict[int, dict[str, Any]]:
    """Accuracy on a straight line from chance."""
    return {
        step: {"bridge_accuracy": CHANCE + slope * step} for step in range(PLAN.every, last + PLAN.every, PLAN.every)
    }


class Made:
    """Every arm learns as fast; the arms that go on for a bridge's steps are lm_none and so lm_more."""

    def __init__(self, slopes: dict[int, float]) -> None:
        self.slopes = slopes

    def of(self, kind: str, arm: str) -> dict[int, tuple[dict[str, Any], dict[int, dict[str, Any]]]]:
        if kind != "down":
            return {}
        steps = PLAN.steps + (PLAN.bridge_steps if arm == "lm_none" else 0)
        block = dict.fromkeys(("above_1", "above_6sd", "kurtosis", "max_over_rms", "rms"), 0.0)
        result = {"bridge": {"chance": CHANCE}, "outliers": {"before": {"all": block, "matrices": block}}}
        record = {
            "steps": steps, "flops": {"total": 1.0 * steps}, "params": {"active_non_embedding": 7}, "result": result,
        }  # fmt: skip
        return {seed: (record, measured(steps, slope)) for seed, slope in self.slopes.items()}

    def flops(self, kind: str, arm: str, seed: int) -> float:
        return 0.0


def test_arms_with_the_same_curves_reach_the_target_at_the_same_steps() -> None:
    fast, slow = 0.375 / 200, 0.375 / 400  # right half of the time at step 200, and at 400, when one arm still runs
    rows = {
        arm: main_rows(Made({1: fast, 2: slow}), PLAN, arm)  # type: ignore[arg-type]
        for arm in ("lm_none", "lm_first", "lm_more")
    }
    steps = {arm: [row["steps_to_target"] for row in found] for arm, found in rows.items()}
    assert steps["lm_none"] == steps["lm_first"] == [pytest.approx(200.0), None]
    assert steps["lm_more"] == [None, None], "its run is lm_none's"
    assert [row["accuracy"] for row in rows["lm_none"]] == [row["accuracy"] for row in rows["lm_first"]]
    assert rows["lm_more"][0]["steps"] == 450 and rows["lm_none"][0]["steps"] == 240


@pytest.mark.parametrize(
    "target, chance, expected",
    [
        (0.2, 0.1, 5.0),  # halfway from chance to the first measurement
        (0.3, 0.1, 10.0),
        (0.4, 0.1, 15.0),
        (0.6, 0.1, None),  # only at step 30, beyond the last that counts
        (0.1, 0.1, 0.0),
    ],
)
def test_steps_to_a_target(target: float, chance: float, expected: float | None) -> None:
    values = {10: 0.3, 20: 0.5, 30: 0.9}
    found = steps_to(target, {step: {"bridge_accuracy": v} for step, v in values.items()}, 20, chance)
    assert found == (None if expected is None else pytest.approx(expected))
