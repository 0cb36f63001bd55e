"""What tests of whole runs on small indexed shards share; their fixtures are in conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shards_lab import members_of, opened_index, spoil_picture

from nmm.config import RunConfig
from nmm.data.source import RowSource
from nmm.training import run

ROWS, STEPS = 4, 8
SAME = ("order_hash", "weights_sha256", "skipped_samples", "loss")
Config = Callable[..., RunConfig]
Undisturbed = Callable[..., dict[str, Any]]


def forget() -> None:
    """What a process keeps of opened data, as a new process would."""
    run._opened.cache_clear()
    run._held_out.cache_clear()


def results(record: dict[str, Any]) -> dict[str, Any]:
    """What two runs that are one must agree in, bit for bit."""
    return {name: record["result"][name] for name in SAME} | {"tokens": record["tokens"]}


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], Any]) -> None:
    """``action`` happens once, before the rows of a step of training are built."""
    rows_at, done = RowSource.rows_at, []

    def found(self: RowSource, cursor: int, *arguments: Any) -> Any:
        if cursor == ROWS * step and self.stream["split"] == "train" and not done:
            done.append(action())
        return rows_at(self, cursor, *arguments)

    monkeypatch.setattr(RowSource, "rows_at", found)


def spoil(folder: Path) -> None:
    """Damage every fifth picture of every shard so that only decoding finds it."""
    for shard in folder.rglob("*.tar"):
        names = [name for name, _, _ in members_of(shard) if name.endswith(".jpg")]
        for name in names[::5]:
            spoil_picture(shard, name)


def spoiled_places(shard: Path) -> list[int]:
    """Places of the samples with a picture that ``spoil`` damaged. (No document here is cut before an image.)"""
    if shard.parent.name == "text":
        return []
    names = [name for name, _, _ in members_of(shard) if name.endswith(".jpg")]
    keys = {name.split(".")[0] for name in names[::5]}
    index = opened_index(shard)
    return [place for place in range(len(index.samples)) if index.key(place) in keys]
