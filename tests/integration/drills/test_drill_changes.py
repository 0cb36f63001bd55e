"""What changes between two attempts, or under one: clocks, configs, code, torn files."""

from __future__ import annotations

import functools
import json
import os
import signal
from dataclasses import replace

import drill_faults as faults
import pytest
from drill_processes import LIMIT_SECONDS, Processes
from drill_runs import Calm, how_it_ended, lines_of, log_of
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, newest_checkpoint, read_record
from sweeps.progress import last_step

HOUR = 3600.0


def stop_at(processes: Processes, config: RunConfig, step: int) -> None:
    assert processes.run(config, functools.partial(faults.signalled, f"step {step}", signal.SIGTERM)) == 128 + 15


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_the_clock_is_stepped_between_attempts(
    processes: Processes, calm: Calm, disturbed: RunConfig, step: float
) -> None:
    """Files of the first attempt are an hour from the future or the past; order comes from numbers and steps."""
    stop_at(processes, disturbed, 8)
    stop_at(processes, disturbed, 10)
    older, newer = attempts(run_directory(disturbed))
    for path in [*older.rglob("*"), older]:
        moved = path.stat().st_mtime + step
        os.utime(path, (moved, moved))
    found = newest_checkpoint(run_directory(disturbed))
    assert found is not None and found[0] == 10 and found[1].is_relative_to(newer)
    calm.check(processes, disturbed)


@pytest.mark.parametrize("offsets", [(0.0, HOUR), (0.0, -HOUR), (0.0, HOUR, -HOUR) * 8])
def test_the_clock_is_stepped_while_it_trains(
    processes: Processes, calm: Calm, disturbed: RunConfig, offsets: tuple[float, ...]
) -> None:
    """Durations do not come from the wall clock."""
    assert processes.run(disturbed, functools.partial(faults.clock_stepped, offsets)) == 0
    record = calm.check(processes, disturbed)
    assert 0 < record["wall_seconds"] < LIMIT_SECONDS
    assert record["tokens_per_second"] > disturbed.total_steps * disturbed.tokens_per_step / LIMIT_SECONDS


def test_the_config_on_disk_is_another(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    stop_at(processes, disturbed, 10)
    path = run_directory(disturbed) / "config.json"
    text = path.read_text()
    changed = json.loads(text)
    changed["identity"]["optim"]["weight_decay"] = 0.5
    path.write_text(json.dumps(changed))
    child = processes.start(disturbed)
    assert child.wait() == 1
    assert str(path) in child.log.read_text().splitlines()[-1]
    assert len(attempts(run_directory(disturbed))) == 1 and read_record(run_directory(disturbed)) is None
    path.write_text(text)
    calm.check(processes, disturbed)


def test_the_code_is_another(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """Refused with the name of what changed; with the old code back it goes on; other code only if asked for."""
    stop_at(processes, disturbed, 10)
    child = processes.start(disturbed, faults.other_code)
    assert child.wait() == 1
    last = child.log.read_text().splitlines()[-1]
    assert "nmm.model.layers" in last and "trainer.changed_code=accept" in last
    assert how_it_ended(disturbed) == ("failed", "config")
    assert lines_of(attempts(run_directory(disturbed))[-1]) == []
    calm.check(processes, disturbed)


def test_other_code_is_accepted_when_asked_for(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """The record says that two codes made it."""
    stop_at(processes, disturbed, 10)
    config = replace(disturbed, trainer=replace(disturbed.trainer, changed_code="accept"))
    assert processes.run(config, faults.other_code) == 0
    record = read_record(run_directory(config))
    assert record is not None and record["result"]["weights_sha256"] == calm.result["weights_sha256"]
    assert len(record["versions"]["code_history"]) == 2
    assert "nmm.model.layers" in log_of(config)


def test_a_torn_last_line_of_metrics(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """What a killed process may leave; readers see the lines before it, and the next attempt logs the step again."""
    assert processes.run(disturbed, functools.partial(faults.killed_near, 11, 0.0)) == -signal.SIGKILL
    (attempt,) = attempts(run_directory(disturbed))
    metrics = attempt / "metrics.jsonl"
    data = metrics.read_bytes()
    metrics.write_bytes(data[: data[:-1].rfind(b"\n") + 20])
    assert lines_of(attempt)[-1]["step"] == last_step(run_directory(disturbed)) == 9
    calm.check(processes, disturbed)
