"""Ranks that something else has started: srun on two nodes, alone and in an array's task, and torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_srun import install, step_variables
from fake_sweep import RUNNER, STARTED, end_started, wait_for
from lab import ROOT, child_environment, nmm, run_directory, train
from rank_runs import free_port
from slurm_tasks import stand_in, submit_chunks, task_command
from test_world_size import assert_equal_to_rounding, overrides

from nmm.config import RunConfig, run_id
from nmm.record import attempts, checkpoints, read_record, status
from sweeps import manifest
from sweeps.manifest import Entry, Estimate
from sweeps.slurm.submissions import read_submissions

TinyConfig = Callable[..., RunConfig]
TWO_NODES = {"devices": 1, "num_nodes": 2}


def alone_and(
    tiny_config: TinyConfig, tmp_path: Path, steps: int = 12, **trainer: object
) -> tuple[RunConfig, RunConfig]:
    """A run finished by this process, and the same with another ``trainer`` in another folder."""
    common = {"micro_batches": 2, "log_every_steps": 1}
    slowly = {"lr": 1e-3}  # so that roundings do not grow over many steps
    alone = tiny_config(trainer=common, optim=slowly, budget={"steps": steps}, out=str(tmp_path / "alone"))
    train(alone)
    other = dataclasses.replace(alone.trainer, **trainer)
    return alone, dataclasses.replace(alone, out=str(tmp_path / "ranks"), trainer=other)


def start_all(arguments: list[str], nodes: int, each: int, cwd: Path) -> list[subprocess.Popen[str]]:
    """`nmm train` once for every task of a step, as srun starts it."""
    shared = child_environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_JOB_ID": "77"}
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            [sys.executable, "-m", "nmm.train", *arguments],
            cwd=cwd, env=shared | variables, stdout=pipe, stderr=pipe, text=True,
        )
        for variables in step_variables(nodes, each)
    ]  # fmt: skip


def test_two_nodes_are_one(tiny_config: TinyConfig, tmp_path: Path) -> None:
    alone, both = alone_and(tiny_config, tmp_path)
    command = [*overrides(both, 1), "trainer.num_nodes=2", "trainer.strategy=fsdp2"]
    ranks = start_all(command, nodes=2, each=1, cwd=tmp_path)
    (output, errors), (nothing, other_errors) = (rank.communicate(timeout=300) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0], errors + other_errors
    assert output.count("done: 12 steps") == 1 and nothing == ""
    assert [path.name for path in attempts(run_directory(both))] == ["0001"]
    assert "2 ranks on 2 nodes, fsdp2, started by srun" in (attempts(run_directory(both))[0] / "log.txt").read_text()
    assert_equal_to_rounding(alone, both)


@pytest.mark.parametrize(
    ("nodes", "each", "given", "message"),
    [
        (2, 1, [], "srun started 2 processes on 2 nodes, but trainer.devices=1 x trainer.num_nodes=1 asks for 1 on"),
        (1, 4, ["trainer.devices=2"], "srun started 4 processes on 1 nodes, but trainer.devices=2"),
    ],
)
def test_other_ranks_than_asked_for(
    tiny_shards: Path, tmp_path: Path, nodes: int, each: int, given: list[str], message: str
) -> None:
    """Every process says so before it has touched anything: four runs in one directory would fight."""
    command = ["size=d16", "budget.steps=4", f"data.path={tiny_shards}", "out=runs", *given]
    ranks = start_all(command, nodes, each, tmp_path)
    for rank in ranks:
        output, errors = rank.communicate(timeout=120)
        assert (rank.returncode, output) == (2, "")
        assert errors.startswith("nmm train: ") and message in errors
    assert list(tmp_path.iterdir()) == []


def test_several_nodes_need_someone_to_start_them(tiny_shards: Path, tmp_path: Path) -> None:
    done = nmm("train", "budget.steps=4", f"data.path={tiny_shards}", "trainer.num_nodes=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "start `nmm train` on all of them with srun (slurm/README.md) or torchrun" in done.stderr


# --------------------------------------------------------------------------------------------------------------- arrays


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """Where an array's manifest lies."""
    yield tmp_path / "ranks"
    end_started()


def plan_one(config: RunConfig, directory: Path) -> None:
    """A manifest of one line."""
    directory.mkdir()
    manifest.write(directory, [Entry(config, Estimate(1e9, 10.0, 1e6))])


def array_task(directory: Path, nodes: int, restarts: int = 0) -> subprocess.Popen[str]:
    """Task 0 of an array of one chunk, in a job of one task on each of ``nodes``."""
    tools = directory.parent / "bin"
    install(tools)
    stand_in(tools, "scontrol", f'echo "$@" >> {directory.parent}/scontrol.log')
    stand_in(tools, "squeue", "echo RUNNING")
    if not read_submissions(directory):
        submit_chunks(directory, [[entry.run_id for entry in manifest.read(directory)]], RUNNER)
    slurm = {"SLURM_ARRAY_JOB_ID": "4000", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "4001", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_NTASKS": str(nodes), "SLURM_NNODES": str(nodes), "SLURM_RESTART_COUNT": str(restarts)}
    mine = {"FAKE_SRUN_LOG": str(directory.parent / "srun.log")}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])}
    path |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    variables = child_environment() | slurm | mine | path
    script = ["bash", *task_command(directory, 1, "shell")]
    STARTED.append(subprocess.Popen(script, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return STARTED[-1]


@pytest.mark.slow
def test_an_array_task_on_two_nodes_is_stopped_and_goes_on(
    tiny_config: TinyConfig, tmp_path: Path, sweep: Path
) -> None:
    """The ranks save at one step, the task asks for itself again, and the result is that of one rank."""
    alone, both = alone_and(tiny_config, tmp_path, steps=150, **TWO_NODES)
    plan_one(both, sweep)
    directory = sweep / run_id(both)
    process = array_task(sweep, nodes=2)
    rows = directory / "attempts" / "0001" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 5, "the fifth step", 240)
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 75, text
    assert status(directory) == "interrupted"
    assert 5 <= checkpoints(directory)[0][0] < 150
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4000_0\n"
    process = array_task(sweep, nodes=2, restarts=1)
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    assert "all 1 runs are done" in text
    first, second = read_record(run_directory(alone)), read_record(directory)
    assert first is not None and second is not None
    assert second["result"]["loss"] == pytest.approx(first["result"]["loss"], rel=1e-5)
    assert second["result"]["order_hash"] == first["result"]["order_hash"]
    asked = (tmp_path / "srun.log").read_text().splitlines()
    assert len(asked) == 2
    assert asked[0].startswith("--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 ")
    assert json.loads((attempts(directory)[0] / "ended.json").read_text())["status"] == "interrupted"


STUB = """#!/bin/sh
trap 'exit 138' USR1
echo "$SLURM_PROCID: $@" >> {folder}/ranks.log
{then}
"""


def train_task(folder: Path, then: str, state: str = "RUNNING", **extra: str) -> subprocess.Popen[str]:
    """slurm/train.sbatch in a job of two tasks on each of two nodes; ``then`` is what a rank does, ``state`` what
    squeue says of the job when asked.
    """
    (folder / "python").write_text(STUB.format(folder=folder, then=then))
    (folder / "python").chmod(0o755)
    tools = folder / "bin"
    install(tools)
    stand_in(tools, "scontrol", f'echo "$@" >> {folder}/scontrol.log')
    stand_in(tools, "squeue", f"echo {state}")
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
    mine = {"NMM_PYTHON": str(folder / "python"), "FAKE_SRUN_LOG": str(folder / "srun.log")}
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    path["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    script = ["bash", str(ROOT / "slurm" / "train.sbatch"), "arch=late", "trainer=fsdp2"]
    environment = child_environment() | slurm | mine | path | extra
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_one_run_takes_the_shape_of_its_job(tmp_path: Path) -> None:
    process = train_task(tmp_path, "exit 0", SLURM_CPUS_PER_TASK="3", NMM_SRUN_ARGS="--mpi=none")
    assert process.communicate(timeout=60) and process.returncode == 0
    command = "-m nmm.train arch=late trainer=fsdp2 trainer.devices=2 trainer.num_nodes=2"
    ranks = sorted((tmp_path / "ranks.log").read_text().splitlines())
    assert ranks == [f"{rank}: {command}" for rank in range(4)]
    options = "--nodes=2 --ntasks=4 --ntasks-per-node=2 --kill-on-bad-exit=1 --cpus-per-task=3 --mpi=none"
    assert (tmp_path / "srun.log").read_text() == f"{options} {tmp_path}/python {command}\n"


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(
    ("state", "restarts", "requeued"),
    [("RUNNING", "0", "requeue 77\n"), ("RUNNING", "20", ""), ("CANCELLED", "0", ""), ("PENDING", "0", "")],
)
def test_one_run_is_stopped_and_asks_for_its_job_again_unless_slurm_ends_it(
    tmp_path: Path, signum: signal.Signals, state: str, restarts: str, requeued: str
) -> None:
    process = train_task(tmp_path, "while :; do sleep 0.1; done", state, SLURM_RESTART_COUNT=restarts)
    log = tmp_path / "ranks.log"
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 4, "the ranks")
    process.send_signal(signum)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 75, text
    found = (tmp_path / "scontrol.log").read_text() if (tmp_path / "scontrol.log").exists() else ""
    assert found == requeued


def test_a_run_that_fails_is_not_asked_for_again(tmp_path: Path) -> None:
    process = train_task(tmp_path, "exit 3")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert not (tmp_path / "scontrol.log").exists()


# ------------------------------------------------------------------------------------------------------------- torchrun


@pytest.mark.slow
def test_torchrun(tiny_config: TinyConfig, tmp_path: Path) -> None:
    alone, both = alone_and(tiny_config, tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nmm.train"]
    done = subprocess.run(
        [*torchrun, *overrides(both, 2)], cwd=tmp_path, env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 12 steps") == 1
    assert "2 ranks on 1 nodes, ddp, started by torchrun" in (attempts(run_directory(both))[0] / "log.txt").read_text()
    assert_equal_to_rounding(alone, both)
