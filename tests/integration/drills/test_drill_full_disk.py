"""The disk is full: the run has failed and says so, nothing that was good is lost, and with more room it goes on."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import drill_faults as faults
import pytest
from drill_processes import Processes
from drill_runs import Calm, how_it_ended, last_step
from fake_sweep import fill_disk
from lab import run_directory

from nmm.config import Logger, RunConfig
from nmm.record import attempts, newest_checkpoint, read_record, status


def on(config: RunConfig, disk: Path | None, moment: str) -> RunConfig:
    """The run on a small disk, with a checkpoint at ``faults.FULL_AFTER`` (and at the end)."""
    every = 1 if moment == "checkpoint" else faults.FULL_AFTER
    logger = Logger(name="wandb_offline") if moment == "wandb" else config.logger
    trainer = replace(config.trainer, checkpoint_every_steps=every)
    return replace(config, trainer=trainer, logger=logger, out=str(disk / "runs") if disk else config.out)


def check_failed(config: RunConfig, moment: str, code: int, log: str) -> None:
    directory = run_directory(config)
    assert code == 1, log
    assert status(directory) == "failed"
    assert how_it_ended(config) == ("failed", "disk")
    assert read_record(directory) is None
    assert str(directory) in log.splitlines()[-1], "the error does not name what could not be written"
    found = newest_checkpoint(directory)
    assert found is not None and found[0] == (24 if moment == "record" else faults.FULL_AFTER)


@pytest.mark.parametrize("moment", faults.FULL_AT)
def test_full(processes: Processes, calm: Calm, disturbed: RunConfig, small_disk: Path, moment: str) -> None:
    config = on(disturbed, small_disk, moment)
    child = processes.start(config, functools.partial(faults.full_disk, moment, small_disk))
    check_failed(config, moment, child.wait(), child.log.read_text())
    (small_disk / "filler").unlink()
    calm.check(processes, config)


@pytest.mark.parametrize("moment", faults.FULL_AT)
def test_files_may_not_grow(processes: Processes, calm: Calm, disturbed: RunConfig, moment: str) -> None:
    config = on(disturbed, None, moment)
    child = processes.start(config, functools.partial(faults.full_disk, moment, None))
    check_failed(config, moment, child.wait(), child.log.read_text())
    calm.check(processes, config)


def test_full_before_it_begins(processes: Processes, calm: Calm, disturbed: RunConfig, small_disk: Path) -> None:
    config = on(disturbed, small_disk, "metrics")
    fill_disk(small_disk)
    child = processes.start(config)
    assert child.wait() == 1
    assert str(run_directory(config)) in child.log.read_text().splitlines()[-1]
    assert last_step(config) == 0 and read_record(run_directory(config)) is None
    (small_disk / "filler").unlink()
    calm.check(processes, config)
    assert len(attempts(run_directory(config))) <= 2
