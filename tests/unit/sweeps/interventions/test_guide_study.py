"""The study of guided decoding: what is tuned and asked, how alpha is chosen, what a row says and charges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import guide_study
import pytest

from nmm.config import group_from_dict
from nmm.interventions.exam import Setting
from sweeps.interventions import guide_plans
from sweeps.interventions.guide import collect, study
from sweeps.interventions.guide_plans import CPU, TINY, best_alphas, marks_of
from sweeps.interventions.protocol import StudyError
from sweeps.interventions.steps import check_rows


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return guide_study.made_up(tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("name", ["cpu", "tiny"])
def test_every_arm_has_its_rows(tmp_path, monkeypatch, name):
    found = guide_study.made_up(tmp_path / "out", monkeypatch, guide_plans.scale_of(name))
    described = study(tmp_path / "out", name)
    check_rows(described, found)
    assert all(row["seed"] in guide_plans.scale_of(name).seeds for row in found)


@pytest.mark.parametrize("scale", [CPU, TINY])
def test_settings_are_such_as_the_exam_reads_and_name_runs_that_are_tuned_before(tmp_path, monkeypatch, scale):
    guide_study.made_up(tmp_path / "out", monkeypatch, scale)
    out = tmp_path / "out"
    tuned = {run["out"] for run in guide_plans.tune_plan(out, scale)["runs"]}
    val = guide_plans.val_plan(out, scale)
    test = guide_plans.test_plan(out, scale, marks_of(out / "val.jsonl", val))
    started = {str(path) for path in guide_plans.pretrained(out, scale).values()}
    for values in (*val["settings"], *test["settings"]):
        setting = group_from_dict(Setting, json.loads(json.dumps(values)))
        assert {str(path) for path in setting.runs.values()} <= tuned | started
        assert str(setting.runs["base"]) in started or not setting.expert
    assert {setting["split"] for setting in val["settings"]} == {"val"}  # alpha is chosen here,
    assert {setting["split"] for setting in test["settings"]} == {"test"}  # and reported there


def test_alpha_is_the_middle_of_the_best_on_validation():
    def marks(alpha: float, share: float) -> dict[str, Any]:
        labels = {"arm": "guided", "small": "a", "big": "b", "seed": 0, "alpha": alpha}
        return {"accuracy": share, "setting": {"labels": labels}}

    plateau = [marks(0.1, 0.5), marks(0.25, 0.9), marks(0.5, 0.9), marks(1.0, 0.9), marks(2.0, 0.1)]
    assert best_alphas(plateau) == {("guided", "a", "b", 0): 0.5}
    assert best_alphas([*plateau, marks(1.5, 0.95)]) == {("guided", "a", "b", 0): 1.5}


def test_rows_charge_the_tuning_of_what_answers(rows):
    def only(arm: str, **columns: Any) -> dict[str, Any]:
        (row,) = [r for r in rows if r["arm"] == arm and r["seed"] == 0 and all(r[k] == v for k, v in columns.items())]
        return row

    per_step = 1e3 * guide_study.PARAMS["d24"]
    assert only("base", big="d48")["charged"] == only("forced", big="d48")["charged"] == 0.0
    assert only("guided_half", pair="d24 guides d48")["charged"] == CPU.rft_steps * per_step
    a_question = 40.0 * (guide_study.PARAMS["d48"] + 2 * guide_study.PARAMS["d24"])
    search = len(guide_plans.ALPHAS) * CPU.val_questions * a_question
    for arm in ("guided", "no_amateur", "wrong_picture", "drawn_guided"):
        assert only(arm, pair="d24 guides d48")["charged"] == pytest.approx(CPU.rft_steps * per_step + search)
    assert only("guided_early")["charged"] == pytest.approx(CPU.early_steps * per_step + search)
    assert only("expert_early")["charged"] == CPU.early_steps * per_step
    assert only("skewed_guided")["charged"] > only("skewed_guided_half")["charged"] == CPU.rft_steps * per_step
    assert all(row["charged_alpha"] == 0 for row in rows if row["arm"] in ("alpha", "alpha_no_amateur", "tuned"))
    assert only("tuned", big="d64")["charged"] == CPU.rft_steps * 1e3 * guide_study.PARAMS["d64"]
    expert = only("expert", pair="d24 guides d64")
    assert (expert["accuracy"], expert["n"]) == (only("tuned", big="d24")["accuracy"], guide_study.PARAMS["d24"])
    assert only("guided", pair="d24 guides d64")["ratio"] == pytest.approx(93_000 / 9_616)
    assert only("larger")["n"] == guide_study.PARAMS["d64"] and only("larger")["big"] == "d48"


def test_votes_are_as_many_as_guided_flops_buy(rows):
    drawn = next(r for r in rows if r["arm"] == "drawn_base" and r["seed"] == 0)
    guided = next(r for r in rows if r["arm"] == "guided" and r["seed"] == 0 and r["pair"] == "d24 guides d48")
    vote, oracle = (next(r for r in rows if r["arm"] == arm and r["seed"] == 0) for arm in ("vote", "oracle"))
    prompt = 20.0 * guide_study.PARAMS["d48"]  # read once; every answer costs as much again
    assert drawn["flops"] == pytest.approx(prompt * (1 + CPU.samples))
    assert vote["bought"] == int((guided["flops"] - prompt) / prompt) == 2
    assert vote["flops"] == oracle["flops"] == pytest.approx(3 * prompt)
    assert oracle["accuracy"] == drawn["pass_2"] and vote["accuracy"] == drawn["vote_2"]


def test_all_arms_of_a_table_are_asked_the_same_questions(tmp_path, monkeypatch):
    out = tmp_path / "out"
    guide_study.made_up(out, monkeypatch)
    plan = guide_plans.test_plan(out, CPU, marks_of(out / "val.jsonl", guide_plans.val_plan(out, CPU)))
    for setting in plan["settings"]:
        asks = Path(setting.get("questions_of") or setting["base"])
        assert asks.parent.name in ("base", "rft") and "skewed" not in asks.name, setting["name"]
    lines = [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]
    lines[3]["marks"]["shards"] = "skewed"
    (out / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(StudyError, match="asks questions of 2 shard folders"):
        collect(out, CPU)


def test_marks_that_are_missing_are_named(tmp_path, monkeypatch):
    guide_study.made_up(tmp_path / "out", monkeypatch)
    val = guide_plans.val_plan(tmp_path / "out", CPU)
    lines = (tmp_path / "out" / "val.jsonl").read_text().splitlines()
    (tmp_path / "out" / "val.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(StudyError, match="no marks of guided 0 d24 d32 0.1"):
        marks_of(tmp_path / "out" / "val.jsonl", val)
