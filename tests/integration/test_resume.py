"""Kill it at any moment, start it again: the result is that of a run nobody disturbed, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lab import ARCHS, ROOT, child_environment, metrics, nmm, run_directory, train

from nmm.config import RunConfig
from nmm.record import attempts, checkpoints, read_record, status

STEPS = 80


@pytest.fixture(scope="module")
def drills() -> dict[str, dict]:
    """The resume drill of every architecture with two kills each, one of them while a checkpoint is being written."""
    script = [sys.executable, str(ROOT / "benchmarks" / "resume_drill.py")]
    done = subprocess.run(
        [*script, "--kills", "2", "--steps", "24", "--json"], env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return {drill["arch"]: drill for drill in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("arch", ARCHS)
def test_killed_at_random_moments(drills: dict[str, dict], arch: str) -> None:
    drill = drills[arch]
    assert drill["differing"] == []
    assert len(drill["killed_at"]) == 2
    assert drill["while_writing"] >= 1
    assert drill["rows"] == 24 + 1


def start(config: RunConfig, cwd: Path, *more: str, group: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nmm.cli", "train", *overrides(config), *more],
        cwd=cwd,
        start_new_session=group,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def overrides(config: RunConfig) -> list[str]:
    return [
        f"arch={config.arch.name}",
        f"size={config.size.name}",
        f"data.path={config.data.path}",
        f"data.eval_rows={config.data.eval_rows}",
        f"budget.steps={config.total_steps}",
        f"schedule.warmup_steps={config.schedule.warmup_steps}",
        f"out={config.out}",
        "trainer.micro_batches=2",
        "trainer.checkpoint_every_steps=4",
        "trainer.log_every_steps=1",
        "trainer.compile=off",
    ]


def wait_for_step(config: RunConfig, attempt: int, step: int, process: subprocess.Popen[str]) -> None:
    rows = run_directory(config) / "attempts" / f"{attempt:04d}" / "metrics.jsonl"
    while not (rows.exists() and f'"step": {step},' in rows.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_the_command_line_killed_then_stopped_then_finished(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """SIGKILL, then SIGTERM, then to the end: three processes of `nmm train` with the same command line."""
    trainer = {"micro_batches": 2, "log_every_steps": 1}
    alone = tiny_config("early", budget={"steps": STEPS}, trainer=trainer, out=str(tmp_path / "alone"))
    train(alone)
    config = replace(alone, out=str(tmp_path / "disturbed"))
    directory = run_directory(config)

    with start(config, tmp_path) as process:
        wait_for_step(config, 1, 9, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert status(directory) == "interrupted"
    assert checkpoints(directory)[0][0] >= 8

    with start(config, tmp_path) as process:
        wait_for_step(config, 2, 25, process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert output == ""
    stopped_at = checkpoints(directory)[0][0]
    assert errors == f"nmm train: stopped by SIGTERM after step {stopped_at}; run it again to go on\n"
    assert json.loads((directory / "attempts/0002/ended.json").read_text())["status"] == "interrupted"

    done = nmm("train", *overrides(config), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = read_record(run_directory(alone)), read_record(directory)
    assert first is not None and second is not None
    assert second["result"] == first["result"]
    assert metrics(config) == metrics(alone)
    assert len(attempts(directory)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "disturbed"]


def test_a_signal_to_all_processes_of_a_run_stops_it_at_a_step(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """As a scheduler sends it: the data workers must not die of it before the step is over."""
    config = tiny_config("early", budget={"steps": STEPS}, trainer={"micro_batches": 2}, out=str(tmp_path / "out"))
    with start(config, tmp_path, "trainer.num_workers=2", group=True) as process:
        wait_for_step(config, 1, 9, process)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    stopped_at = checkpoints(run_directory(config))[0][0]
    assert errors == f"nmm train: stopped by SIGTERM after step {stopped_at}; run it again to go on\n"
    assert (process.returncode, output) == (128 + signal.SIGTERM, "")
    assert json.loads((run_directory(config) / "attempts/0001/ended.json").read_text())["status"] == "interrupted"
