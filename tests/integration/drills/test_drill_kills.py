"""kill -9, at any moment: the next attempt goes on, and the result is that of a run nobody disturbed, bit for bit."""

from __future__ import annotations

import functools
import hashlib
import random
import signal
import time
from pathlib import Path
from typing import BinaryIO

import drill_faults as faults
import pytest
from drill_processes import Processes
from drill_runs import CHECKPOINT_EVERY, STEPS, Calm, lines_of
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, begin_attempt, newest_checkpoint, status

KILLS = 20


def test_killed_at_twenty_random_steps(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    rng = random.Random(6)
    for step in sorted(rng.sample(range(1, STEPS), KILLS)):
        delay = rng.choice([0.0, rng.uniform(0.0, 0.015)])
        assert processes.run(disturbed, functools.partial(faults.killed_near, step, delay)) == -signal.SIGKILL
        assert status(run_directory(disturbed)) == "interrupted"
    calm.check(processes, disturbed)
    assert len(attempts(run_directory(disturbed))) == KILLS + 1


@pytest.mark.parametrize("moment", faults.MOMENTS)
def test_killed_inside_a_checkpoint(processes: Processes, calm: Calm, disturbed: RunConfig, moment: str) -> None:
    step = 4 * CHECKPOINT_EVERY
    assert processes.run(disturbed, functools.partial(faults.killed_in_checkpoint, step, moment)) == -signal.SIGKILL
    found = newest_checkpoint(run_directory(disturbed))
    assert found is not None
    assert found[0] == (step if moment == "before an older one goes" else step - CHECKPOINT_EVERY)
    calm.check(processes, disturbed)


SAVED_BYTES = 1 << 18


def content(step: int) -> bytes:
    """What the checkpoint of a step holds in the loop of saves."""
    return (hashlib.sha256(str(step).encode()).digest() * (SAVED_BYTES // 32))[:SAVED_BYTES]


def write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def save_for_ever(run: Path) -> None:
    """A checkpoint as often as the disk allows, each told in the metrics once it is saved."""
    found = newest_checkpoint(run)
    step, made = found[0] if found else 0, begin_attempt(run)
    while True:
        step += 1
        data = content(step)
        made.save_checkpoint(step, functools.partial(write, data))
        made.log_metrics({"step": step})


def test_killed_twenty_times_in_a_loop_of_saves(processes: Processes, tmp_path: Path) -> None:
    """What was told as saved is there, whole, whenever the kill comes."""
    rng, run = random.Random(7), tmp_path / "run"
    for number in range(1, KILLS + 1):
        child = processes.call(save_for_ever, run)
        folder = run / "attempts" / f"{number:04d}"
        child.until(lambda folder=folder: len(lines_of(folder)) >= 3, "three saves")
        time.sleep(rng.uniform(0.0, 0.02))
        child.process.kill()
        assert child.wait() == -signal.SIGKILL
        found = newest_checkpoint(run)
        assert found is not None
        assert found[0] >= lines_of(folder)[-1]["step"]
        assert found[1].read_bytes() == content(found[0])
    begin_attempt(run).end("interrupted")
    assert [str(path) for path in run.rglob("*.tmp")] == []
