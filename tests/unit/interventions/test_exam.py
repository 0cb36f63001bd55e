"""Exams: what is marked, what is not marked twice, and that guided answers are those of `guided`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab import run_directory, train
from reasoning_lab import asking_config, write_asking_shards

from nmm.config import ConfigError
from nmm.data.manifest import Shards
from nmm.data.tasks import tasks, verifier
from nmm.generate import generate
from nmm.interventions import exam_run
from nmm.interventions.exam import exam_main, read_marks, read_plan
from nmm.interventions.guide_cost import generation_flops
from nmm.model.decode import Prompt
from nmm.start import load_run
from nmm.training.run import shards_of

QUESTIONS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A larger model and two small ones."""
    folder = tmp_path_factory.mktemp("exam")
    shards = write_asking_shards(folder / "shards")
    made = []
    for number, size in enumerate(("d24", "d16", "d16")):
        config = asking_config(
            shards,
            size,
            out=str(folder / "runs"),
            seed=number,
            budget={"steps": 40 + number},
            trainer={"rows_per_step": 8},
        )
        train(config)
        made.append(run_directory(config))
    return made


def marked(folder: Path, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    plan, out = folder / "plan.json", folder / "marks.jsonl"
    plan.write_text(json.dumps({"settings": [{"questions": QUESTIONS, "max_new_tokens": 12, **s} for s in settings]}))
    assert exam_main([f"plan={plan}", f"out={out}", "batch_rows=8", "progress=false"]) == 0
    return list(read_marks(out).values())


def test_marks_of_a_model_alone_are_those_of_its_answers(runs, tmp_path):
    (marks,) = marked(tmp_path, [{"base": str(runs[0])}])
    model = load_run(runs[0])
    shards = shards_of(model.config)
    assert isinstance(shards, Shards)
    asked, check = tasks(shards, model.config, "test", QUESTIONS), verifier(shards.tokenizer)
    said = generate(model, [Prompt(task.tokens, task.patches) for task in asked], 12, check.stops)
    assert marks["right"] == sum(check.is_right(task, words) for task, words in zip(asked, said, strict=True))
    assert marks["length"] == sum(map(len, said)) / QUESTIONS
    flops = [generation_flops(model.config, len(t.tokens), len(w), 1) for t, w in zip(asked, said, strict=True)]
    assert marks["flops_a_question"] == pytest.approx(sum(flops) / QUESTIONS)


def test_identities_of_guidance(runs, tmp_path):
    base, small, other = map(str, runs)
    same = marked(
        tmp_path,
        [
            {"base": base, "nll": True},
            {"base": base, "expert": small, "amateur": other, "alpha": 0.0, "nll": True},
            {"base": base, "expert": small, "amateur": small, "alpha": 0.7, "nll": True},
        ],
    )
    for marks in same[1:]:
        assert marks["right"] == same[0]["right"] and marks["length"] == same[0]["length"]
        assert marks["nll"]["nats_a_token"] == pytest.approx(same[0]["nll"]["nats_a_token"], rel=1e-5)
    assert same[1]["flops_a_question"] > same[0]["flops_a_question"] * 1.5
    tuned, alone = marked(
        tmp_path / "swapped", [{"base": base, "expert": small, "amateur": base, "alpha": 1.0}, {"base": small}]
    )
    assert tuned["right"] == alone["right"] and tuned["length"] == alone["length"]


def test_a_style_can_be_given(runs, tmp_path):
    slow, fast = marked(tmp_path, [{"base": str(runs[0]), "style": style} for style in ("slow", "fast")])
    assert slow["slow"] == 1.0 and fast["slow"] == 0.0


def test_many_answers(runs, tmp_path):
    (marks,) = marked(tmp_path, [{"base": str(runs[0]), "samples": 4, "counts": [1, 4], "style": "fast"}])
    assert marks["pass"]["1"] == pytest.approx(marks["accuracy"])
    assert marks["pass"]["4"] >= marks["pass"]["1"] and 0 <= marks["vote"]["4"] <= marks["pass"]["4"]
    guided = {"base": str(runs[0]), "expert": str(runs[1]), "amateur": str(runs[2]), "alpha": 0.0}
    (same,) = marked(tmp_path / "guided", [{**guided, "samples": 4, "counts": [1, 4], "style": "fast"}])
    assert {name: same[name] for name in ("pass", "vote")} == {name: marks[name] for name in ("pass", "vote")}


def test_controls_and_statistics(runs, tmp_path):
    guided = {"base": str(runs[0]), "expert": str(runs[1]), "amateur": str(runs[2]), "alpha": 2.0}
    marks = marked(
        tmp_path,
        [{**guided, "control": control} for control in ("none", "random", "permuted", "other_pictures")]
        + [{**guided, "stats": True}],
    )
    assert len(marks) == 5
    assert {"js", "flip", "delta_norm"} <= marks[4]["stats"]["mean"].keys()
    assert marks[4]["right"] == marks[0]["right"]


def test_nothing_is_marked_twice_and_a_cut_line_again(runs, tmp_path, monkeypatch):
    settings = [{"base": str(runs[0])}, {"base": str(runs[1]), "labels": {"arm": "a"}}]
    first = marked(tmp_path, settings)
    out = tmp_path / "marks.jsonl"
    lines = out.read_text().splitlines(keepends=True)
    with monkeypatch.context() as patched:
        patched.setattr(exam_run, "mark", lambda *a: pytest.fail("marked again"))
        settings[1]["labels"] = {"arm": "b"}  # labels change nothing
        marked(tmp_path, settings)
    out.write_text(lines[0] + lines[1][:-20])
    assert marked(tmp_path, settings)[0] == first[0]
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == [json.loads(x)["key"] for x in lines]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"base": "x", "style": "quick"}, "style='quick' is not one of free, slow, fast"),
        ({"base": "x", "control": "noise"}, "control='noise' is not one of none"),
        ({"base": "x", "samples": 2, "counts": [3]}, "must lie in 1..samples=2"),
        ({"base": "x", "amateur": "y"}, "an amateur without an expert"),
        ({"base": "x", "samples": 2, "nll": True}, "samples with stats or nll"),
        ({"bass": "x"}, "unknown key bass"),
    ],
)
def test_wrong_settings_are_named(tmp_path, setting, said):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"settings": [setting]}))
    with pytest.raises(ConfigError, match=f"setting 0: .*{said}"):
        read_plan(plan)


def test_questions_of_another_run_s_shards(runs, tmp_path):
    """The same model asked what another run's shards ask: its own answers to those, under another key."""
    other = write_asking_shards(tmp_path / "other", seed=1)
    config = asking_config(other, "d16", out=str(tmp_path / "runs"), budget={"steps": 10}, trainer={"rows_per_step": 8})
    train(config)
    asks = run_directory(config)
    own, asked = marked(tmp_path, [{"base": str(runs[0])}, {"base": str(runs[0]), "questions_of": str(asks)}])
    assert own["shards"] != asked["shards"]
    model, shards = load_run(runs[0]), shards_of(config)
    assert isinstance(shards, Shards)
    found, check = tasks(shards, config, "test", QUESTIONS), verifier(shards.tokenizer)
    said = generate(model, [Prompt(task.tokens, task.patches) for task in found], 12, check.stops)
    assert asked["right"] == sum(check.is_right(task, words) for task, words in zip(found, said, strict=True))
    flops = [generation_flops(model.config, len(t.tokens), len(w), 1) for t, w in zip(found, said, strict=True)]
    assert asked["flops_a_question"] == pytest.approx(sum(flops) / QUESTIONS)
    assert 0 < asked["prompt_flops_a_question"] < asked["flops_a_question"]


def test_questions_in_other_words_are_refused(runs, tmp_path):
    other = write_asking_shards(tmp_path / "other", name_words=60)
    config = asking_config(other, "d16", out=str(tmp_path / "runs"), budget={"steps": 10}, trainer={"rows_per_step": 8})
    train(config)
    with pytest.raises(ConfigError, match="questions_of=.*has other words|other words than those of base"):
        marked(tmp_path, [{"base": str(runs[0]), "questions_of": str(run_directory(config))}])
