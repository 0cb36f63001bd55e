"""Fixtures of whole runs on small indexed shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import train
from shard_runs import STEPS, Config, Undisturbed, forget, results, spoil
from shards_lab import index_all, indexed_config, small_sources
from slurm_lab import Cluster, missing, slurm_cluster

from nmm.config import RunConfig
from nmm.data import reading


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed reads are tried again without a pause, and nothing is known of other tests' shards."""
    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0))
    forget()


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexed sources without a fault, two tars each; read-only."""
    folder = small_sources(tmp_path_factory.mktemp("sound"))
    index_all(folder)
    return folder


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every fifth picture damaged so that only decoding finds it; read-only."""
    folder = small_sources(tmp_path_factory.mktemp("spoiled"))
    spoil(folder)
    assert not any(report.bad for report in index_all(folder).shards)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def made(folder: Path, out: str = "runs", **groups: Any) -> RunConfig:
        trainer = {"checkpoint_every_steps": 2, "log_every_steps": 1, **groups.pop("trainer", {})}
        return indexed_config(folder, out=str(tmp_path / out), trainer=trainer, **groups)

    return made


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Results of a run on a folder that nothing happens to; each is made once."""
    out = str(tmp_path_factory.mktemp("undisturbed"))

    def found(folder: Path, max_skipped: float = 0.001, steps: int = STEPS) -> dict[str, Any]:
        groups = {"data": {"max_skipped": max_skipped}, "budget": {"steps": steps}}
        return results(train(indexed_config(folder, out=out, **groups)))

    return found


def needs_slurm() -> None:
    """Skip where SLURM is not installed; fail where the tools are required, as in CI."""
    reason = missing()
    if reason and os.environ.get("NMM_REQUIRE_TOOLS") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _slurm_is_installed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("slurm"):
        needs_slurm()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A private cluster of two nodes with four CPUs each, shared by the tests of a file."""
    needs_slurm()
    with slurm_cluster(nodes=2, cpus=4) as cluster:
        yield cluster
