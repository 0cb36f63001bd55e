"""One rank and two give the same run: same rows in the same order, losses equal to rounding; also across a stop."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import child_environment, metrics, nmm, run_directory, train

from nmm.config import RunConfig
from nmm.record import attempts, checkpoints, read_record, status

TOLERANCE = 1e-5
TinyConfig = Callable[..., RunConfig]


def overrides(config: RunConfig, devices: int) -> list[str]:
    """``config`` as a command line: the same run, on so many ranks."""
    trainer = {
        "devices": devices,
        "micro_batches": config.trainer.micro_batches,
        "compile": "off",
        "log_every_steps": 1,
    }
    return [
        f"arch={config.arch.name}",
        f"size={config.size.name}",
        f"data.path={config.data.path}",
        f"data.eval_rows={config.data.eval_rows}",
        f"budget.steps={config.total_steps}",
        f"schedule.warmup_steps={config.schedule.warmup_steps}",
        f"optim.lr={config.learning_rate}",
        f"out={config.out}",
        *(f"trainer.{name}={value}" for name, value in trainer.items()),
    ]


def assert_equal_to_rounding(one: RunConfig, other: RunConfig) -> None:
    first, second = (read_record(run_directory(config)) for config in (one, other))
    assert first is not None and second is not None
    assert first["result"]["order_hash"] == second["result"]["order_hash"]
    for source, loss in first["result"]["loss"].items():
        assert second["result"]["loss"][source] == pytest.approx(loss, rel=TOLERANCE)
    assert second["result"]["entropy"] == first["result"]["entropy"]
    rows, others = metrics(one), metrics(other)
    assert rows.keys() == others.keys()
    for key in rows:
        if key[1] == "train":
            assert others[key]["train_loss"] == pytest.approx(rows[key]["train_loss"], rel=TOLERANCE), key
            assert others[key]["lr"] == rows[key]["lr"]


def two_of(tiny_config: TinyConfig, tmp_path: Path, arch: str, **groups: Any) -> tuple[RunConfig, RunConfig]:
    """The run on one rank, trained here, and where the same run on two ranks goes."""
    trainer = {"micro_batches": 2, "log_every_steps": 1}
    alone = tiny_config(arch, trainer=trainer, out=str(tmp_path / "one"), **groups)
    train(alone)
    return alone, dataclasses.replace(alone, out=str(tmp_path / "two"))


def test_two_ranks_are_one(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """With accumulation, and with parameters that a rank's rows may not reach."""
    alone, both = two_of(tiny_config, tmp_path, "moe")
    done = nmm("train", *overrides(both, 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 12 steps") == 1
    assert [path.name for path in attempts(run_directory(both))] == ["0001"]
    assert_equal_to_rounding(alone, both)


def test_a_run_on_two_ranks_is_stopped_and_goes_on_on_one(tiny_config: TinyConfig, tmp_path: Path) -> None:
    slowly = {"lr": 1e-3}  # so that roundings do not grow over so many steps
    alone, both = two_of(tiny_config, tmp_path, "late", budget={"steps": 150}, optim=slowly)
    command = [sys.executable, "-m", "nmm.cli", "train", *overrides(both, 2)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        rows = run_directory(both) / "attempts" / "0001" / "metrics.jsonl"
        while process.poll() is None and not (rows.exists() and rows.read_text().count("\n") >= 5):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in errors
    assert status(run_directory(both)) == "interrupted"
    (step, _), *_ = checkpoints(run_directory(both))
    assert 5 <= step < 150
    train(both)
    assert_equal_to_rounding(alone, both)
