"""Instruction tuning as a user runs it: pretrained, tuned, stopped and gone on; and what the record says then."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ARCHS, metrics, nmm, run_directory, tiny_config_on, train

from nmm.config import RunConfig
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.record import attempts, load_table, read_record
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

MIXTURE = {"caption": 0.5, "interleaved": 0.5, "text": 0.0}
STAGE = {"name": "sft", "eval_questions": 8, "eval_captions": 10}
ADOPT = {"block": {"name": "from_start"}, "size": {"name": "from_start"}, "arch": {"name": "from_start"}}


def tuned_from(config: RunConfig, **groups: Any) -> dict[str, Any]:
    """The groups of a run that tunes a finished one."""
    start = {"kind": "run", "path": str(run_directory(config))}
    return {**ADOPT, "start": start, "stage": STAGE, "data": {"mixture": MIXTURE}, **groups}


@pytest.fixture(scope="module")
def pretrained(
    make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunConfig]:
    """``pretrained(arch)``: a finished run of a few steps, made once."""

    @functools.cache
    def finished(arch: str) -> RunConfig:
        config = make_config(arch, out=str(tmp_path_factory.mktemp(arch)))
        train(config)
        return config

    return finished


@pytest.mark.parametrize("arch", ARCHS)
def test_stopped_and_gone_on_is_undisturbed_bit_for_bit(
    make_config: Callable[..., RunConfig],
    pretrained: Callable[[str], RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
) -> None:
    groups = tuned_from(pretrained(arch), trainer={"checkpoint_every_steps": 3})
    whole, torn = (make_config(**groups, out=str(tmp_path / name)) for name in ("whole", "torn"))
    expected = train(whole)
    update = TrainingModule._update

    def stopped_at_seven(module: TrainingModule, *measured: Any) -> None:
        update(module, *measured)
        if module.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(TrainingModule, "_update", stopped_at_seven)
        train(torn)
    assert train(torn)["result"] == expected["result"]
    assert len(attempts(run_directory(torn))) == 2
    assert metrics(torn) == metrics(whole)


def test_the_record_holds_marks_losses_and_counts_of_what_was_learned(
    make_config: Callable[..., RunConfig], pretrained: Callable[[str], RunConfig], tmp_path: Path
) -> None:
    first = pretrained("early")
    config = make_config(**tuned_from(first), out=str(tmp_path))
    record = train(config)
    marks = record["result"]["sft"]
    assert set(marks["accuracy"]) == set(marks["chance"]) == set(marks["stderr"]) == {*marks["questions"], "avg"}
    assert 0 <= marks["cider"] < marks["cider_truth"] < 10
    assert set(record["result"]["loss"]) == {"caption", "interleaved", "text", "avg", "mixture"}
    pretraining = read_record(run_directory(first))
    assert pretraining is not None
    share, before = (r["tokens"]["targets"] / r["tokens"]["positions"] for r in (record, pretraining))
    assert 0 < share < 0.6 * before
    assert set(record["tokens"]["by_source"]) == {"caption", "interleaved"}
    assert record["stage"] == "sft" and load_table(tmp_path) == [], "a tuned run is no point of a law"
    last = json.loads((run_directory(config) / "attempts" / "0001" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sft_cider"] == marks["cider"]
    assert last["sft_accuracy_colour"] == marks["accuracy"]["colour"]
    assert record["result"]["weights_sha256"] != pretraining["result"]["weights_sha256"]


def test_the_command_line(pretrained: Callable[[str], RunConfig], tmp_path: Path) -> None:
    first = pretrained("moe")
    start = [f"start.path={run_directory(first)}", f"data.path={first.data.path}", "data.eval_rows=6"]
    small = ["budget.steps=3", "stage.eval_questions=4", "stage.eval_captions=4", "trainer.compile=off"]
    done = nmm("train", "stage=sft", "start=run", *start, *small, "out=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json"))
    assert record["arch"] == "moe" and "cider" in record["result"]["sft"]


@pytest.mark.slow
def test_a_little_training_beats_chance(tmp_path: Path) -> None:
    """A small world with few entities and colours, some 40 seconds of training."""
    world = WorldConfig(num_entities=40, name_words=8, num_colours=4, question_chain=(1.0, 0.6))
    counts = {"train": 3000, "val": 400}
    write_shards(world, tmp_path / "shards", {s: counts for s in (*MIXTURE,)}, 512, progress=False)
    out = {"out": str(tmp_path / "runs")}
    first = tiny_config_on(tmp_path / "shards", "early", "d32", budget={"steps": 700}, **out)
    train(first)
    stage = {"name": "sft", "eval_questions": 100, "eval_captions": 40, "lr_scale": 0.3}
    config = tiny_config_on(tmp_path / "shards", **tuned_from(first, stage=stage), budget={"steps": 300}, **out)
    marks = train(config)["result"]["sft"]
    assert marks["accuracy"]["colour"] > marks["chance"]["colour"] + 0.25, marks  # five standard errors
    assert marks["cider"] > 0.5 * marks["cider_truth"], marks
