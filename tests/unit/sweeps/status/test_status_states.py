from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from status_lab import Lab, age, damaged

from nmm.record import write_json
from sweeps.manifest import SweepError
from sweeps.slurm.queue import Task
from sweeps.status import note_failure, report, run_status
from sweeps.status.alive import file_clock, patience
from sweeps.status.planned import read_planned

ENDS = "*** JOB 4000 ON n1 CANCELLED AT 2026-01-01T00:00:00"


def queue_of(monkeypatch: pytest.MonkeyPatch, tasks: dict[str, Task] | SweepError) -> None:
    def answer(directory: Path) -> dict[str, Task]:
        if isinstance(tasks, SweepError):
            raise tasks
        return tasks

    monkeypatch.setattr(report, "runs_in_queue", answer)


def task(state: str = "RUNNING", name: str = "4000_0", restarts: int = 0) -> Task:
    return Task("toy-0001", name, state, "n1", "", restarts)


@pytest.mark.parametrize("run", ["../../elsewhere", "..", "a/b"])
def test_a_forged_manifest_leads_to_no_other_place(sweep: Lab, run: str) -> None:
    path = sweep.directory / "manifest.jsonl"
    path.write_text(path.read_text().replace(sweep.entries[0].run_id, run))
    with pytest.raises(SweepError, match="names a directory"):
        read_planned(sweep.directory)


def test_a_diverged_run_made_the_steps_its_result_says(sweep: Lab) -> None:
    run = sweep.state(0).run
    sweep.finish(0, "diverged", range(1, 3), error="spike", step=2)
    state, report = sweep.state(0), sweep.report()
    assert (state.step, state.steps_made) == (2, 2)
    assert report.flops_spent == pytest.approx(2 * run.flops_per_step)


def test_every_state_is_read_from_files(sweep: Lab) -> None:
    sweep.finish(0)
    sweep.failed(1, "oom", "MemoryError: no")
    sweep.attempt(2, range(1, 3))
    sweep.attempt(3).end("interrupted")
    states = [state.state for state in sweep.report().states]
    branches_of_the_failed = [e.parent_id == sweep.entries[1].run_id for e in sweep.entries]
    assert states[:4] == ["done", "failed", "running", "interrupted"]
    assert [s == "blocked" for s in states[4:]] == branches_of_the_failed[4:]
    assert sweep.report().causes == {"oom": 1}


def test_a_running_run_says_how_fast_how_far_and_where(sweep: Lab) -> None:
    config = sweep.entries[0].config
    sweep.attempt(0, range(1, 11))
    state = sweep.state(0)
    assert (state.state, state.step, state.attempts) == ("running", 10, 1)
    assert state.tokens_per_second == 2560.0
    assert state.seconds_left == pytest.approx((config.total_steps - 10) * config.tokens_per_step / 2560.0)
    assert state.where == f"process {os.getpid()} on {os.uname().nodename}"


def test_an_end_without_a_word_is_a_failure_by_exit_until_somebody_knows_more(sweep: Lab) -> None:
    run = sweep.entries[0].run_id
    sweep.killed(0, range(1, 4))
    assert (sweep.state(0).state, sweep.state(0).cause) == ("failed", "exit")
    note_failure(sweep.directory, run, "ended by SIGKILL", Path("worker.log"), 2, "oom")
    assert (sweep.state(0).cause, sweep.state(0).log) == ("oom", "worker.log")
    assert sweep.state(0).error == "ended by SIGKILL (tried 2 times)"
    sweep.killed(0)
    assert sweep.state(0).cause == "exit", "the note is about an older attempt"


def test_a_note_of_a_failure_before_any_attempt_counts(sweep: Lab) -> None:
    note_failure(sweep.directory, sweep.entries[0].run_id, "ConfigError: size.width=3", Path("worker.log"), 1)
    assert (sweep.state(0).state, sweep.state(0).cause) == ("failed", "config")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"status": "do', "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1, 2]", "is not a finished run's record"),
        ('{"status": "running"}', "is not a finished run's record"),
        ('{"status": "done", "run_id": "another"}', "is of another run, another"),
    ],
)
def test_a_half_written_or_foreign_record_is_listed_not_fatal(sweep: Lab, content: str, reason: str) -> None:
    sweep.finish(0)
    (sweep.run(0) / "record.json").write_text(content)
    assert run_status(sweep.run(0)) == "unreadable"
    state = sweep.state(0)
    assert state.state == "unreadable" and reason in state.error
    sweep.finish(1)
    assert sweep.state(1).state == "done"


@pytest.mark.parametrize("name", ["ended.json", "owner.json"])
def test_damaged_files_of_an_attempt_make_a_run_unreadable(sweep: Lab, name: str) -> None:
    sweep.failed(0, "error", "ValueError: x")
    if name == "owner.json":
        (sweep.run(0) / "attempts" / "0001" / "ended.json").unlink()
    damaged(sweep.run(0) / "attempts" / "0001" / name)
    assert sweep.state(0).state == "unreadable"
    assert name in sweep.state(0).error


def test_an_alarm_is_seen_even_on_a_finished_run_that_was_read_before(sweep: Lab) -> None:
    reader = report.Reader(sweep.directory)
    for number in range(len(sweep.entries)):
        sweep.finish(number)
    assert reader.read().all_done
    alarm = sweep.run(0) / "alarm-0002.json"
    write_json(alarm, {"published": {}, "this": {}})
    assert reader.read().alarms == [str(alarm)]
    assert not reader.read().all_done


def test_a_finished_run_is_not_opened_twice(sweep: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.finish(0)
    looked: list[str] = []
    look = report.look
    monkeypatch.setattr(report, "look", lambda run, around: looked.append(run.run_id) or look(run, around))
    reader = report.Reader(sweep.directory)
    first, again = reader.read(), reader.read()
    assert looked.count(sweep.entries[0].run_id) == 1 and looked.count(sweep.entries[1].run_id) == 2
    assert first.states[0] == again.states[0]


# ---------------------------------------------------------------------------------------------------------------------
# silence


def test_a_held_lock_with_silent_files_is_stale(sweep: Lab) -> None:
    made = sweep.attempt(0, range(1, 5))
    age(made.path, 500)
    assert sweep.state(0).state == "running"
    age(made.path, 500)
    state = sweep.state(0)
    assert state.state == "stale" and 990 < state.silent_seconds < 1100
    made.log_metrics({"step": 5})
    assert sweep.state(0).state == "running"


def test_slow_steps_are_waited_for_longer(sweep: Lab) -> None:
    run = read_planned(sweep.directory)[0]
    rows = [{"step": 10}, {"step": 20, "tokens_per_second": 10 * run.tokens_per_step / 400.0}]
    assert patience(rows, run) == pytest.approx(5 * 400.0)
    assert patience([], run) == 600.0
    made = sweep.attempt(0, range(10, 30, 10), tokens_per_second=10 * run.tokens_per_step / 400.0)
    age(made.path, 1900)
    assert sweep.state(0).state == "running"
    age(made.path, 300)
    assert sweep.state(0).state == "stale"


def test_silence_is_measured_by_the_disk_not_by_this_machines_clock(sweep: Lab, monkeypatch) -> None:
    sweep.attempt(0, range(1, 5))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert sweep.state(0).state == "running"
    assert sweep.state(0).silent_seconds < 60
    assert list(sweep.directory.glob(".clock*")) == []


def test_where_nothing_can_be_written_the_clock_is_this_machines_and_that_is_said(sweep: Lab, monkeypatch) -> None:
    sweep.attempt(0, range(1, 5))

    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sweeps.status.alive.tempfile.NamedTemporaryFile", refuse)
    assert file_clock(sweep.directory).own
    assert "measured by this machine's clock" in sweep.report().warnings[0]


def test_another_machines_attempt_runs_while_it_writes_although_its_lock_does_not_reach_us(sweep: Lab) -> None:
    path = sweep.elsewhere(0, range(1, 5))
    state = sweep.state(0)
    assert (state.state, state.where) == ("running", "process 7 on another-machine")
    age(path, 1000)
    assert sweep.state(0).state == "stale"


def test_a_failed_attempt_of_another_machine_does_not_run(sweep: Lab) -> None:
    path = sweep.elsewhere(0)
    write_json(path / "ended.json", {"status": "failed", "cause": "disk", "detail": "OSError: full"})
    assert (sweep.state(0).state, sweep.state(0).cause) == ("failed", "disk")


# ---------------------------------------------------------------------------------------------------------------------
# SLURM


def test_what_waits_in_the_queue_is_queued(sweep: Lab, monkeypatch) -> None:
    runs = [entry.run_id for entry in sweep.entries]
    queue_of(monkeypatch, {runs[0]: task("PENDING"), runs[1]: task("RUNNING"), runs[2]: task("RUNNING")})
    sweep.attempt(1, range(1, 3))
    sweep.attempt(2).end("interrupted")
    states = sweep.report().states
    assert [s.state for s in states[:4]] == ["queued", "running", "queued", "pending"]
    assert states[0].where == "task 4000_0, pending"


def test_an_attempt_whose_task_left_the_queue_is_over_however_fresh_its_files(sweep: Lab, monkeypatch) -> None:
    slurm = {"task": "4000_0", "restart": 0, "job": "4000"}
    sweep.elsewhere(0, range(1, 5), slurm)
    run = sweep.entries[0].run_id
    queue_of(monkeypatch, {run: task("RUNNING")})
    assert (sweep.state(0).state, sweep.state(0).where) == ("running", "task 4000_0 on n1")
    queue_of(monkeypatch, {run: task("PENDING", restarts=1)})
    assert sweep.state(0).state == "queued"
    queue_of(monkeypatch, {})
    assert (sweep.state(0).state, sweep.state(0).cause) == ("failed", "exit")
    queue_of(monkeypatch, SweepError("squeue did not answer within 120 s"))
    found = sweep.report()
    assert found.states[0].state == "running", "nobody knows better than its files"
    assert found.warnings == ["the queue is unknown: squeue did not answer within 120 s"]


@pytest.mark.parametrize(
    ("line", "state", "cause"),
    [
        (f"slurmstepd: error: {ENDS} DUE TO TIME LIMIT ***", "failed", "timeout"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=4000.batch. Some of the step tasks", "failed", "oom"),
        ("slurmstepd: error: Exceeded job memory limit", "failed", "oom"),
        (f"slurmstepd: error: {ENDS} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", "failed", "exit"),
        (f"slurmstepd: error: {ENDS} DUE TO PREEMPTION ***", "interrupted", ""),
        (f"slurmstepd: error: {ENDS} DUE TO JOB REQUEUE ***", "interrupted", ""),
        (f"slurmstepd: error: {ENDS} ***", "interrupted", ""),
        ("step 100 of 200", "failed", "exit"),
    ],
)
def test_slurm_has_the_last_word_on_an_end_without_one(
    sweep: Lab, monkeypatch: pytest.MonkeyPatch, line: str, state: str, cause: str
) -> None:
    queue_of(monkeypatch, {})
    log = sweep.submission([sweep.entries[0].run_id])
    log.write_text(f"something before\n{line}\nsrun: job aborted\n")
    sweep.elsewhere(0, slurm={"task": "4000_0", "restart": 0, "job": "4000"})
    found = sweep.state(0)
    assert (found.state, found.cause) == (state, cause)
    assert (found.error == line and found.log == str(log)) or line.startswith("step")


def test_of_a_log_with_several_restarts_only_the_part_of_the_attempt_counts(sweep: Lab, monkeypatch) -> None:
    queue_of(monkeypatch, {})
    log = sweep.submission([sweep.entries[0].run_id])
    begins = "array.sbatch: task 4000_0 on n1, restart {}: chunk 0 of submission 1\n"
    limit = "error: *** JOB 4000 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    log.write_text(begins.format(0) + limit + begins.format(1) + "working\n")
    sweep.elsewhere(0, slurm={"task": "4000_0", "restart": 0, "job": "4000"})
    assert sweep.state(0).cause == "timeout"
    sweep.elsewhere(0, slurm={"task": "4000_0", "restart": 1, "job": "4000"})
    assert sweep.state(0).cause == "exit"


def test_a_damaged_submission_is_said_and_the_rest_is_shown(sweep: Lab) -> None:
    sweep.submission([sweep.entries[0].run_id])
    damaged(sweep.directory / "launcher" / "slurm" / "0001.json")
    found = sweep.report()
    assert "the queue is unknown" in found.warnings[0] and "0001.json" in found.warnings[0]
    assert len(found.states) == len(sweep.entries)
