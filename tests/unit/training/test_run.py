"""Whole runs in this process: branches, workers, damaged checkpoints, second finishers, divergence, interruptions.

Everything is compared bit for bit: the digest of the weights, the losses and every row of metrics.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ARCHS, metrics, run_directory, train

from nmm.config import Budget, Parent, RunConfig, Schedule, run_id
from nmm.record import CheckpointError, RecordError, attempts, checkpoints, read_json, read_record, status, write_json
from nmm.training import run
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

TinyConfig = Callable[..., RunConfig]
OFTEN: dict[str, Any] = {"checkpoint_every_steps": 3}


@pytest.fixture(scope="module")
def undisturbed(
    make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunConfig]:
    """``undisturbed(arch)``: a finished run of twelve steps, made once."""

    @functools.cache
    def finished(arch: str) -> RunConfig:
        config = make_config(arch, out=str(tmp_path_factory.mktemp(arch)), trainer={"micro_batches": 2})
        train(config)
        return config

    return finished


@pytest.fixture(params=ARCHS)
def each(request: pytest.FixtureRequest, undisturbed: Callable[[str], RunConfig]) -> RunConfig:
    """The undisturbed run of every architecture."""
    return undisturbed(request.param)


@pytest.fixture
def alone(undisturbed: Callable[[str], RunConfig]) -> RunConfig:
    """The undisturbed run of the architecture with the most parts."""
    return undisturbed("moe")


def elsewhere(config: RunConfig, folder: Path, **trainer: Any) -> RunConfig:
    """The same run in another folder; ``trainer`` may change what does not change the result."""
    other = dataclasses.replace(config, out=str(folder), trainer=dataclasses.replace(config.trainer, **trainer))
    assert run_id(other) == run_id(config)
    return other


def assert_same(one: RunConfig, other: RunConfig) -> None:
    """Both finished with the same weights, losses, order and metrics, bit for bit."""
    first, second = read_record(run_directory(one)), read_record(run_directory(other))
    assert first is not None and second is not None
    assert first["result"] == second["result"]
    expected = {"loss", "entropy", "class_excess", "grounded", "order_hash", "weights_sha256"}
    expected |= {"skipped_steps", "skipped_samples"}
    assert expected | ({"routing"} if one.arch.num_experts else set()) == set(first["result"])
    assert metrics(one) == metrics(other)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]) -> None:
    """Call ``do`` once, right after the update numbered ``step``."""
    update = TrainingModule._update

    def updated(module: TrainingModule, *measured: Any) -> None:
        update(module, *measured)
        if module.step == step:
            monkeypatch.setattr(TrainingModule, "_update", update)
            do()

    monkeypatch.setattr(TrainingModule, "_update", updated)


# --------------------------------------------------------------------------------------------------------- same result


def test_a_branch_is_bit_equal_to_a_run_of_its_own(each: RunConfig, tmp_path: Path) -> None:
    """The key claim of trunk and branches: one trunk, two lengths, each the very run it would have been alone."""
    short = dataclasses.replace(each, out=str(tmp_path), budget=Budget(steps=8))
    long = dataclasses.replace(each, out=str(tmp_path))
    train(short)
    trunk = dataclasses.replace(
        long, role="trunk", keep_steps=(6, 9), budget=Budget(steps=9), schedule=Schedule(4, cooldown_fraction=0.0)
    )
    train(trunk)
    for whole in (short, long):
        branch = dataclasses.replace(whole, role="branch", parent=Parent(run_id(trunk), whole.branch_step))
        record = train(branch)
        expected = read_record(run_directory(short if whole is short else each))
        assert expected is not None
        assert record["result"] == expected["result"]
        assert (record["tokens"], record["flops"]) == (expected["tokens"], expected["flops"])
        shared = {key: row for key, row in metrics(trunk).items() if key[0] <= whole.branch_step and key[0] % 2 == 0}
        assert {**shared, **metrics(branch)} == metrics(short if whole is short else each)


def test_a_branch_may_leave_its_trunk_before_the_cooldown(alone: RunConfig, tmp_path: Path) -> None:
    trunk = dataclasses.replace(
        alone, out=str(tmp_path), role="trunk", keep_steps=(5,), budget=Budget(steps=5),
        schedule=Schedule(4, cooldown_fraction=0.0),
    )  # fmt: skip
    train(trunk)
    branch = dataclasses.replace(alone, out=str(tmp_path), role="branch", parent=Parent(run_id(trunk), 5))
    expected = read_record(run_directory(alone))
    assert expected is not None
    assert train(branch)["result"] == expected["result"]


@pytest.mark.parametrize(
    "trainer",
    [
        {"num_workers": 2},
        {"checkpoint_every_steps": 1},
        {"eval_every_steps": 5, "log_every_steps": 2},
        {"checkpoint_every_seconds": 0.001},
    ],
    ids=["workers", "checkpoints", "evaluations", "checkpoints by time"],
)
def test_how_it_is_executed_changes_no_bit(alone: RunConfig, tmp_path: Path, trainer: dict[str, Any]) -> None:
    other = elsewhere(alone, tmp_path, **trainer)
    result = train(other)["result"]
    expected = read_record(run_directory(alone))
    assert expected is not None
    assert result == expected["result"]
    planned = {step for step, kind in metrics(other) if kind == "held out"}
    assert planned == ({5, 10, 12} if "eval_every_steps" in trainer else {12})


def test_another_run_before_it_in_the_process_changes_no_bit(alone: RunConfig, tmp_path: Path) -> None:
    """Several runs a process, as the launcher does it."""
    train(dataclasses.replace(alone, out=str(tmp_path), seed=9))
    same = elsewhere(alone, tmp_path)
    train(same)
    assert_same(alone, same)


# ------------------------------------------------------------------------------------------------------ finished runs


def test_a_finished_run_is_left_alone(alone: RunConfig) -> None:
    record = run_directory(alone) / "record.json"
    before, made = record.stat().st_mtime_ns, len(attempts(run_directory(alone)))
    assert train(alone) == json.loads(record.read_text())
    assert record.stat().st_mtime_ns == before
    assert len(attempts(run_directory(alone))) == made


def copy_of(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A finished copy whose next ``execute`` does not look for the record first: it is the second finisher."""
    same = elsewhere(config, folder)
    train(same)
    monkeypatch.setattr(run, "read_record", lambda directory: None)
    return same


def test_a_second_finisher_that_agrees_gets_the_published_record(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = copy_of(alone, tmp_path, monkeypatch)
    published = (run_directory(same) / "record.json").read_bytes()
    for checkpoint in run_directory(same).glob("attempts/*/checkpoints/*"):
        checkpoint.unlink()  # so that it trains all steps again
    assert train(same) == json.loads(published)
    assert (run_directory(same) / "record.json").read_bytes() == published
    assert list(run_directory(same).glob("alarm-*")) == []
    assert [path.name for path in attempts(run_directory(same))] == ["0001", "0002"]


def test_a_second_finisher_that_disagrees_raises_an_alarm(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = copy_of(alone, tmp_path, monkeypatch)
    path = run_directory(same) / "record.json"
    record = json.loads(path.read_text())
    record["result"]["weights_sha256"] = "0" * 64
    write_json(path, record)
    with pytest.raises(RecordError, match="attempt 0002 finished with another result than the published record"):
        train(same)
    alarm = read_json(run_directory(same) / "alarm-0002.json")
    assert alarm["published"]["weights_sha256"] == "0" * 64
    assert alarm["this"]["weights_sha256"] != "0" * 64
    assert json.loads(path.read_text()) == record
    assert read_json(attempts(run_directory(same))[-1] / "ended.json")["status"] == "failed"


# ------------------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    ("signum", "arch"),
    [
        (signal.SIGTERM, "early"),
        (signal.SIGTERM, "late"),
        (signal.SIGTERM, "moe"),
        (signal.SIGUSR1, "moe"),
        (signal.SIGINT, "moe"),
    ],
)
def test_a_signal_ends_the_attempt_at_a_step_and_going_on_is_bit_equal(
    undisturbed: Callable[[str], RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
    arch: str,
) -> None:
    alone = undisturbed(arch)
    same = elsewhere(alone, tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    stop_after(monkeypatch, 7, lambda: os.kill(os.getpid(), signum))
    with pytest.raises(Interrupted, match=f"stopped by {signum.name} after step 7") as stopped:
        train(same)
    assert stopped.value.code == 128 + signum
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert [step for step, _ in checkpoints(run_directory(same))] == [7]
    assert status(run_directory(same)) == "interrupted"
    assert read_json(attempts(run_directory(same))[0] / "ended.json")["status"] == "interrupted"
    assert not (run_directory(same) / "record.json").exists()
    train(same)
    assert_same(alone, same)
    log = (attempts(run_directory(same))[1] / "log.txt").read_text()
    assert "at step 7 of 12" in log and log.rstrip().endswith("ended: done")


def test_a_crash_is_told_and_going_on_is_bit_equal(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise RuntimeError("the disk is on fire")

    same = elsewhere(alone, tmp_path, **OFTEN)
    stop_after(monkeypatch, 8, crash)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        train(same)
    assert status(run_directory(same)) == "failed"
    assert "the disk is on fire" in read_json(attempts(run_directory(same))[0] / "ended.json")["detail"]
    train(same)
    assert_same(alone, same)


def half_done(alone: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, list[Path]]:
    """A run that was stopped after step 8, and its checkpoints of steps 6 and 8... newest first."""
    same = elsewhere(alone, folder, **OFTEN)
    stop_after(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(same)
    kept = checkpoints(run_directory(same))
    assert [step for step, _ in kept] == [8, 6]
    return same, [path for _, path in kept]


@pytest.mark.parametrize("how", ["truncated", "one bit"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_older(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    same, (newest, _) = half_done(alone, tmp_path, monkeypatch)
    data = newest.read_bytes()
    half = len(data) // 2
    newest.write_bytes(data[:half] if how == "truncated" else data[:half] + bytes([data[half] ^ 4]) + data[half + 1 :])
    train(same)
    assert_same(alone, same)
    assert "at step 6 of 12" in (attempts(run_directory(same))[1] / "log.txt").read_text()


def test_when_no_checkpoint_verifies_nothing_is_restarted(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, kept = half_done(alone, tmp_path, monkeypatch)
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="2 checkpoints, none matches its checksum"):
        train(same)
    assert (attempts(run_directory(same))[1] / "metrics.jsonl").read_text() == ""
    assert not (run_directory(same) / "record.json").exists()


def test_a_run_stopped_after_its_last_step_only_evaluates(
    alone: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = elsewhere(alone, tmp_path)
    evaluate = run._evaluate

    def killed(*_: Any) -> dict[str, Any]:
        monkeypatch.setattr(run, "_evaluate", evaluate)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(same)
    train(same)
    assert_same(alone, same)
    rows = (attempts(run_directory(same))[1] / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 1
