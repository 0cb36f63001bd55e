"""What starts the ranks of a run, and that a worker hands it every run that has several."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmm.config import RunConfig, identity, run_id, to_dict
from nmm.record import write_config
from sweeps import ranks
from sweeps.manifest import SweepError
from sweeps.ranks import command, port_of
from sweeps.worker import run_job

MakeConfig = Callable[..., RunConfig]


def on(config: RunConfig, devices: int, nodes: int) -> RunConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=devices, num_nodes=nodes))


def begun(make_config: MakeConfig, directory: Path) -> RunConfig:
    config = make_config(data={"mixture": {"caption": 1.0}})
    write_config(directory, {"run_id": run_id(config), "identity": identity(config), "settings": to_dict(config)})
    return config


TRAIN = [sys.executable, "-m", "nmm.train", "--from"]


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_ID": "1"}, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}])
def test_without_room_for_tasks_the_first_rank_starts_the_others(
    make_config: MakeConfig, tmp_path: Path, environ: dict[str, str]
) -> None:
    config = on(begun(make_config, tmp_path), 2, 1)
    assert command(config, tmp_path, environ) == [*TRAIN, str(tmp_path), "trainer.devices=2"]


def test_srun_starts_as_many_as_the_run_has(make_config: MakeConfig, tmp_path: Path) -> None:
    config = on(begun(make_config, tmp_path), 2, 2)
    environ = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "3", "NMM_SRUN_ARGS": "--mpi=none -l"}
    assert command(config, tmp_path, environ) == [
        "srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--kill-on-bad-exit=1", "--cpus-per-task=3",
        "--mpi=none", "-l", *TRAIN, str(tmp_path), "trainer.devices=2", "trainer.num_nodes=2",
    ]  # fmt: skip


def test_ports_differ_between_runs(make_config: MakeConfig) -> None:
    ports = {port_of(make_config(seed=seed)) for seed in range(50)}
    assert len(ports) > 45 and all(10_000 <= port < 30_000 for port in ports)


def test_a_worker_hands_over_what_has_several_ranks(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def runner(name: str) -> Callable[..., dict[str, Any]]:
        return lambda config, directory: seen.append(name) or {"status": "done"}

    monkeypatch.setattr(ranks, "execute", runner("ranks"))
    for config in (make_config(), on(make_config(), 2, 1), on(make_config(), 1, 2)):
        job = {"run_id": run_id(config), "config": to_dict(config), "directory": str(tmp_path)}
        assert run_job(runner("worker"), job)["event"] == "done"
    assert seen == ["worker", "ranks", "ranks"]


def test_ranks_that_leave_no_record(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    with pytest.raises(SweepError, match=f"the ranks of {tmp_path.name} ended with status 7 and without a record"):
        ranks.execute(on(make_config(), 2, 1), tmp_path)


@pytest.mark.parametrize("script", ["exit 137", "kill -9 $$"])
def test_ranks_that_are_killed_say_so(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(ranks, "command", lambda *_: ["sh", "-c", script])
    with pytest.raises(ranks.RanksLost, match="ended by signal 9"):
        ranks.execute(make_config(), tmp_path)


@pytest.mark.parametrize("leave", ["raise SystemExit(143)", "import os; os.kill(os.getpid(), 10)"])
def test_ranks_that_a_signal_has_stopped_are_no_failure(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    monkeypatch.setattr(ranks, "command", lambda *_: [sys.executable, "-c", leave])
    with pytest.raises(SystemExit):
        ranks.execute(on(make_config(), 2, 1), tmp_path)
