"""Samples of indexed shards that deliver the same bytes, found by the digests in their indexes: counted, never dropped.

Shape legend: n usable samples of all shards, in their order; g different contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nmm.data.index_file import read_index
from nmm.data.index_records import in_split
from nmm.data.indexed import IndexedSources

SHOWN = 3


class Usable(NamedTuple):
    """(n,) digests, (n,) bool whether held out, and (shards,) how many samples there are up to the end of each."""

    digest: np.ndarray
    held: np.ndarray
    ends: np.ndarray


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
    """Compare all usable samples of (shard, index) ``files``, as if ``val_fraction`` were held out."""
    digest, held, ends = _usable((index for _, index in files), val_fraction)
    content = _contents(digest)
    order = np.argsort(content, kind="stable")
    pairs = np.flatnonzero(np.diff(content[order]) == 0)
    shown = pairs[np.argsort(order[pairs])[:SHOWN]]
    return Repeats(
        samples=len(digest),
        repeated=len(pairs),
        held_out=int(held.sum()),
        leaked=_leaked(content, held),
        examples=tuple((_name(files, ends, order[at]), _name(files, ends, order[at + 1])) for at in shown),
    )


def duplicates(opened: IndexedSources, names: Sequence[str]) -> dict[str, Any]:
    """``sources[name]``: samples, repeats (samples beyond the first of each content, in this source) and elsewhere
    (samples whose content another source has too); held_out, and leaked (held-out samples with content that is trained
    on, in whatever source). Repeats and elsewhere count training and held-out samples alike.
    """
    tables = [_usable((shard.index for shard in opened.sources[name]), opened.val_fraction) for name in names]
    content, held = _contents(np.concatenate([t.digest for t in tables])), np.concatenate([t.held for t in tables])
    count = [len(table.digest) for table in tables]
    source = np.repeat(np.arange(len(names)), count)
    in_source = np.unique(content * len(names) + source)  # every (content, source) once
    different = np.bincount(in_source % len(names), minlength=len(names))
    sources_of_content = np.bincount(in_source // len(names))
    elsewhere = np.bincount(source[sources_of_content[content] > 1], minlength=len(names))
    return {
        "sources": {
            name: {"samples": count[i], "repeats": count[i] - int(different[i]), "elsewhere": int(elsewhere[i])}
            for i, name in enumerate(names)
        },
        "held_out": int(held.sum()),
        "leaked": _leaked(content, held),
    }


def _usable(indexes: Iterable[Path], val_fraction: float) -> Usable:
    digests, held = [np.zeros(0, np.uint64)], [np.zeros(0, bool)]
    for index in indexes:
        samples = read_index(index).samples
        usable = samples["reason"] == 0
        digests.append(samples["digest"][usable])
        held.append(in_split(samples["key_hash"][usable], "val", val_fraction))
    return Usable(np.concatenate(digests), np.concatenate(held), np.cumsum([len(part) for part in digests[1:]]))


def _contents(digest: np.ndarray) -> np.ndarray:
    """(n,) int64 numbers in 0..g-1, equal where digests are."""
    return np.unique(digest, return_inverse=True)[1].astype(np.int64)


def _leaked(content: np.ndarray, held: np.ndarray) -> int:
    """Held-out samples whose content is trained on."""
    return int(np.isin(content[held], content[~held]).sum())


def _name(files: Sequence[tuple[Path, Path]], ends: np.ndarray, sample: np.int64) -> str:
    """Shard and key of one of the n samples."""
    shard = int(np.searchsorted(ends, sample, side="right"))
    index = read_index(files[shard][1])
    usable = np.flatnonzero(index.samples["reason"] == 0)
    place = int(usable[int(sample) - (int(ends[shard - 1]) if shard else 0)])
    return f"{files[shard][0]}: {index.key(place)!r}"
