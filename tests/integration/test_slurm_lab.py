"""The private cluster behaves like a real one where sweeps rely on it, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_lab import Cluster, slurm_cluster, until

pytestmark = pytest.mark.slurm


def test_an_array_runs_at_most_so_many_tasks_at_once(slurm: Cluster) -> None:
    job = slurm.submit("--array=0-5%2", "--wrap", "sleep 0.3")
    most = 0
    while "PENDING" in (states := slurm.states(job)).values():
        most = max(most, list(states.values()).count("RUNNING"))
    assert most == 2
    assert slurm.wait(job) == {f"{job}_{index}": "COMPLETED" for index in range(6)}


def test_a_requeued_task_keeps_its_name_and_counts_its_restarts(slurm: Cluster) -> None:
    say = 'echo "$SLURM_ARRAY_TASK_ID $SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0}"; [ "$SLURM_RESTART_COUNT" ] || sleep 60'
    log = slurm.folder / "requeued-%a.log"
    job = slurm.submit("--array=0-1", "--open-mode=append", f"--output={log}", "--wrap", say)
    slurm.wait(job, {"RUNNING"})
    last = slurm.folder / "requeued-1.log"
    until(lambda: last.exists() and last.read_text(), "the last task to speak", 20)
    slurm.ask("scontrol", "requeue", f"{job}_1")
    slurm.start_now(f"{job}_1")
    assert slurm.wait(f"{job}_1") == {f"{job}_1": "COMPLETED"}
    lines = [line for line in last.read_text().splitlines() if line.startswith("1 ")]
    assert lines == [f"1 {job} 0", f"1 {job} 1"]  # the last task's job id is the array's: no name for one task
    assert slurm.state(f"{job}_0") == "RUNNING"
    slurm.ask("scancel", job)


def test_a_dead_node_is_noticed_and_its_job_goes_on_elsewhere() -> None:
    with slurm_cluster(nodes=2, cpus=1) as slurm:
        job = slurm.submit("--requeue", "--wrap", '[ "$SLURM_RESTART_COUNT" ] || sleep 300')
        slurm.wait(job, {"RUNNING"})
        node = slurm.ask("squeue", "-h", "-j", job, "-o", "%N")
        slurm.kill_node(node)
        until(lambda: slurm.state(job) == "PENDING", "the controller to notice", 60, lambda: slurm.state(job))
        assert slurm.ask("sinfo", "-h", "-N", "-n", node, "-o", "%T").startswith("down")
        slurm.start_now(job)
        assert slurm.wait(job) == {job: "COMPLETED"}


def test_the_controller_comes_back_with_its_queue(slurm: Cluster) -> None:
    job = slurm.submit("--wrap", "sleep 60")
    slurm.wait(job, {"RUNNING"})
    saved = slurm.folder / "state" / "job_state"
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    later = slurm.submit("--begin=now+1hour", "--wrap", "true")  # a change to save
    until(lambda: saved.exists() and saved.stat().st_mtime_ns > before, "the controller to save its queue", 30)
    slurm.kill_controller()
    assert slurm.run("scontrol", "ping").returncode != 0
    slurm.start_controller()
    assert slurm.state(job) == "RUNNING"
    slurm.ask("scancel", job, later)
    assert slurm.wait(job) == {job: "CANCELLED"}


def test_several_clusters_at_once_end_without_a_trace() -> None:
    with slurm_cluster(nodes=1) as one, slurm_cluster(nodes=1) as other:
        jobs = [cluster.submit("--wrap", "srun sleep 300") for cluster in (one, other)]
        for cluster, job in zip((one, other), jobs, strict=True):
            cluster.wait(job, {"RUNNING"})
        until(lambda: one.processes() and other.processes(), "both jobs to run", 20)
        assert not set(one.processes()) & set(other.processes())
    for cluster in (one, other):
        assert not cluster.processes()
        assert not cluster.daemons
        assert not cluster.folder.exists()


def test_everything_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, slurm_lab\n"
        "with slurm_lab.slurm_cluster(nodes=1) as s:\n"
        "    s.wait(s.submit('--wrap', 'sleep 300'), {'RUNNING'})\n"
        "    slurm_lab.until(s.processes, 'slurmstepd', 20)\n"
        "    print(*[d.pid for d in s.daemons.values()], *s.processes(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | path, capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 3, done.stderr
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all of them to be gone", 20)
    until(lambda: not list(tmp_path.iterdir()), "the folder to be gone", 20)
