"""`nmm sweep launch DIR launcher=slurm` against a real controller; only the training inside the tasks is fake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fake_sweep import ROOT, RUNNER, behave_as, environment, executed, plan_sweep, wait_for
from slurm_lab import Cluster

from nmm.record import read_record
from sweeps.manifest import Entry
from sweeps.slurm.submissions import read_submissions

pytestmark = pytest.mark.slurm
ONE_EACH = ("launcher=slurm", f"runner={RUNNER}", "slurm.chunk=0.01s", "slurm.signal_seconds=30")


def sweep(slurm: Cluster, *arguments: str) -> tuple[int, str]:
    """An `nmm sweep` command on the cluster: its status and all it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.commands", *arguments],
        env=slurm.env | {"PYTHONPATH": environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def jobs(directory: Path) -> list[str]:
    return [submission.job for submission in read_submissions(directory)]


def wait_until_over(slurm: Cluster, directory: Path, seconds: float = 120.0) -> None:
    """Until no task of any submission is in the queue."""
    names = ",".join(submission.name for submission in read_submissions(directory))
    what = f"the queue to be empty of {names}; {slurm.run('squeue', '-r').stdout}"
    wait_for(lambda: not slurm.ask("squeue", "-h", "-n", names), what, seconds)


def sleeping(directory: Path) -> tuple[list[Entry], list[str]]:
    """A planned sweep whose runs go on for a minute in their first attempt, and its trunks."""
    entries = plan_sweep(directory)
    behave_as(directory, {entry.run_id: ["sleep", "ok"] for entry in entries})
    return entries, [entry.run_id for entry in entries if entry.role == "trunk"]


def wait_for_checkpoints(directory: Path, runs: list[str]) -> None:
    for run in runs:
        wait_for(lambda run=run: list((directory / run).glob("attempts/*/checkpoints/*.json")), f"{run} to save", 90)


def test_a_whole_sweep_through_the_queue_and_launched_again_at_every_stage(slurm: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    entries = plan_sweep(directory)
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    assert code == 0, text
    assert "submitted 2 arrays (job " in text and "6 tasks, 6 runs, 0 done of 6 runs" in text
    trunks, branches = jobs(directory)
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    assert code == 0 and "submitted" not in text, text
    assert jobs(directory) == [trunks, branches]
    for job, count in ((trunks, 2), (branches, 4)):
        states = slurm.wait(job, {"COMPLETED"}, 120)
        assert len(states) == count
    made = [entry["run_id"] for entry in executed(directory)]
    assert sorted(made) == sorted(entry.run_id for entry in entries)
    assert all(made.index(e.parent_id) < made.index(e.run_id) for e in entries if e.parent_id)
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    assert code == 0 and text.startswith("all 6 runs are done; next: `nmm sweep table"), text
    assert "array.sbatch: task" in (directory / "launcher" / "slurm" / "0001-0.log").read_text()


def test_only_failed_lines_are_submitted_again(slurm: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    entries = plan_sweep(directory)
    bad = entries[-1].run_id
    behave_as(directory, {bad: ["kill"]})
    sweep(slurm, "launch", str(directory), *ONE_EACH, "slurm.attempts=2")
    wait_until_over(slurm, directory)
    assert Counter((directory / e.run_id / "record.json").exists() for e in entries) == {True: 5, False: 1}
    assert Counter(slurm.states(jobs(directory)[1]).values()) == {"COMPLETED": 3, "FAILED": 1}
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH, "slurm.attempts=2")
    assert code == 1 and "nothing to submit, 1 over slurm.attempts=2, 5 done of 6 runs" in text, text
    behave_as(directory, {})
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH, "slurm.attempts=2", "retry=all")
    assert code == 0 and "1 tasks, 1 runs" in text, text
    wait_until_over(slurm, directory)
    assert read_record(directory / bad) is not None


def test_cancel_lets_runs_save_and_nothing_comes_back(slurm: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    _, trunks = sleeping(directory)
    sweep(slurm, "launch", str(directory), *ONE_EACH)
    wait_for_checkpoints(directory, trunks)
    code, text = sweep(slurm, "cancel", str(directory))
    assert code == 0 and "4 waiting tasks left the queue, 2 running ones were asked to save and stop" in text, text
    wait_until_over(slurm, directory)
    for run in trunks:
        assert json.loads((directory / run / "attempts" / "0001" / "ended.json").read_text())["status"] == "interrupted"
    assert set(slurm.states(jobs(directory)[0]).values()) == {"FAILED"}
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    assert code == 0 and "6 tasks, 6 runs" in text, text
    behave_as(directory, {})
    wait_until_over(slurm, directory)
    assert sweep(slurm, "launch", str(directory), *ONE_EACH)[1].startswith("all 6 runs are done")
    assert sorted(e["resumed_at"] for e in executed(directory) if e["resumed_at"]) == [3, 3]


def test_a_task_that_somebody_cancels_saves_and_stays_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    """TERM to everything: the last task is called by its own name, and does not ask for itself again."""
    directory = tmp_path / "runs"
    _, trunks = sleeping(directory)
    sweep(slurm, "launch", str(directory), *ONE_EACH)
    wait_for_checkpoints(directory, trunks)
    first, second = jobs(directory)
    slurm.ask("scancel", f"{first}_1", second)
    slurm.wait(f"{first}_1", {"CANCELLED"}, 60)
    assert slurm.state(f"{first}_0") == "RUNNING"
    last = read_submissions(directory)[0].chunks[1][0]
    assert json.loads((directory / last / "attempts" / "0001" / "ended.json").read_text())["status"] == "interrupted"
    sweep(slurm, "cancel", str(directory), "--now")
    wait_until_over(slurm, directory)


def test_without_its_controller_a_launch_fails_in_one_line_and_works_later(slurm: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    plan_sweep(directory, sizes=["d16"], tokens=[51_200])
    slurm.kill_controller()
    try:
        code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    finally:
        slurm.start_controller()
    assert code == 2
    assert text.startswith("error: scontrol failed with status 1: ") and text.count("\n") == 1, text
    assert "ontact slurm controller" in text
    assert read_submissions(directory) == []
    assert os.listdir(directory / "launcher") == ["lock"]
    code, text = sweep(slurm, "launch", str(directory), *ONE_EACH)
    assert code == 0 and "submitted 2 arrays" in text, text
    wait_until_over(slurm, directory)
    assert sweep(slurm, "launch", str(directory), *ONE_EACH)[1].startswith("all 2 runs are done")
