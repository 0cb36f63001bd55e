"""`nmm train -m hydra/launcher=submitit_slurm` on a real SLURM: the same runs, preemption, and a job that dies.

submitit hears of a dead job through sacct only, which needs accounting; a stand-in answers from squeue.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from doors_lab import LIMIT, LONG, SHORT, ends, files, logging, plain, runs, start
from lab import ROOT
from slurm_lab import PREEMPTION, PREEMPTION_CONF, Cluster, slurm_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DOOR = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30")
SACCT = """\
#!/bin/sh
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    [ "$1" = -j ] && squeue -h -r -t all -j "$2" -o "%i|%T|%N"
    shift
done
"""


def environment(cluster: Cluster, folder: Path) -> dict[str, str]:
    """What `nmm train -m` needs to talk to the cluster."""
    folder.mkdir()
    (folder / "sacct").write_text(SACCT)
    (folder / "sacct").chmod(0o755)
    path = f"{folder}:{cluster.env['PATH']}"
    return {**cluster.env, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def tasks(cluster: Cluster) -> list[str]:
    """Ids of the tasks in the queue."""
    return sorted(cluster.ask("squeue", "-h", "-r", "-o", "%i").split())


def test_the_same_runs_and_again_nothing(slurm: Cluster, tiny_shards: Path, tmp_path: Path) -> None:
    expected = plain(tiny_shards, tmp_path / "plain", *SHORT)
    env = environment(slurm, tmp_path / "bin")
    command = (*DOOR, "seed=0,1", *SHORT, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path, env=env)
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert runs(tmp_path / "runs") == expected
    assert out.count("done: 4 steps") == 2
    before, jobs = files(tmp_path / "runs"), slurm.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i")
    again = start(*command, cwd=tmp_path, env=env)
    assert again.communicate(timeout=LIMIT)[0] == out
    assert again.returncode == 0
    assert files(tmp_path / "runs") == before
    assert slurm.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i") == jobs  # nothing was submitted


def test_a_killed_job_ends_no_other_and_is_named(slurm: Cluster, tiny_shards: Path, tmp_path: Path) -> None:
    command = (*DOOR, "seed=0,1", *LONG, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path, env=environment(slurm, tmp_path / "bin"))
    victim = logging(tmp_path / "runs", count=2)[0]
    os.kill(int((victim / "lock").read_text()), signal.SIGKILL)
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, errors
    assert "nmm train: 1 of 2 runs are done; not done:\n  interrupted: " + victim.parents[1].name in errors
    assert out.startswith("done: 400 steps")


def test_a_preempted_job_saves_and_comes_back(tiny_shards: Path, tmp_path: Path) -> None:
    """With no signal of its own, SLURM sends SIGTERM at once and kills when the grace time is over."""
    with slurm_cluster(nodes=1, cpus=1, partitions=PREEMPTION, conf=PREEMPTION_CONF) as cluster:
        command = (*DOOR, "seed=0", *LONG, f"data.path={tiny_shards}", "out=runs")
        process = start(*command, cwd=tmp_path, env=environment(cluster, tmp_path / "bin"))
        logging(tmp_path / "runs")
        (task,) = tasks(cluster)
        cluster.submit("--partition=high", "--wrap", "sleep 1")
        cluster.start_now(task)
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert list(ends(tmp_path / "runs").values()) == [["interrupted", "done"]]


def test_a_cancelled_job_stays_cancelled(slurm: Cluster, tiny_shards: Path, tmp_path: Path) -> None:
    command = (*DOOR, "seed=0", *LONG, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path, env=environment(slurm, tmp_path / "bin"))
    logging(tmp_path / "runs")
    (task,) = tasks(slurm)
    slurm.ask("scancel", task)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "nmm train: 0 of 1 runs are done; not done:\n  interrupted: " in errors
    assert slurm.state(task) == "CANCELLED"
    assert list(ends(tmp_path / "runs").values()) == [["interrupted"]]
