"""The page of weight soups: what it concludes from results whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.interventions.blocks import Figure, Table, Verdict
from analysis.interventions.rows import Arm, Data, Metric, Study
from analysis.interventions.soup import FRESH, PLATEAU, SOUPS, blocks

K, MAIN, AFTER = 3, 400, 200
GAIN = {
    "greedy": 0.05,
    "uniform": 0.04,
    "other_starts": -0.4,
    "pretrained": -0.1,
    "D_only": -0.05,
    "lr_best_single": -0.05,
    "lr_greedy": -0.05,
}


def row(arm: str, seed: int, steps: int, accuracy: float, k: int = 1, **more: Any) -> dict[str, Any]:
    noise = 0.002 * ((seed * 5 + steps + len(arm)) % 5 - 2)
    value = accuracy + 0.01 * seed + noise
    selected = (
        {"flops": 1e6 * k, "charged": 1e9 * k * steps} if k > 1 else {"flops": 1e9 * max(steps, 1), "charged": 0.0}
    )
    common = {"arm": arm, "seed": seed, "n": 100, "d": None, "steps": steps, "k": k, "spent": k * steps, "kept": k}
    marks = {
        "accuracy": value,
        "loss": 1 - value,
        "accuracy_val": value,
        "accuracy_colour": value,
        "accuracy_same": value,
    }
    return common | selected | marks | {"evaluations": 3} | more


def rows(joint: float) -> list[dict[str, Any]]:
    """Soups gain 0.05 over the best member; joint training reaches ``joint`` at equal cost."""
    found = []
    for seed in range(5):
        for arm in ("pretrained", "D_only", "lr_best_single", "lr_greedy", "other_starts"):
            steps = 0 if arm == "pretrained" else MAIN
            found.append(row(arm, seed, steps, 0.7 + GAIN[arm], 1 if arm in ("pretrained", "D_only") else K))
        for steps in (100, 200, MAIN):
            level = 0.6 + 0.1 * (steps / MAIN)
            found += [row(arm, seed, steps, level + GAIN.get(arm, 0.0), K) for arm in ("best_single", *SOUPS)]
        for steps in (100, 200, MAIN, 2 * MAIN, K * MAIN):
            found.append(row("joint", seed, steps, joint - 0.1 + 0.1 * steps / (K * MAIN)))
        found.append(row("plateau_start", seed, K * MAIN, 0.9))
        found += [row(arm, seed, AFTER, 0.9, K) for arm in PLATEAU[1:-2]]
        found += [row("plateau_joint", seed, AFTER, 0.9), row("plateau_joint_long", seed, K * AFTER, 0.9)]
    return found


def study(joint: float) -> Data:
    metrics = (Metric("accuracy", "accuracy", "higher"), Metric("loss", "loss (nats)", "lower"))
    arms = tuple(Arm(name, "baseline", "an arm") for name in (*FRESH, *PLATEAU))
    described = Study("soup", "Soups", "weights", "A claim.", "best_single", arms, metrics, "Made up.")
    return Data(described, tuple(rows(joint)))


@pytest.fixture(scope="module")
def losing() -> Data:
    return study(joint=0.95)


def verdicts(data: Data) -> list[Verdict]:
    return [block for block in blocks(data) if isinstance(block, Verdict)]


def test_a_soup_may_beat_its_members_and_still_not_be_worth_its_cost(losing: Data) -> None:
    best, worth, joint, *_ = verdicts(losing)
    assert best.verdict.startswith("greedy is better than best_single") and not best.alarm
    assert "0." in worth.numbers[0] or "<=" in worth.numbers[0], "far below 1"
    assert joint.verdict.startswith("greedy is worse than joint")


def test_where_joint_training_is_poor_the_soup_pays() -> None:
    _, worth, joint, *_ = verdicts(study(joint=0.68))
    assert joint.verdict.startswith("greedy is better than joint")
    assert ">=" in worth.numbers[0] or "better" in worth.verdict or "cheaper" in worth.verdict


def test_members_of_other_starts_collapse_and_have_no_interval(losing: Data) -> None:
    """Their sets share pretrained models: no independent repetitions."""
    (apart,) = (verdict for verdict in verdicts(losing) if "different pretrained" in verdict.question)
    assert apart.verdict.startswith("other_starts collapses") and "no interval" in apart.numbers_label
    assert apart.numbers == ("0.300 to 0.340 against 0.698 to 0.738",) and apart.tested == "5 sets of 3 members"
    tables = [block for block in blocks(losing) if isinstance(block, Table)]
    assert all(row[0] != "other_starts" for block in tables[1:] for row in block.rows), "the first says what arms are"
    assert [row[0] for row in tables[-1].rows] == ["0", "1", "2", "3", "4"]
    better = [{**row, "accuracy": 0.9} if row["arm"] == "other_starts" else row for row in losing.rows]
    (apart,) = (v for v in verdicts(Data(losing.study, tuple(better))) if "different pretrained" in v.question)
    assert apart.verdict.startswith("other_starts does not collapse")


def test_the_side_questions_are_one_family_in_box_and_table(losing: Data) -> None:
    boxes = [v for v in verdicts(losing) if "for all 3 comparisons" in v.numbers_label]
    assert [v.question.split(",")[0] for v in boxes] == [
        "Does a soup over learning rates of one data set beat the best of them?",
        "After joint training has flattened out",
        "And there",
    ]
    (side,) = (t for t in blocks(losing) if isinstance(t, Table) and "95 % for all 3" in t.header)
    assert [(v.numbers[0],) for v in boxes] == [(row[4],) for row in side.rows]


def test_every_arm_and_length_is_on_the_page_and_pictures_have_names_of_their_own(losing: Data) -> None:
    page = blocks(losing)
    assert all(isinstance(block, Verdict) for block in page[:7]) and not isinstance(page[7], Verdict)
    tables = [block for block in page if isinstance(block, Table)]
    named = {row[0] for block in tables for row in block.rows}
    assert set(losing.arms) <= named and {"100", "200", "400"} <= named
    figures = [block.name for block in page if isinstance(block, Figure)]
    assert len(figures) == len(set(figures)) >= 6
