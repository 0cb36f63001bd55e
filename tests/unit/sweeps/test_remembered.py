"""What a launch on SLURM was told is what the next one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_tools import FakeSlurm

from nmm.record import RecordError
from sweeps.launch_command import launch_main
from sweeps.slurm.remembered import FILE, recall


@pytest.fixture
def directory(plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return plan().path.parent


def launch(directory: Path, *options: str) -> int:
    return launch_main([str(directory), "launcher=slurm", *options])


def test_the_next_launch_needs_no_options(directory: Path, slurm: FakeSlurm, capsys) -> None:
    assert launch(directory, "slurm.partition=gpu", "slurm.mem=2G", "slurm.time=1:00:00") == 0
    capsys.readouterr()
    assert launch(directory, "slurm.mem=4G") == 0  # the queue is empty: everything is submitted again
    assert capsys.readouterr().out.startswith("as last time: slurm.partition=gpu slurm.time=1:00:00\n")
    first, *_, last = slurm.asked("sbatch")
    assert "--partition=gpu" in first and "--mem=2G" in first
    assert "--partition=gpu" in last and "--time=1:00:00" in last and "--mem=4G" in last


def test_an_empty_value_forgets_and_a_dry_run_changes_nothing(directory: Path, slurm: FakeSlurm) -> None:
    launch(directory, "slurm.partition=gpu", "slurm.mem=2G")
    launch(directory, "slurm.partition=cpu", "slurm.dry_run=yes")
    assert recall(directory) == {"partition": "gpu", "mem": "2G"}
    launch(directory, "slurm.mem=")
    assert recall(directory) == {"partition": "gpu"}


def test_a_file_that_is_none_of_ours_is_named(directory: Path, slurm: FakeSlurm) -> None:
    (directory / FILE).parent.mkdir(parents=True)
    (directory / FILE).write_text('{"mem": 3}')
    with pytest.raises(RecordError, match="options.json does not hold the options of a launch"):
        launch(directory)
