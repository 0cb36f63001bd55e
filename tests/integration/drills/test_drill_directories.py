"""Directories that cannot be written: an error that names them before any work, and nothing written elsewhere."""

from __future__ import annotations

import functools
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import drill_faults as faults
import pytest
from drill_processes import Processes
from drill_runs import Calm, last_step
from fake_sweep import wait_for
from lab import run_directory

from nmm.config import Logger, RunConfig
from nmm.record import attempts, read_record


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder for temporary files, which must stay empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def refused(processes: Processes, config: RunConfig, elsewhere: Path) -> str:
    """Run it where it cannot write: the last line of what it prints."""
    child = processes.start(config, functools.partial(faults.temporary_files_in, elsewhere))
    assert child.wait() == 1
    assert list(elsewhere.iterdir()) == [], "it wrote to the temporary directory instead"
    return child.log.read_text().splitlines()[-1]


def remounted(disk: Path, how: str) -> bool:
    """False while something is open for writing: wandb's own process lives a little longer than the run."""
    return subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True).returncode == 0


@pytest.mark.parametrize("logger", ["none", "wandb_offline"])
def test_read_only(
    processes: Processes, calm: Calm, disturbed: RunConfig, small_disk: Path, elsewhere: Path, logger: str
) -> None:
    """A disk that turns read-only between two attempts, as a broken one does."""
    config = replace(disturbed, out=str(small_disk / "runs"), logger=Logger(name=logger))
    code = processes.run(config, functools.partial(faults.signalled, "step 10", signal.SIGTERM))
    assert code == 128 + signal.SIGTERM
    wait_for(lambda: remounted(small_disk, "ro"), "the last writer to let go of the disk")
    said = refused(processes, config, elsewhere)
    assert str(run_directory(config)) in said and "Read-only" in said
    assert len(attempts(run_directory(config))) == 1
    assert remounted(small_disk, "rw")
    calm.check(processes, config)


@pytest.mark.parametrize("name", ["", "attempts"])
def test_a_file_is_in_the_way(
    processes: Processes, calm: Calm, disturbed: RunConfig, elsewhere: Path, name: str
) -> None:
    place = run_directory(disturbed) / name
    place.parent.mkdir(parents=True)
    place.write_text("not a directory")
    assert str(place) in refused(processes, disturbed, elsewhere)
    assert place.read_text() == "not a directory"
    place.unlink()
    assert last_step(disturbed) == 0 and read_record(run_directory(disturbed)) is None
    calm.check(processes, disturbed)
