"""The same sweep submitted twice at once, by two people or by SLURM itself: one result a run."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import executed, plan_sweep
from lab import ROOT
from slurm_lab import Cluster
from slurm_sweeps import Sweep, fake

from sweeps.slurm.submissions import read_submissions

pytestmark = pytest.mark.slurm


def test_two_launches_at_once_submit_every_run_once(slurm: Cluster, tmp_path: Path) -> None:
    plan_sweep(tmp_path / "runs", sizes=["d16", "d32", "d48"])
    sweep = fake(slurm, tmp_path / "runs")
    said: list[tuple[int, str]] = []
    launches = [threading.Thread(target=lambda: said.append(sweep.launch())) for _ in range(2)]
    for launch in launches:
        launch.start()
    for launch in launches:
        launch.join()
    assert 0 in [code for code, _ in said], said
    submitted = [run for submission in read_submissions(sweep.directory) for run in submission.runs]
    assert sorted(submitted) == sorted(sweep.runs), said
    sweep.finish()
    assert sorted(entry["run_id"] for entry in executed(sweep.directory)) == sorted(sweep.runs)


def test_every_task_twice_at_once(slurm: Cluster, trained: Path, calm_results: dict[str, Any]) -> None:
    """The arrays of a launch, and the same chunks submitted by hand: each run has two tasks."""
    sweep = Sweep(slurm, trained)
    sweep.start()
    trunk, branch = read_submissions(trained)
    assert (trunk.level, branch.level) == ("trunk", "branch")
    chunk = f"{sys.executable} -m sweeps.commands chunk {trained} --index $SLURM_ARRAY_TASK_ID --submission"
    first = slurm.submit("--array=0-0", "--wrap", f"PYTHONPATH={ROOT} {chunk} {trunk.number}")
    after = f"--dependency=afterany:{first}:{trunk.job}"
    second = slurm.submit("--array=0-0", after, "--wrap", f"PYTHONPATH={ROOT} {chunk} {branch.number}")
    sweep.finish()
    assert set((slurm.wait(first, seconds=300) | slurm.wait(second, seconds=300)).values()) == {"COMPLETED"}
    sweep.check(calm_results)
