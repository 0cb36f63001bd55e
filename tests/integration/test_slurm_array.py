"""slurm/array.sbatch run as SLURM runs it: bash, its variables, signals to the batch shell. No controller needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sweep import ROOT, RUNNER, STARTED, behave_as, end_started, environment, executed, plan_sweep, wait_for

from nmm.record import status

SCRIPT = ROOT / "slurm" / "array.sbatch"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    end_started()


def task(
    directory: Path, role: str, index: int, size: int = 1, restarts: int = 0, **extra: str
) -> subprocess.Popen[str]:
    """Start one array task. The last task's SLURM_JOB_ID is the array's, as on a real controller."""
    tools = directory.parent / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {directory.parent}/scontrol.log\n')
    (tools / "scontrol").chmod(0o755)
    slurm = {
        "SLURM_ARRAY_JOB_ID": "4000",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_JOB_ID": "4000",
        "SLURM_RESTART_COUNT": str(restarts),
        "SLURM_SUBMIT_DIR": str(directory.parent),
    }
    mine = {
        "NMM_DIR": str(directory),
        "NMM_ROLE": role,
        "NMM_CHUNK": str(size),
        "NMM_PYTHON": sys.executable,
        "NMM_ARGS": f"--runner {RUNNER}",
    }
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    variables = environment() | path | slurm | mine | extra
    STARTED.append(subprocess.Popen(["bash", str(SCRIPT)], env=variables, stdout=pipe, stderr=pipe, text=True))
    return STARTED[-1]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, errors = process.communicate(timeout=120)
    return process.returncode, out + errors


def requeues(directory: Path) -> list[str]:
    log = directory.parent / "scontrol.log"
    return log.read_text().splitlines() if log.exists() else []


def test_two_arrays_run_the_whole_manifest_once(directory: Path) -> None:
    entries = plan_sweep(directory, sizes=["d16", "d32", "d48"])
    for role, size, count in (("trunk", 2, 2), ("branch", 4, 2)):
        tasks = [task(directory, role, index, size) for index in range(count)]  # at the same time, as an array does
        for process in tasks:
            code, text = finish(process)
            assert code == 0, text
            assert "runs are done" in text
    assert sorted(e["run_id"] for e in executed(directory)) == sorted(e.run_id for e in entries)
    assert requeues(directory) == []


def test_one_failed_line_does_not_stop_the_chunk_and_its_branches_are_blocked(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[0].run_id: ["kill"]})
    code, text = finish(task(directory, "trunk", 0, 2))
    assert code == 1
    assert "1 failed, 1 done of 2 runs" in text
    code, text = finish(task(directory, "branch", 0, 4))
    assert code == 1
    assert "2 blocked, 2 done of 4 runs" in text
    assert "run the trunks first" in text


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_a_stopped_task_saves_requeues_itself_by_its_own_name_and_never_exits_0(
    directory: Path, signum: signal.Signals
) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep", "ok"] for e in entries})
    process = task(directory, "trunk", 1)
    made = wait_for(lambda: executed(directory), "the run to start")[0]
    run = directory / made["run_id"]
    wait_for(lambda: list(run.glob("attempts/*/checkpoints/*.json")), "a checkpoint")
    process.send_signal(signum)
    code, text = finish(process)
    assert code == 75, text
    assert status(run) == "interrupted"
    assert requeues(directory) == ["requeue 4000_1"]
    code, text = finish(task(directory, "trunk", 1, restarts=1))
    assert code == 0, text
    assert executed(directory)[-1]["resumed_at"] == 3


def test_requeues_are_capped(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep"] for e in entries})
    process = task(directory, "trunk", 0, restarts=2, NMM_REQUEUES="2")
    wait_for(lambda: executed(directory), "the run to start")
    process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75
    assert "restarted 2 times, not again" in text
    assert requeues(directory) == []


def test_the_environment_file_is_sourced(directory: Path) -> None:
    plan_sweep(directory)
    (directory.parent / "slurm").mkdir()
    (directory.parent / "slurm" / "env.sh").write_text("export NMM_ROLE=trunk NMM_CHUNK=2; echo sourced\n")
    code, text = finish(task(directory, "branch", 0))
    assert code == 0, text
    assert "sourced" in text and "all 2 runs are done" in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"NMM_DIR": ""}, "set it to the directory of the sweep"),
        ({"SLURM_ARRAY_TASK_ID": ""}, "this script runs as a job array"),
        ({"NMM_ENV": "/nowhere/env.sh"}, "does not exist"),
        ({"SLURM_ARRAY_TASK_ID": "9"}, "has 2 chunks of 1 for level trunk"),
    ],
)
def test_a_task_that_is_set_up_wrong_says_what_is_missing(directory: Path, extra: dict[str, str], message: str) -> None:
    plan_sweep(directory)
    code, text = finish(task(directory, "trunk", 0, **extra))
    assert code not in (0, 75)
    assert message in text
    assert not executed(directory)


def test_the_script_asks_slurm_for_what_its_body_relies_on() -> None:
    header = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@180"} <= set(header)
    body = "".join(line for line in SCRIPT.read_text().splitlines(True) if not line.startswith("#"))
    assert "SLURM_JOB_ID" not in body
