"""Fixtures for every test: shards of a small world, and configs on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import SOURCES, conf

from nmm.config import RunConfig, from_dict
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.resolve import finalize

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only shard folder: 300 training, 60 validation and 10 test documents of each source of a small world."""
    out = tmp_path_factory.mktemp("world") / "shards"
    world = WorldConfig(num_entities=150, name_words=16)
    write_shards(world, out, {s: {"train": 300, "val": 60, "test": 10} for s in SOURCES}, 128, progress=False)
    return out


@pytest.fixture(scope="session")
def make_config(tiny_shards: Path) -> Callable[..., RunConfig]:
    """``make_config(arch, size, **groups)``: a finalized config of a few eager steps on the tiny shards.

    A group is given as a dict of the fields that differ (``trainer={"micro_batches": 2}``), anything else as its value.
    """

    def make(arch: str = "early", size: str = "d16", /, **groups: Any) -> RunConfig:
        values: dict[str, Any] = {
            "arch": conf("arch", arch),
            "size": conf("size", size),
            "data": {**conf("data", "world"), "path": str(tiny_shards), "eval_rows": 6},
            "optim": conf("optim", "adamw"),
            "schedule": {**conf("schedule", "wsd"), "warmup_steps": 4},
            "trainer": {**conf("trainer", "cpu"), "compile": "off", "log_every_steps": 2, "progress": False},
            "budget": {"steps": 12},
        }
        for name, change in groups.items():
            is_group = isinstance(change, dict) and name != "budget"
            values[name] = {**values.get(name, {}), **change} if is_group else change
        return finalize(from_dict(values))

    return make


@pytest.fixture
def tiny_config(make_config: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    """``make_config`` with run directories under the test's own folder."""
    return lambda *names, **groups: make_config(*names, **{"out": str(tmp_path / "runs"), **groups})
