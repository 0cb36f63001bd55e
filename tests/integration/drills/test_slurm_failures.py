"""The controller dies, a node dies, a node only seems to: the sweep ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from slurm_lab import slurm_cluster
from slurm_sweeps import Sweep

from nmm.record import is_alive, owner

pytestmark = pytest.mark.slurm


def test_controller_killed_and_restarted_launches_running_tasks_again(
    trained: Path, calm_results: dict[str, Any]
) -> None:
    """Killed before it has saved its state, it starts the task again, under the same job id and restart count.

    Sent to the node that still has it, the task is refused there and held: an administrator has to let it go.
    """
    with slurm_cluster(nodes=2, cpus=1) as slurm:
        sweep = Sweep(slurm, trained)
        sweep.start()
        trunk = sweep.runs[0]
        slurm.wait(sweep.task_of(trunk), {"RUNNING"})
        slurm.kill_controller()
        code, text = sweep.launch()
        assert code not in (0, 75) and "squeue" in text, "a launch that cannot ask SLURM must say so and submit nothing"
        slurm.start_controller()
        sweep.check(calm_results, trunk)


def test_a_dead_node(trained: Path, calm_results: dict[str, Any]) -> None:
    with slurm_cluster(nodes=2, cpus=1) as slurm:
        sweep = Sweep(slurm, trained)
        sweep.start()
        trunk = sweep.runs[0]
        sweep.wait_for_step(trunk, 60, 1)
        node = sweep.node(trunk)
        slurm.kill_node(node)
        sweep.until(lambda: sweep.state(trunk) == "PENDING", "the controller to notice that the node is dead")
        slurm.start_now(sweep.task_of(trunk))
        sweep.check(calm_results, trunk)
        assert sweep.endings(trunk) == ["", "done"]
        assert sweep.node(trunk) != node


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no_locks"])
def test_a_node_that_only_seems_dead_leaves_two_writers(
    trained: Path, calm_results: dict[str, Any], locks: bool
) -> None:
    """Only slurmd dies, so SLURM runs the task elsewhere while the old process lives; it stands still meanwhile.

    Without its lock the old attempt looks dead, as on a shared disk that does not pass locks on.
    """
    with slurm_cluster(nodes=2, cpus=1) as slurm:
        sweep = Sweep(slurm, trained)
        sweep.start()
        trunk = sweep.runs[0]
        sweep.wait_for_step(trunk, 60, 1)
        old = (owner(sweep.attempts(trunk)[0]) or {})["pid"]
        slurm.kill_slurmd(sweep.node(trunk))
        if not locks:
            (sweep.attempts(trunk)[0] / "lock").unlink()
        os.kill(old, signal.SIGSTOP)
        sweep.until(lambda: sweep.state(trunk) == "PENDING", "the controller to give the node up")
        slurm.start_now(sweep.task_of(trunk))
        sweep.wait_for_step(trunk, 80, 2) if not locks else slurm.wait(sweep.task_of(trunk), {"RUNNING"})
        os.kill(old, signal.SIGCONT)
        sweep.until(lambda: not is_alive(sweep.attempts(trunk)[0]), "the old process to end")
        sweep.check(calm_results, trunk)
