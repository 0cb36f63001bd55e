"""Checkpoints that are cut, empty or differ in one bit: an older one is used, and told; without one, an error."""

from __future__ import annotations

import functools
import signal
from pathlib import Path

import drill_faults as faults
import pytest
from drill_processes import Processes
from drill_runs import Calm, how_it_ended, lines_of, log_of
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, checkpoints, read_record

HOW = ("truncated", "one bit", "empty")


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    match how:
        case "truncated":
            del data[middle:]
        case "one bit":
            data[middle] ^= 4
        case "empty":
            data.clear()
    path.write_bytes(data)


@pytest.fixture
def kept(processes: Processes, disturbed: RunConfig) -> list[Path]:
    """The checkpoints of a run that was stopped after step 11, the newest first."""
    assert processes.run(disturbed, functools.partial(faults.signalled, "step 11", signal.SIGTERM)) == 128 + 15
    found = checkpoints(run_directory(disturbed))
    assert [step for step, _ in found] == [11, 9]
    return [path for _, path in found]


@pytest.mark.parametrize("how", HOW)
def test_the_newest_is_damaged(
    processes: Processes, calm: Calm, disturbed: RunConfig, kept: list[Path], how: str
) -> None:
    damage(kept[0], how)
    calm.check(processes, disturbed)
    log = log_of(disturbed)
    assert "at step 9 of 24" in log
    assert kept[0].name in log, "nobody was told that the newest checkpoint was refused"


@pytest.mark.parametrize("how", HOW)
def test_all_are_damaged(processes: Processes, disturbed: RunConfig, kept: list[Path], how: str) -> None:
    for path in kept:
        damage(path, how)
    child = processes.start(disturbed)
    assert child.wait() == 1
    assert "CheckpointError" in child.log.read_text() and "none matches its checksum" in child.log.read_text()
    assert how_it_ended(disturbed)[0] == "failed"
    assert lines_of(attempts(run_directory(disturbed))[-1]) == [], "it began again from scratch"
    assert read_record(run_directory(disturbed)) is None
