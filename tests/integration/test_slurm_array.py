"""sweeps/slurm/array.sbatch run as SLURM runs it: bash, its variables, signals to the batch shell. No controller."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fake_sweep import RUNNER, STARTED, behave_as, end_started, environment, executed, plan_sweep, wait_for
from slurm_tasks import SRUN, stand_in, submit_chunks, task_command

from nmm.record import attempts, status
from sweeps.manifest import Entry
from sweeps.slurm.submissions import Submission, mark_cancelled


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    end_started()


def chunks_of(entries: Sequence[Entry], role: str, size: int) -> list[list[str]]:
    runs = [entry.run_id for entry in entries if (entry.role == "branch") == (role == "branch")]
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def task(
    directory: Path,
    submission: Submission,
    index: int,
    restarts: int = 0,
    state: str = "RUNNING",
    way: str = "step",
    requeues: int = 20,
    env: str = "",
    signal_seconds: int = 180,
    squeue: str = "",
    **extra: str,
) -> subprocess.Popen[str]:
    """Start one array task; squeue says it is in ``state``, or is the script ``squeue``.

    SLURM_JOB_ID is the array's, as the last task's is.
    """
    tools = directory.parent / "bin"
    stand_in(tools, "scontrol", f'echo "$@" >> {directory.parent}/scontrol.log')
    stand_in(tools, "squeue", squeue or f"echo {state}")
    stand_in(tools, "srun", f'echo "$@" >> {directory.parent}/srun.log\n{SRUN}')
    slurm = {
        "SLURM_ARRAY_JOB_ID": "4000",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_JOB_ID": "4000",
        "SLURM_RESTART_COUNT": str(restarts),
        "SLURM_CPUS_PER_TASK": "3",
    }
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", *task_command(directory, submission.number, way, requeues, env, signal_seconds)]
    pipe = subprocess.PIPE
    STARTED.append(
        subprocess.Popen(
            command, env=environment() | path | slurm | extra, stdout=pipe, stderr=pipe, text=True, cwd=directory.parent
        )
    )
    return STARTED[-1]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, errors = process.communicate(timeout=120)
    return process.returncode, out + errors


def requeues(directory: Path) -> list[str]:
    log = directory.parent / "scontrol.log"
    return log.read_text().splitlines() if log.exists() else []


def sleeping_task(directory: Path, index: int = 0, **how: object) -> tuple[Submission, subprocess.Popen[str], Path]:
    """A task whose run has saved its first checkpoint and goes on for a minute; later attempts succeed."""
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep", "ok"] for e in entries})
    submission = submit_chunks(directory, chunks_of(entries, "trunk", 1), RUNNER)
    process = task(directory, submission, index, **how)  # type: ignore[arg-type]
    run = directory / wait_for(lambda: executed(directory), "the run to start")[0]["run_id"]
    wait_for(lambda: list(run.glob("attempts/*/checkpoints/*.json")), "a checkpoint")
    return submission, process, run


def test_two_arrays_run_the_whole_manifest_once(directory: Path) -> None:
    entries = plan_sweep(directory, sizes=["d16", "d32", "d48"])
    for role, size in (("trunk", 2), ("branch", 4)):
        submission = submit_chunks(directory, chunks_of(entries, role, size), RUNNER, role)
        tasks = [task(directory, submission, index) for index in range(2)]  # at the same time, as an array does
        for process in tasks:
            code, text = finish(process)
            assert code == 0, text
            assert "runs are done" in text
    assert sorted(e["run_id"] for e in executed(directory)) == sorted(e.run_id for e in entries)
    assert requeues(directory) == []
    steps = (directory.parent / "srun.log").read_text().splitlines()
    assert len(steps) == 4 and steps[0].startswith("--nodes=1 --ntasks=1 --input=none --cpus-per-task=3 ")


def test_one_failed_line_does_not_stop_the_chunk_and_its_branches_are_blocked(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[0].run_id: ["kill"]})
    trunks = submit_chunks(directory, chunks_of(entries, "trunk", 2), RUNNER)
    code, text = finish(task(directory, trunks, 0))
    assert code == 1
    assert "1 failed, 1 done of 2 runs" in text
    assert requeues(directory) == []
    branches = submit_chunks(directory, chunks_of(entries, "branch", 4), RUNNER, "branch")
    code, text = finish(task(directory, branches, 0))
    assert code == 1
    assert "2 blocked, 2 done of 4 runs" in text
    assert "run the trunks first" in text


def test_a_run_is_tried_as_often_as_its_cap_allows_over_all_tasks_together(directory: Path) -> None:
    entries = plan_sweep(directory)
    bad = entries[0].run_id
    behave_as(directory, {bad: ["raise"]})
    chunks = chunks_of(entries, "trunk", 2)
    first = submit_chunks(directory, chunks, RUNNER, attempts=2)
    assert finish(task(directory, first, 0))[0] == 1
    assert len(attempts(directory / bad)) == 2
    code, text = finish(task(directory, submit_chunks(directory, chunks, RUNNER, attempts=3), 0))
    assert code == 1 and len(attempts(directory / bad)) == 3, text
    code, text = finish(task(directory, submit_chunks(directory, chunks, RUNNER, attempts=3), 0))
    assert code == 1 and len(attempts(directory / bad)) == 3, text
    assert f"not tried again: {bad}: 3 failed attempts (slurm.attempts=3), the newest by error" in text


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("way", ["step", "shell"])
def test_a_stopped_task_saves_requeues_itself_by_its_own_name_and_never_exits_0(
    directory: Path, signum: signal.Signals, way: str
) -> None:
    submission, process, run = sleeping_task(directory, 1, way=way)
    process.send_signal(signum)
    code, text = finish(process)
    assert code == 75, text
    assert status(run) == "interrupted"
    assert requeues(directory) == ["requeue 4000_1"]
    code, text = finish(task(directory, submission, 1, restarts=1, way=way))
    assert code == 0, text
    assert executed(directory)[-1]["resumed_at"] == 3


def test_a_signal_straight_to_the_step_requeues_too(directory: Path) -> None:
    """As a preempted job's grace time begins: the step hears of it, the batch shell does not."""
    _, process, run = sleeping_task(directory)
    step = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(step, signal.SIGTERM)
    code, text = finish(process)
    assert code == 75, text
    assert status(run) == "interrupted"
    assert requeues(directory) == ["requeue 4000_0"]


def test_a_signal_to_everything_at_once_still_lets_runs_save(directory: Path) -> None:
    """SLURM ends a job by TERM to every process, and the batch shell hands it on once more."""
    _, process, run = sleeping_task(directory)
    step = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    for pid in (executed(directory)[0]["pid"], step, process.pid):
        os.kill(pid, signal.SIGTERM)
    code, text = finish(process)
    assert code == 75, text
    assert status(run) == "interrupted"
    assert not (directory / "launcher" / "failures").exists()


def test_a_task_that_slurm_ends_itself_does_not_come_back_by_its_own_will(directory: Path) -> None:
    """`scontrol requeue` would bring a cancelled task back to life."""
    _, process, run = sleeping_task(directory, state="COMPLETING")
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code == 75 and "SLURM ends task 4000_0 itself" in text
    assert status(run) == "interrupted"
    assert requeues(directory) == []


def test_a_controller_that_is_away_for_a_moment_is_asked_again(directory: Path) -> None:
    count = directory.parent / "asked"
    away = f"echo x >> {count}; test $(wc -l < {count}) -gt 2 && echo RUNNING || exit 1"
    _, process, _ = sleeping_task(directory, squeue=away)
    process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75, text
    assert requeues(directory) == ["requeue 4000_0"] and count.read_text().count("x") == 3


def test_a_controller_that_stays_away_is_named(directory: Path) -> None:
    _, process, run = sleeping_task(directory, squeue="exit 1", signal_seconds=6)
    process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75 and status(run) == "interrupted"
    assert "the controller did not answer; task 4000_0 does not come back; `nmm sweep launch` goes on from here" in text
    assert "itself" not in text and requeues(directory) == []


def test_a_cancelled_submission_neither_comes_back_nor_begins(directory: Path) -> None:
    submission, process, _ = sleeping_task(directory)
    mark_cancelled(directory, submission)
    process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75 and "task 4000_0 is cancelled" in text
    assert requeues(directory) == []
    code, text = finish(task(directory, submission, 1))
    assert code == 1 and "submission 1 was cancelled" in text
    assert len(executed(directory)) == 1


def test_requeues_are_capped(directory: Path) -> None:
    _, process, _ = sleeping_task(directory, restarts=2, requeues=2)
    process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75
    assert "restarted 2 times, not again" in text
    assert requeues(directory) == []


def test_the_environment_file_is_sourced(directory: Path, tmp_path: Path) -> None:
    entries = plan_sweep(directory)
    (tmp_path / "env.sh").write_text("export NMM_SRUN_ARGS=--mpi=none; echo sourced\n")
    submission = submit_chunks(directory, chunks_of(entries, "trunk", 2), RUNNER)
    code, text = finish(task(directory, submission, 0, env=str(tmp_path / "env.sh")))
    assert code == 0, text
    assert "sourced" in text and "all 2 runs are done" in text
    assert "--mpi=none" in (tmp_path / "srun.log").read_text()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": ""}, "this script runs as a job array"),
        ({"env": "/nowhere/env.sh"}, "cannot be sourced"),
        ({"SLURM_ARRAY_TASK_ID": "9"}, "submission 1 has 2 chunks"),
    ],
)
def test_a_task_that_is_set_up_wrong_says_what_is_missing(directory: Path, extra: dict[str, str], message: str) -> None:
    submission = submit_chunks(directory, chunks_of(plan_sweep(directory), "trunk", 1), RUNNER)
    code, text = finish(task(directory, submission, 0, **extra))  # type: ignore[arg-type]
    assert code not in (0, 75)
    assert message in text
    assert not executed(directory)


def test_the_script_by_hand_says_who_runs_it(directory: Path) -> None:
    script = task_command(directory, 1, "step")[0]
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2 and "nmm sweep launch DIR launcher=slurm" in done.stderr
    body = "".join(line for line in Path(script).read_text().splitlines(True) if not line.startswith("#"))
    assert "SLURM_JOB_ID" not in body
