"""Errors of a run by cause: told with that cause, the last good checkpoint kept, repeated only where that can help."""

from __future__ import annotations

import functools
from dataclasses import replace

import drill_faults as faults
import pytest
import torch
from drill_processes import NOT_DONE, Processes
from drill_runs import Calm, how_it_ended, last_step
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import checkpoints, load_table, newest_checkpoint, read_record, status


def test_a_weight_becomes_nan(processes: Processes, disturbed: RunConfig) -> None:
    """Diverged with the step; the newest checkpoint is finite; again is a no-op; no point of the law."""
    assert processes.run(disturbed, functools.partial(faults.poisoned, 11)) == NOT_DONE
    directory = run_directory(disturbed)
    record = read_record(directory)
    assert record is not None and record["status"] == status(directory) == "diverged"
    assert record["result"]["step"] == 11 and "loss nan" in record["result"]["error"]
    assert how_it_ended(disturbed) == ("diverged", "nan")
    found = newest_checkpoint(directory)
    assert found is not None and found[0] == 9 == checkpoints(directory)[0][0]
    weights = torch.load(found[1], weights_only=True)["model"]
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert last_step(disturbed) == 10
    assert processes.run(disturbed) == NOT_DONE
    assert load_table(directory.parent) == []


def test_out_of_memory_in_the_middle(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    assert processes.run(disturbed, functools.partial(faults.out_of_memory, 11)) == 1
    assert how_it_ended(disturbed) == ("failed", "oom")
    assert read_record(run_directory(disturbed)) is None
    calm.check(processes, disturbed)


@pytest.mark.parametrize("action", ["killed", "hung"])
def test_a_data_worker(processes: Processes, calm: Calm, disturbed: RunConfig, action: str) -> None:
    """One clear error of the training process, and the next attempt goes on."""
    config = replace(disturbed, trainer=replace(disturbed.trainer, num_workers=1))
    child = processes.start(config, functools.partial(faults.in_data_worker, 11, action))
    assert child.wait() == 1
    assert "a data worker gave no batch" in child.log.read_text().splitlines()[-1]
    assert how_it_ended(config) == ("failed", "timeout"), "data that are sound would not be tried again"
    assert newest_checkpoint(run_directory(config)) is not None
    calm.check(processes, config)
