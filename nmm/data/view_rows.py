"""From a run's config to the page of its first rows: what ``nmm.data.view`` is told beside the Batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nmm.config import RunConfig
from nmm.data.decoded import sample_id
from nmm.data.index_file import ShardIndex, read_index
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.data.mixture import shares
from nmm.data.opening import open_data, row_source
from nmm.data.source import RowSource
from nmm.data.view import Lens, view_page


def rows_page(config: RunConfig, first: int, count: int) -> str:
    """HTML of rows ``first`` to ``first + count - 1`` of a finalized run's training data, see ``view_page``."""
    opened = open_data(config.data)
    rows = row_source(opened, config.row_data, config.seed, stage=config.stage.name, bridge=config.bridge)
    lens = Lens(
        sources=rows.names,
        samples=[sample_names(opened, rows, row) for row in range(first, first + count)],
        tokenizer=opened.tokenizer,
        patch_size=config.position_size,
        image_attention=config.arch.image_attention,
        document_mask=config.arch.document_mask,
    )
    return view_page(rows.rows_at(first, count), lens, page_facts(config, opened, rows), first)


def page_facts(config: RunConfig, opened: Shards | IndexedSources, rows: RowSource) -> Mapping[str, str]:
    """What stands at the top of the page: label -> value."""
    data, arch = config.data, config.arch
    mixture = ", ".join(f"{name} {share:.1%}" for name, share in shares(data.mixture, rows.names).items())
    facts = {f"source {name}": where for name, where in data.sources.items()}
    if data.path:
        facts = {"data": data.path, **facts}
    facts |= {
        f"mixture of {data.weights}": mixture,
        "context length": f"{data.context_length:,} positions",
        "an image": f"{data.image_size} x {data.image_size} pixels, {_positions(config)}",
    }
    if data.tiles > 1 or data.picture_size:
        facts["a picture"] = _picture(config)
    if data.sources:
        facts["crop and flip"] = f"at least {data.crop_scale:.0%} of the area, mirrored with probability {data.flip:g}"
    return facts | {
        "tokenizer": f"{data.tokenizer or 'of the shards'}, {opened.vocab_size:,} ids",
        "attention": f"{arch.image_attention} in images, {'inside' if arch.document_mask else 'across'} documents",
        "stage and seed": f"{config.stage.name}, {config.seed}",
        "fingerprint of the data": opened.fingerprint[:16],
    }


def _positions(config: RunConfig) -> str:
    side, number = config.data.patch_size, config.tokens_per_image
    if config.arch.pixel_shuffle == 1:
        return f"{number:,} patches of {side} x {side}"
    return f"{number:,} positions, each of 2 x 2 patches of {side} x {side}"


def _picture(config: RunConfig) -> str:
    data = config.data
    size = f"{data.picture_size} x {data.picture_size} pixels" if data.picture_size else "of any size"
    if data.tiles == 1:
        return f"{size}, made smaller"
    return f"{size}, {data.tiles} tiles of {data.image_size} x {data.image_size} pixels at most and a thumbnail"


def sample_names(opened: Shards | IndexedSources, rows: RowSource, row: int) -> list[str]:
    """Shard and key of every document of a row."""
    return [_sample_name(opened, rows, rows.names[document["source"]], document) for document in rows.documents(row)]


def _sample_name(opened: Shards | IndexedSources, rows: RowSource, name: str, document: np.void) -> str:
    if isinstance(opened, IndexedSources):
        shard = opened.sources[name][document["shard"]]
        return f"{shard.path.name}: {_index(shard.index).key(int(document['start']))}"
    infos = [info for source in rows.corpora for info in opened.split(source, "train").shards]
    info, decoded = infos[document["shard"]], rows.decoded[document["shard"]]
    place = int(np.flatnonzero(decoded.samples["id"] == document["id"])[0])
    key = f"{name}-train-{info.first_index + place:09d}"  # as rendered; the digest tells whether it is
    return f"{info.path}: {key if sample_id(key) == document['id'] else f'sample {place}'}"


@functools.lru_cache(maxsize=64)
def _index(file: Path) -> ShardIndex:
    return read_index(file)
