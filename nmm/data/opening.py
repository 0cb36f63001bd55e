"""From a run's data config to its rows: rendered shards and indexed sources alike."""

from __future__ import annotations

from dataclasses import replace

from nmm.data.indexed import IndexedSources, open_indexed
from nmm.data.manifest import Shards, open_shards
from nmm.data.source import RowSource
from nmm.groups import Data, Stage


def open_data(data: Data) -> Shards | IndexedSources:
    """The shards of a run: indexed ones when ``data.sources`` names any, else the rendered folder ``data.path``.

    Raises FileNotFoundError or ValueError naming what is missing or changed, and the command that makes it.
    """
    if data.sources:
        return open_indexed(data)
    shards = open_shards(data.path)
    if not data.picture_size:
        return shards
    return replace(shards, image_size=data.image_size, picture_size=shards.image_size, tiles=data.tiles)


def row_source(
    opened: Shards | IndexedSources,
    data: Data,
    seed: int,
    split: str = "train",
    once_in_order: bool = False,
    stage: str = "pretrain",
    bridge: Stage | None = None,
) -> RowSource:
    """The rows of a run's mixture; with ``bridge`` those of its stage bridge."""
    return RowSource(
        opened,
        data.mixture,
        data.context_length,
        data.patch_size,
        seed,
        split,
        once_in_order,
        stage,
        data.weights,
        data.cut_text and not once_in_order,
        bridge,
    )
