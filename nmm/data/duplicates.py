"""Samples of indexed sources that deliver the same bytes, counted by the digests in their indexes.

Shape legend: n usable samples of all sources, d of them with a digest that occurs more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nmm.data.index_file import read_index
from nmm.data.index_records import in_split
from nmm.data.indexed import IndexedSources

TRAIN, HELD = 1, 2


def duplicates(opened: IndexedSources, names: Sequence[str]) -> dict[str, Any]:
    """``sources[name]``: samples, repeats (samples beyond the first of each content, in this source) and elsewhere
    (samples whose content another source has too); held_out, and leaked (held-out samples with content that is trained
    on, in whatever source). Repeats and elsewhere count training and held-out samples alike.
    """
    tables = [_table(opened, name) for name in names]
    digest, split = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    source = np.repeat(np.arange(len(names)), [len(table[0]) for table in tables])
    count = np.bincount(source, minlength=len(names))
    held_out = int((split == HELD).sum())

    order = np.argsort(digest)
    same = np.diff(digest[order]) == 0  # sample i + 1 of the order has the content of sample i
    more = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    kept = order[more]  # (d,), together where they are equal
    source, split = source[kept], split[kept]
    starts_new = np.diff(digest[kept], prepend=~digest[kept][:1]) != 0
    group, first = np.cumsum(starts_new) - 1, np.flatnonzero(starts_new)
    in_source = np.unique(group * len(names) + source)  # every (content, source) once
    repeats = np.bincount(source, minlength=len(names)) - np.bincount(in_source % len(names), minlength=len(names))
    sources_of_content = np.bincount(in_source // len(names))
    elsewhere = np.bincount(source[sources_of_content[group] > 1], minlength=len(names))
    trained = np.bitwise_or.reduceat(split, first) & TRAIN
    leaked = int(((split == HELD) & (trained[group] > 0)).sum())
    return {
        "sources": {
            name: {"samples": int(count[i]), "repeats": int(repeats[i]), "elsewhere": int(elsewhere[i])}
            for i, name in enumerate(names)
        },
        "held_out": held_out,
        "leaked": leaked,
    }


def _table(opened: IndexedSources, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) digests and (n,) uint8 TRAIN or HELD of a source's usable samples."""
    digests, splits = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint8)]
    for shard in opened.sources[name]:
        samples = read_index(shard.index).samples
        usable = samples["reason"] == 0
        digests.append(samples["digest"][usable])
        held = in_split(samples["key_hash"][usable], "val", opened.val_fraction)
        splits.append(np.where(held, np.uint8(HELD), np.uint8(TRAIN)))
    return np.concatenate(digests), np.concatenate(splits)
