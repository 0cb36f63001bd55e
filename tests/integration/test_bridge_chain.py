"""A bridge as a user runs it: from a language run through random labels to a probe; frozen, stopped and gone on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import metrics, nmm, run_directory, train

from nmm.config import RunConfig
from nmm.model.build import build
from nmm.record import attempts, load_table
from nmm.start import run_weights
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

PICTURES = {"mixture": {"caption": 1.0, "interleaved": 0.0, "text": 0.0}}
TEXT = {"mixture": {"caption": 0.0, "interleaved": 0.0, "text": 1.0}}
ADOPT = {name: {"name": "from_start"} for name in ("arch", "block", "size")}
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def language(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of a few steps on texts, of four blocks."""
    config = make_config("early", size={"depth": 4}, data=TEXT, out=str(tmp_path_factory.mktemp("lm")))
    train(config)
    return config


def bridge(make_config: MakeConfig, origin: RunConfig, /, **groups: Any) -> RunConfig:
    stage = {"name": "bridge", "eval_images": 30, **groups.pop("stage", {})}
    begins = {"kind": "run", "path": str(run_directory(origin)), **groups.pop("start", {})}
    return make_config(**{**ADOPT, "start": begins, "stage": stage, "data": PICTURES, **groups})


def test_frozen_blocks_are_bit_equal_and_have_no_moments(
    make_config: MakeConfig, language: RunConfig, tmp_path: Path
) -> None:
    before = run_weights(run_directory(language))
    optim = {"weight_decay": 0.1}
    config = bridge(make_config, language, stage={"train": "1+2"}, optim=optim, out=str(tmp_path))
    record = train(config)
    after = run_weights(run_directory(config))
    learning = ("trunk.blocks.1.", "trunk.blocks.2.", "trunk.norm.", "connector.", "patch_position")
    for name, value in before.items():
        assert torch.equal(value, after[name]) != name.startswith(learning), name
    assert after["bridge_head.weight"].any()
    newest = max(run_directory(config).glob("attempts/*/checkpoints/*.pt"))
    moments = torch.load(newest, weights_only=True)["optimizer"]["state"]
    assert len(moments) == sum(parameter.requires_grad for parameter in build(config).parameters())
    assert record["result"]["outliers"]["before"]["blocks"][0] == record["result"]["outliers"]["after"]["blocks"][0]
    assert record["result"]["outliers"]["before"]["blocks"][1] != record["result"]["outliers"]["after"]["blocks"][1]


def test_stopped_and_gone_on_is_undisturbed_bit_for_bit(
    make_config: MakeConfig, language: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: dict[str, Any] = {
        "stage": {"train": "first:2", "labelled": 40, "shift": 1},
        "start": {"transform": "shuffle"},
        "trainer": {"checkpoint_every_steps": 3, "eval_every_steps": 4},
    }
    whole, torn = (
        bridge(make_config, language, **dict(groups), out=str(tmp_path / name)) for name in ("whole", "torn")
    )
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
    measured = {step for step, kind in metrics(whole) if kind == "held out"}
    assert measured == {4, 8, 12}, "labels are asked along the way"


def test_the_command_line_from_language_to_probe(language: RunConfig, tmp_path: Path) -> None:
    """A folder with one run is a start as well, so that a chain can be named before its runs are."""
    same = [f"data.path={language.data.path}", "data.eval_rows=6", "stage=bridge", "stage.eval_images=30", "start=run",
            "trainer.compile=off", "trainer.progress=false", "schedule.warmup_steps=2"]  # fmt: skip
    steps = ["budget.steps=6", "seed=0,1", "stage.train=first:2"]
    chain = [f"start.path={language.out}", "out=bridges/s${seed}"]
    bridged = nmm("train", "-m", *same, *steps, *chain, cwd=tmp_path)
    assert bridged.returncode == 0, bridged.stderr
    assert "labels of training fitted" in bridged.stdout and "held-out classes right" in bridged.stdout
    probe = [
        "stage.labels=truth",
        "stage.train=none",
        "start.fresh=[patch,labels]",
        "start.path=bridges/s1",
        "out=probes",
    ]
    probed = nmm("train", *same, *probe, "budget.steps=6", cwd=tmp_path)
    assert probed.returncode == 0, probed.stderr
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("probes/*/record.json"))
    (start,) = tmp_path.glob("bridges/s1/*")
    assert record["stage"] == "bridge" and set(record["tokens"]["by_source"]) == {"caption"}
    marks = record["result"]["bridge"]
    assert marks["images"] >= 30 and 0 <= marks["accuracy"] <= 1 and marks["train_loss"] > 0
    (probe_run,) = tmp_path.glob("probes/*")
    body, carried = run_weights(probe_run), run_weights(start)
    assert all(
        torch.equal(body[name], carried[name]) for name in body if name.startswith(("trunk.", "embedding", "head"))
    )
    assert load_table(tmp_path / "probes") == [], "no point of a law"
    refused = nmm("train", *same, "start.path=bridges", "budget.steps=6", cwd=tmp_path)
    assert refused.returncode == 2 and "holds no config.json" in refused.stderr
