"""Preempted by a job of higher priority, twice in a row: saved in the grace time, queued again, exact in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_lab import PREEMPTION, PREEMPTION_CONF, Cluster, slurm_cluster
from slurm_sweeps import Sweep

pytestmark = pytest.mark.slurm
SIGNALS = {"SIGTERM": (), "USR1": ("SlurmctldParameters=preempt_send_user_signal",)}


@pytest.fixture(params=SIGNALS)
def preempting(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster on which jobs of "high" push out those of "low", telling them by SIGTERM or by the signal they want."""
    conf = (*PREEMPTION_CONF, *SIGNALS[request.param])
    with slurm_cluster(nodes=1, cpus=2, partitions=PREEMPTION, conf=conf, requeue_seconds=6) as cluster:
        yield cluster


def test_preempted_twice_in_a_row(preempting: Cluster, trained: Path, calm_results: dict[str, Any]) -> None:
    sweep = Sweep(preempting, trained)
    sweep.start("slurm.partition=low")
    trunk = sweep.runs[0]
    for number in (1, 2):
        sweep.wait_for_step(trunk, 40 * number, number)
        urgent = preempting.submit("-p", "high", "--exclusive", "--wrap", "sleep 1")
        preempting.wait(urgent, {"COMPLETED"})
        sweep.until(lambda number=number: sweep.endings(trunk)[:number] == ["interrupted"] * number, "it to save")
        preempting.start_now(sweep.task_of(trunk))
    sweep.check(calm_results, trunk)
    assert sweep.endings(trunk) == ["interrupted", "interrupted", "done"]
