"""How one run of a list ends, how the list does, and which launchers it may be given."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmm import doors
from nmm.config import ConfigError
from nmm.record import begin_attempt, publish


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a handler or a stop behind, and nothing is known of a job around the tests."""
    for name in ("SUBMITIT_EXECUTOR", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doors, "_stops", [])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def finished(run: Path, status: str = "done", **result: Any) -> Path:
    attempt = begin_attempt(run)
    publish(run, attempt, {"status": status, "result": result})
    attempt.end(status)
    return run


def exits(code: int) -> None:
    raise SystemExit(code)


def fails(error: Exception) -> None:
    raise error


def test_a_finished_run_is_done_and_says_nothing(tmp_path: Path) -> None:
    run = tmp_path / "a"
    found = doors.one_of_many(run, lambda: finished(run), alone=False)
    assert found == {"run_id": "a", "status": "done", "says": ""}
    assert doors.outcome(run) == found


def test_a_diverged_run_says_what_its_record_says(tmp_path: Path) -> None:
    run = finished(tmp_path / "a", "diverged", error="nan_loss at step 3")
    found = doors.one_of_many(run, lambda: exits(3), alone=False)
    assert found == {"run_id": "a", "status": "diverged", "says": "nan_loss at step 3"}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConfigError("size=9 is not a size"), "size=9 is not a size"),
        (RuntimeError("no room\nand more lines"), "RuntimeError: no room"),
        (OSError(), "OSError: OSError"),
    ],
)
def test_an_error_is_told_and_not_raised(tmp_path: Path, error: Exception, says: str) -> None:
    found = doors.one_of_many(tmp_path / "a", lambda: fails(error), alone=False)
    assert found == {"run_id": "a", "status": "failed", "says": says}


def test_a_signal_ends_a_list_in_one_process(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        doors.one_of_many(tmp_path / "a", lambda: exits(128 + signal.SIGTERM), alone=False)
    assert stopped.value.code == 128 + signal.SIGTERM


def test_a_signal_to_a_process_of_its_own_is_told_and_it_begins_nothing_more(tmp_path: Path) -> None:
    begun: list[str] = []
    found = doors.one_of_many(tmp_path / "a", lambda: exits(128 + signal.SIGTERM), alone=True)
    assert found == {"run_id": "a", "status": "interrupted", "says": "stopped by SIGTERM"}
    then = doors.one_of_many(tmp_path / "b", lambda: begun.append("b"), alone=True)
    assert then == {"run_id": "b", "status": "pending", "says": "not started: stopped by SIGTERM"}
    assert begun == []


def test_sigterm_before_the_run_listens_is_told_as_well(tmp_path: Path) -> None:
    """While torch is imported, say: a worker of joblib that dies takes the others along."""
    found = doors.one_of_many(tmp_path / "a", lambda: os.kill(os.getpid(), signal.SIGTERM), alone=True)
    assert (found["status"], found["says"]) == ("interrupted", "stopped by SIGTERM")


# ----------------------------------------------------------------------------------------------------------------------
# jobs of submitit


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that submitit's handler was handed."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda signum, frame: heard.append(signum))
    monkeypatch.setattr(doors.atexit, "register", lambda function, code: heard.append(-code))
    return heard


def in_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str) -> None:
    """A task of a SLURM array, with a squeue that answers ``state`` if it is asked for the right task."""
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f'#!/bin/sh\ncase "$*" in *"--jobs 7_3 "*) echo {state};; esac\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in {"EXECUTOR": "slurm"}.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    for name, value in {"JOB_ID": "7", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.mark.parametrize(
    ("signum", "state", "queued"),
    [
        (signal.SIGUSR2, "COMPLETING", True),  # submitit's own signal: before the time limit, or at preemption
        (signal.SIGTERM, "RUNNING", True),  # preemption without a signal of its own
        (signal.SIGTERM, "COMPLETING", False),  # scancel
    ],
)
def test_a_preempted_job_asks_for_itself_again_and_a_cancelled_one_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[int], signum: int, state: str, queued: bool
) -> None:
    in_job(monkeypatch, tmp_path, state)
    found = doors.one_of_many(tmp_path / "a", lambda: exits(128 + signum), alone=True)
    assert found["status"] == "interrupted"
    assert asked == [*([signal.SIGUSR2] if queued else []), -(128 + signum)]  # and the exit status is never 0


def test_a_job_that_may_not_come_back_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[int]
) -> None:
    def refuse(signum: int, frame: object) -> None:
        raise RuntimeError("timed-out too many times")

    in_job(monkeypatch, tmp_path, "RUNNING")
    signal.signal(signal.SIGUSR2, refuse)
    found = doors.one_of_many(tmp_path / "a", lambda: exits(128 + signal.SIGUSR2), alone=True)
    assert found["says"] == "stopped by SIGUSR2; not queued again: timed-out too many times"


def test_only_a_done_run_lets_a_job_end_with_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[int]
) -> None:
    in_job(monkeypatch, tmp_path, "RUNNING")
    doors.one_of_many(tmp_path / "a", lambda: finished(tmp_path / "a"), alone=True)
    assert asked == []
    finished(tmp_path / "b", "diverged", error="nan")
    doors.one_of_many(tmp_path / "b", lambda: exits(3), alone=True)
    doors.one_of_many(tmp_path / "c", lambda: fails(ValueError("no")), alone=True)
    assert asked == [-3, -1]


# ----------------------------------------------------------------------------------------------------------------------
# the list


def one(run: str, status: str, says: str = "") -> doors.Outcome:
    return {"run_id": run, "status": status, "says": says}


@pytest.mark.parametrize(
    ("outcomes", "code", "said"),
    [
        ([one("a", "done"), one("b", "done")], 0, ""),
        (
            [one("a", "done"), one("b", "diverged", "nan")],
            3,
            "nmm train: 1 of 2 runs are done; not done:\n  diverged: b: nan\n",
        ),
        (
            [one("a", "diverged", "nan"), one("b", "interrupted")],
            1,
            "nmm train: 0 of 2 runs are done; not done:\n  diverged: a: nan\n  interrupted: b\n"
            "the same command again runs what is neither done nor diverged\n",
        ),
    ],
)
def test_the_end_of_a_list(
    capsys: pytest.CaptureFixture[str], outcomes: list[doors.Outcome], code: int, said: str
) -> None:
    assert doors.end_list(outcomes) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("launcher", doors.PLUGINS)
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    monkeypatch.setattr(doors, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=rf"hydra/launcher={launcher} needs the extra slurm: pip install 'nmm\[slurm\]'"
    ):
        doors.check_launcher(["-m", f"hydra/launcher={launcher}", "seed=0,1"])


def test_launchers_that_may_be_given() -> None:
    doors.check_launcher(["seed=0"])
    doors.check_launcher(["-m", "hydra/launcher=basic", "seed=0,1"])
    doors.check_launcher(["--multirun", "hydra/launcher=joblib", "seed=0,1"])  # the extra is installed for the tests
    with pytest.raises(
        ConfigError, match="hydra/launcher=joblib is for lists of runs and would do nothing here; add -m"
    ):
        doors.check_launcher(["hydra/launcher=joblib", "seed=0"])
