"""Samples of indexed shards that deliver the same bytes as another one: counted and shown, never dropped.

Shape legend: n usable samples of all shards, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmm.data.index_file import read_index
from nmm.data.index_records import in_split

SHOWN = 3


@dataclass(frozen=True)
class Repeats:
    """``repeated`` samples beyond the first of each content; of the ``held_out``, ``leaked`` are trained on, too.

    ``examples``: pairs of "shard: key".
    """

    samples: int
    repeated: int
    held_out: int
    leaked: int
    examples: tuple[tuple[str, str], ...]


def count_repeats(files: Sequence[tuple[Path, Path]], val_fraction: float) -> Repeats:
    """Compare the digests of all usable samples of (shard, index) ``files``, as if ``val_fraction`` were held out."""
    digests, held = [np.zeros(0, np.uint64)], [np.zeros(0, bool)]
    for _, file in files:
        samples = read_index(file).samples
        usable = samples[samples["reason"] == 0]
        digests.append(usable["digest"])
        held.append(in_split(usable["key_hash"], "val", val_fraction))
    ends = np.cumsum([len(part) for part in digests[1:]])
    digest, is_held = np.concatenate(digests), np.concatenate(held)

    order = np.argsort(digest, kind="stable")
    starts_new = np.diff(digest[order]) != 0
    group = np.concatenate([np.zeros(min(len(order), 1), np.int64), np.cumsum(starts_new)])
    trained = np.zeros(len(order), bool)
    trained[group[~is_held[order]]] = True
    pairs = np.flatnonzero(~starts_new)
    pairs = pairs[np.argsort(order[pairs])[:SHOWN]]
    return Repeats(
        samples=len(digest),
        repeated=int((~starts_new).sum()),
        held_out=int(is_held.sum()),
        leaked=int((is_held[order] & trained[group]).sum()),
        examples=tuple((_name(files, ends, order[at]), _name(files, ends, order[at + 1])) for at in pairs),
    )


def _name(files: Sequence[tuple[Path, Path]], ends: np.ndarray, sample: np.int64) -> str:
    """Shard and key of one of the n samples."""
    shard = int(np.searchsorted(ends, sample, side="right"))
    index = read_index(files[shard][1])
    usable = np.flatnonzero(index.samples["reason"] == 0)
    place = int(usable[int(sample) - (int(ends[shard - 1]) if shard else 0)])
    return f"{files[shard][0]}: {index.key(place)!r}"
