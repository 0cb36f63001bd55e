"""The study of weight soups: every soup's members are fine-tuned before, and what rows charge for."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nmm.interventions.soup_options import SoupOptions, soups_of
from nmm.record import write_json
from sweeps.interventions.protocol import StudyError
from sweeps.interventions.soup import scale_of, steps, study
from sweeps.interventions.soup_rows import BESTS, collect
from sweeps.interventions.soup_table import first_soups, later_soups

SCALES = ["tiny", "cpu"]


def outs_of(command: tuple[str, ...]) -> set[str]:
    """Where the runs of one `nmm train -m` go, every combination of what is swept filled in."""
    given = dict(word.split("=", 1) for word in command if "=" in word)
    swept = {key: value.split(",") for key, value in given.items() if key in ("seed", "intervention.arm", "optim.lr",
                                                                             "budget.steps")}  # fmt: skip
    found = set()
    for values in product(*swept.values()):
        out = given["out"]
        for key, value in zip(swept, values, strict=True):
            out = out.replace(f"${{{key}}}", value)
        found.add(out)
    return found


@pytest.mark.parametrize("scale", SCALES)
def test_members_are_made_before_they_are_averaged(tmp_path: Path, scale: str) -> None:
    made: set[str] = set()
    later = {soup.out for soup in later_soups(tmp_path, scale_of(scale))}
    plan = scale_of(scale)
    for step in steps(tmp_path, plan):
        if step.command[0] == "train":
            made |= outs_of(step.command)
        if step.command[0] == "soup":
            soups = later_soups(tmp_path, plan) if "after" in step.name else first_soups(tmp_path, plan)
            assert {run for soup in soups for run in soup.runs} <= made
            assert all(soup.out in later for soup in soups) == ("after" in step.name)
    assert not any("${" in out for out in made)


@pytest.mark.parametrize("scale", SCALES)
def test_the_lists_are_such_as_the_command_reads(tmp_path: Path, scale: str) -> None:
    for step in steps(tmp_path, scale_of(scale)):
        if step.command[0] == "soup":
            assert step.files is not None
            for path, text in step.files().items():
                path.write_text(text)
                found = soups_of(SoupOptions(list=str(path), shards="s"))
                assert len(found) == len(text.splitlines())
                assert str(step.done.parent) in [soup.out for soup in found]


@pytest.mark.parametrize("scale", SCALES)
def test_the_study_describes_itself_and_joint_training_is_run_at_equal_steps_and_equal_cost(
    tmp_path: Path, scale: str
) -> None:
    found, plan = study(tmp_path, scale), scale_of(scale)
    soups = (*first_soups(tmp_path, plan), *later_soups(tmp_path, plan))
    arms = {arm.name for arm in found.arms}
    assert {soup.arm for soup in soups} | {*BESTS.values(), "plateau_joint_long"} == arms
    assert set(plan.lengths) <= set(plan.joint) and len(plan.extra) * plan.main in plan.joint
    assert found.control == "best_single" and len(plan.seeds) >= (5 if scale == "cpu" else 2)


def made_up(out: str, members: int, split_flops: float = 10.0) -> None:
    """A soup.json with accuracies that name the soup."""
    marks = {split: {"accuracy": {"colour": 0.5, "avg": 0.5}, "loss": {"colour": 1.0, "avg": 1.0}} for split in
             ("val", "test")}  # fmt: skip
    content: dict[str, Any] = {
        "members": [{"flops": 100.0}] * members,
        "chosen": list(range(members)),
        "marks": marks,
        "best_single": {"member": 0, "marks": marks},
        "evaluations": {"val": 8, "test": 2},
        "flops": {"fine_tunes": 100.0 * members, "pass": {"val": split_flops}, "selection": 0.0, "total": 0.0},
    }
    Path(out).mkdir(parents=True)
    write_json(Path(out) / "soup.json", content)


def test_a_row_is_charged_for_all_members_and_a_single_model_for_itself(tmp_path: Path) -> None:
    plan = scale_of("tiny")
    for soup in (*first_soups(tmp_path, plan), *later_soups(tmp_path, plan)):
        made_up(soup.out, len(soup.runs))
    for seed in plan.seeds:
        record = tmp_path / "base" / f"s{seed}" / "run" / "record.json"
        record.parent.mkdir(parents=True)
        write_json(record, {"params": {"active_non_embedding": 7}})
    rows = collect(tmp_path, plan)
    one = {row["arm"]: row for row in rows if row["seed"] == 1}
    assert (one["greedy"]["flops"], one["greedy"]["charged"], one["greedy"]["n"]) == (80.0, 300.0, 7)
    assert (one["best_single"]["flops"], one["best_single"]["charged"]) == (30.0, 300.0), "the choice needs them all"
    assert (one["joint"]["flops"], one["joint"]["charged"]) == (100.0, 0.0)
    assert one["pretrained"]["flops"] == one["pretrained"]["charged"] == 0.0, "pretraining is in no other row either"
    assert (one["plateau_joint"]["flops"], one["plateau_joint"]["charged"]) == (100.0, 100.0), "and what came before"
    assert one["plateau_joint_long"]["steps"] == 3 * one["plateau_joint"]["steps"] == 3 * plan.after
    assert (one["plateau_greedy"]["flops"], one["plateau_greedy"]["charged"]) == (80.0, 400.0)
    assert (one["plateau_best_single"]["flops"], one["plateau_best_single"]["charged"]) == (30.0, 400.0)
    assert one["greedy"]["spent"] == plan.main * 3 and "accuracy_colour" in one["greedy"]
    assert json.loads(json.dumps(rows)) == rows
    (Path(first_soups(tmp_path, plan)[0].out) / "soup.json").unlink()
    with pytest.raises(StudyError, match="is not there; run the study again"):
        collect(tmp_path, plan)
