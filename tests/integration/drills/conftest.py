"""Fixtures of the drills: cheap processes, one small run that every drill disturbs, the same run undisturbed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drill_processes import Processes
from drill_runs import CHECKPOINT_EVERY, EVALUATE_EVERY, STEPS, Calm, rows
from lab import child_environment
from slurm_sweeps import nmm, plan_training, results_of

from nmm.config import RunConfig


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """For the whole session, as the server they are forked from takes seconds to import everything."""
    made = Processes(tmp_path_factory.mktemp("processes"))
    yield made
    made.end_all()


@pytest.fixture(scope="session")
def calm(processes: Processes, make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """Two micro-batches a step, every step logged, checkpoints and evaluations in between."""
    trainer = {
        "micro_batches": 2,
        "log_every_steps": 1,
        "checkpoint_every_steps": CHECKPOINT_EVERY,
        "eval_every_steps": EVALUATE_EVERY,
    }
    config = make_config(budget={"steps": STEPS}, trainer=trainer, out=str(tmp_path_factory.mktemp("calm")))
    record = processes.finish(config)
    assert record["status"] == "done"
    return Calm(config, record["result"], rows(config))


@pytest.fixture
def disturbed(calm: Calm, tmp_path: Path) -> RunConfig:
    """The same run in a directory of this drill's own."""
    return replace(calm.config, out=str(tmp_path / "runs"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB of its own; only root can have one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root; a limit on the size of files is tried in its place")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def calm_results(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run id -> result of the sweep that the SLURM drills disturb, when nothing happens to it."""
    directory = tmp_path_factory.mktemp("calm-sweep") / "runs"
    plan_training(directory, tiny_shards)
    code, text = nmm(child_environment(), "sweep", "launch", str(directory), "workers=1", "pin=off")
    assert code == 0, text
    return results_of(directory)


@pytest.fixture
def trained(tiny_shards: Path, tmp_path: Path) -> Path:
    """The same sweep, planned in a directory of this drill's own."""
    plan_training(tmp_path / "runs", tiny_shards)
    return tmp_path / "runs"
