"""What a launch leaves alone: tasks that never came as far as a run, trunks elsewhere, tasks being cancelled."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from slurm_tools import FakeSlurm

from nmm.record import begin_attempt
from sweeps.manifest import Entry, SweepError
from sweeps.slurm import reconcile
from sweeps.slurm.early import Early, early_ends
from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.reconcile import launch_slurm
from sweeps.slurm.submissions import (
    Submission,
    chunk_end,
    log_of,
    mark_cancelled,
    new_submission,
    read_submissions,
    with_job,
    writing,
)  # fmt: skip
from sweeps.slurm.submit import Way

Launch = Callable[..., tuple[int, str]]
BEGINS = "array.sbatch: task {task} on n1, restart {restart}: chunk 0 of submission 1\n"
RUN = "a-run"


@pytest.fixture
def directory(plan, slurm: FakeSlurm) -> Path:
    """Two trunks with two branches each, trunks first in the manifest or not."""
    return plan().path.parent


@pytest.fixture
def launch(directory: Path) -> Launch:
    def launched(retry_all: bool = False) -> tuple[int, str]:
        said = io.StringIO()
        options, console = SlurmOptions(chunk_seconds=0.01), Console(file=said, width=100)
        return launch_slurm(directory, options, Way("a:b", retry_all), console), said.getvalue()

    return launched


def submitted(directory: Path, log: str | None, job: str = "40", **options: object) -> Submission:
    """One task for one run, which has left the queue; ``log``: None where it could not write one."""
    made = new_submission(directory, "toy", "trunk", [[RUN]], options)
    made = with_job(directory, made, job) if job else made
    if log is not None:
        log_of(directory, made, 0).write_text(log)
    return made


def counted(directory: Path) -> int:
    return early_ends(directory, read_submissions(directory), [RUN])[RUN].count


def begins(restart: int = 0, job: str = "40") -> str:
    return BEGINS.format(task=f"{job}_0", restart=restart)


def test_tasks_that_end_before_any_attempt_are_submitted_up_to_the_cap(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    for _ in range(3):
        code, text = launch()
        assert code == 0 and "6 tasks, 6 runs" in text
        for submission in read_submissions(directory):
            for index in range(len(submission.chunks)):
                task = f"{submission.job}_{index}"
                log = BEGINS.format(task=task, restart=0) + "array.sbatch: slurm.env=/x cannot be sourced\n"
                log_of(directory, submission, index).write_text(log)
    code, text = launch()
    assert code == 1 and len(slurm.asked("sbatch")) == 6
    log = log_of(directory, read_submissions(directory)[4], 0)
    assert f"nothing to submit, 6 ended before any attempt slurm.attempts=3 times (why: {log})" in text
    assert "retry=all tries those again too" in text
    code, text = launch(retry_all=True)
    assert code == 0 and "6 tasks, 6 runs" in text
    assert "6 tasks, 6 runs" in launch()[1]  # forgiven for good


def test_restarts_of_one_task_count_each(tmp_path: Path) -> None:
    assert early_ends(tmp_path, [], [RUN]) == {RUN: Early()}
    made = submitted(tmp_path, begins(0) + "Traceback\n" + begins(1) + "Traceback\n")
    found = early_ends(tmp_path, [made], [RUN])[RUN]
    assert found == Early(2, str(log_of(tmp_path, made, 0)))


def test_a_chunk_that_came_to_its_end_or_to_an_attempt_begins_anew(tmp_path: Path) -> None:
    submitted(tmp_path, begins() + "Traceback\n")
    assert counted(tmp_path) == 1
    submitted(tmp_path, begins() + chunk_end(2, 0, 1) + "\n")
    assert counted(tmp_path) == 0
    submitted(tmp_path, begins())
    assert counted(tmp_path) == 1
    last = submitted(tmp_path, begins(0, "50") + begins(1, "50"), job="50")
    assert counted(tmp_path) == 3
    made = begin_attempt(tmp_path / RUN)
    made.close()
    owner = json.loads((made.path / "owner.json").read_text())
    owner["slurm"] = {"task": f"{last.job}_0", "restart": 0, "job": "50"}
    (made.path / "owner.json").write_text(json.dumps(owner))
    assert counted(tmp_path) == 1  # its restart 1 only


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("slurmstepd: error: *** JOB 40 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", 0),
        ("slurmstepd: error: *** JOB 40 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", 0),
        ("slurmstepd: error: *** JOB 40 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE ***", 0),
        ("slurmstepd: error: *** JOB 40 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", 1),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=40.batch", 1),
    ],
)
def test_what_slurm_ended_for_reasons_of_its_own_does_not_count(tmp_path: Path, said: str, count: int) -> None:
    submitted(tmp_path, begins() + said + "\n")
    assert counted(tmp_path) == count


def test_a_task_without_a_log_counts_if_slurm_took_it_and_nobody_cancelled_it(tmp_path: Path) -> None:
    submitted(tmp_path, None, job="")
    assert counted(tmp_path) == 0
    taken = submitted(tmp_path, None)
    assert counted(tmp_path) == 1
    mark_cancelled(tmp_path, taken)
    assert counted(tmp_path) == 0


def test_branches_wait_for_a_trunk_that_runs_outside_slurm(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    held = [begin_attempt(directory / e.run_id) for e in entries if e.role == "trunk"]
    code, text = launch()
    for attempt in held:
        attempt.close()
    assert code == 0 and slurm.asked("sbatch") == []
    assert "nothing to submit, 2 running outside SLURM's tasks, 4 waiting for a trunk elsewhere, 0 done" in text


def test_tasks_of_a_cancelled_submission_are_not_on_their_way(
    directory: Path, launch: Launch, slurm: FakeSlurm
) -> None:
    launch()
    first, second = read_submissions(directory)
    mark_cancelled(directory, first)
    mark_cancelled(directory, second)
    slurm.queue(*((first.name, f"{first.job}_{index}", "RUNNING") for index in range(2)))
    code, text = launch()
    assert code == 1 and len(slurm.asked("sbatch")) == 2
    assert "2 runs are being cancelled; launch again when they have ended" in text
    assert "4 waiting for a trunk that is being cancelled" in text and "in the queue" not in text
    slurm.queue()
    assert "6 tasks, 6 runs" in launch()[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written_is_one_line(
    directory: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(reconcile, "submit", refuse)
    with pytest.raises(SweepError, match=r"runs cannot be written \(.*\); make room there, or make it writable"):
        launch()


def test_other_errors_are_no_matter_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), writing(tmp_path):
        raise BlockingIOError(errno.EAGAIN, "no")


def test_the_cap_is_a_number_of_ends_not_of_submissions() -> None:
    found = dataclasses.replace(reconcile.Tally(), early=Early(3, "log"))
    assert reconcile._wanted(found, 3, False) == "ended before any attempt slurm.attempts=3 times"
    assert reconcile._wanted(found, 4, False) == reconcile._wanted(found, 3, True) == "missing"
