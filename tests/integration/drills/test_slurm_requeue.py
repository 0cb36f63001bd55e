"""Asked back by SLURM or by itself: the same task goes on where it was, and no other task is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_sweep import behave_as, plan_sweep
from slurm_lab import Cluster
from slurm_sweeps import Sweep, fake

from nmm.record import owner
from sweeps.slurm.submissions import log_of, read_submissions

pytestmark = pytest.mark.slurm


def test_requeued_twice_in_a_row(slurm: Cluster, trained: Path, calm_results: dict[str, Any]) -> None:
    sweep = Sweep(slurm, trained)
    sweep.start()
    trunk = sweep.runs[0]
    for number in (1, 2):
        sweep.wait_for_step(trunk, 50 * number, number)
        slurm.ask("scontrol", "requeue", sweep.task_of(trunk))
        slurm.start_now(sweep.task_of(trunk))
    sweep.check(calm_results, trunk)
    assert sweep.endings(trunk) == ["interrupted", "interrupted", "done"]
    owners = [(owner(path) or {})["slurm"] for path in sweep.attempts(trunk)]
    assert [(mine["task"], mine["restart"]) for mine in owners] == [(sweep.task_of(trunk), n) for n in range(3)]


def test_the_last_task_requeued_leaves_the_others_alone(slurm: Cluster, tmp_path: Path) -> None:
    """Its SLURM_JOB_ID is the array's: a task that asks for that number takes all of them back."""
    plan_sweep(tmp_path / "runs", sizes=["d16", "d32", "d48"], tokens=[51_200])
    sweep = fake(slurm, tmp_path / "runs")
    behave_as(sweep.directory, {run: ["sleep", "ok"] for run in sweep.runs})
    sweep.start()
    by_task = {sweep.task_of(run): run for run in sweep.runs if "trunk" in run}
    tasks = sorted(by_task)
    for run in by_task.values():
        sweep.wait_for_step(run, 5, 1)
    last = by_task[tasks[-1]]
    job = sweep.slurm.ask("scontrol", "-o", "show", "job", tasks[-1]).split()[0]
    assert job == f"JobId={tasks[-1].partition('_')[0]}"
    slurm.ask("scancel", "--batch", "--signal=USR1", tasks[-1])
    sweep.until(lambda: sweep.endings(last)[:1] == ["interrupted"], "the last task to save")
    slurm.start_now(tasks[-1])
    sweep.until(lambda: sweep.endings(last) == ["interrupted", "done"], "the last task to finish")
    for task in tasks[:-1]:
        assert sweep.endings(by_task[task]) in ([""], ["done"])
        assert slurm.state(task) in ("RUNNING", "COMPLETED")
    sweep.cancel()


def test_the_end_of_its_time_stops_a_task_that_then_asks_for_itself_so_often_and_no_more(
    slurm: Cluster, tmp_path: Path
) -> None:
    """The first signal comes from SLURM, which counts in minutes and may be a minute early; the second from us."""
    plan_sweep(tmp_path / "runs", sizes=["d16"], tokens=[51_200])
    sweep = fake(slurm, tmp_path / "runs", "slurm.time=0:01:00", "slurm.signal_seconds=50", "slurm.requeues=1")
    behave_as(sweep.directory, {run: ["sleep"] for run in sweep.runs})
    sweep.start()
    trunk = sweep.runs[0]
    sweep.until(lambda: sweep.endings(trunk)[:1] == ["interrupted"], "the signal ahead of the end", 90)
    saved = sweep.last_step(trunk, 0)
    slurm.start_now(sweep.task_of(trunk))
    sweep.wait_for_step(trunk, 1, 2)
    slurm.ask("scancel", "--batch", "--signal=USR1", sweep.task_of(trunk))
    states = slurm.wait(sweep.task_of(trunk))
    assert set(states.values()) == {"FAILED"}, "a task with work left must not count as done"
    assert saved > 0
    submission = read_submissions(sweep.directory)[0]
    assert "not again" in log_of(sweep.directory, submission, 0).read_text()
    assert sweep.endings(trunk) == ["interrupted", "interrupted"]
    sweep.cancel()


def test_a_finished_run_is_left_as_it_is(slurm: Cluster, tmp_path: Path) -> None:
    """By a launch, which submits nothing, and by its task when SLURM runs that again."""
    plan_sweep(tmp_path / "runs", sizes=["d16"])
    sweep = fake(slurm, tmp_path / "runs")
    sweep.start()
    sweep.finish()
    sweep.until(lambda: not slurm.run("squeue", "-h").stdout, "the queue to be empty")

    def everything() -> dict[str, tuple[int, int]]:
        files = [path for run in sweep.runs for path in (sweep.directory / run).rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before, submissions = everything(), len(read_submissions(sweep.directory))
    code, text = sweep.launch()
    assert code == 0, text
    assert len(read_submissions(sweep.directory)) == submissions
    task = sweep.task_of(sweep.runs[0])
    slurm.ask("scontrol", "requeue", task)
    slurm.start_now(task)
    assert slurm.wait(task) == {task: "COMPLETED"}
    assert everything() == before
