"""What a run's data is made of, counted from indexes, manifests and lengths alone: nothing is read or decoded for it
(but for a rendered folder that nobody has opened before, which is decoded once, as training would do).

Shape legend: T positions a row, n samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nmm.data.corpus import Corpus
from nmm.data.duplicates import duplicates
from nmm.data.index_file import read_index
from nmm.data.index_records import in_split
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.data.mixture import shares
from nmm.data.source import RowSource
from nmm.groups import Data

CHUNK = 1 << 16
QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}


def data_stats(
    opened: Shards | IndexedSources, rows: RowSource, data: Data, row_count: int, budget_tokens: int | None = None
) -> dict[str, Any]:
    """Facts by topic, with stable keys, ready for JSON.

    ``rows`` is the training stream of ``opened``, of which the first ``row_count`` rows are packed and counted.
    ``budget_tokens`` (positions) adds what such a run would draw of every source. Raises ValueError for less than one
    row.
    """
    if row_count < 1:
        raise ValueError(f"--rows {row_count} must be at least 1")
    sources = {name: _shards_of(opened, name) | _epoch(rows, corpus) for name, corpus in rows.corpora.items()}
    counted = rows.counts(row_count)
    return {
        "data": _about(opened, rows, data),
        "sources": sources,
        "mixture": _mixture(rows, counted, data),
        "rows": _packed(rows, counted, row_count),
        "budget": None if budget_tokens is None else _budget(rows, counted, row_count, budget_tokens),
        "duplicates": duplicates(opened, list(rows.corpora)) if isinstance(opened, IndexedSources) else None,
    }


def _about(opened: Shards | IndexedSources, rows: RowSource, data: Data) -> dict[str, Any]:
    return {
        "kind": "indexed" if isinstance(opened, IndexedSources) else "rendered",
        "path": data.path,
        "fingerprint": opened.fingerprint,
        "tokenizer": opened.tokenizer.fingerprint,
        "vocab_size": opened.vocab_size,
        "context_length": rows.context_length,
        "image_size": opened.image_size,
        "patch_size": data.patch_size,
        "tokens_per_image": rows.patches_per_image,
        "tiles": f"a picture is at most {data.tiles} of them and a thumbnail" if data.tiles > 1 else "",
        "weights": data.weights,
        "image_share": data.image_share,
        "target_share": data.target_share,
    }


# ---------------------------------------------------------------------------------------------------------------------
# one source


def _shards_of(opened: Shards | IndexedSources, name: str) -> dict[str, Any]:
    """shards, refused (file -> why), held_out and bad (reason -> samples) of a source."""
    if isinstance(opened, Shards):
        splits = opened.sources[name]
        held_out = sum(split.samples for kind, split in splits.items() if kind != "train")
        return {"shards": len(splits["train"].shards), "refused": {}, "held_out": held_out, "bad": {}}
    held_out = 0
    bad: dict[str, int] = {}
    refused: dict[str, str] = {}
    for shard in opened.sources[name]:
        if shard.header["refused"]:
            refused[str(shard.path)] = shard.header["refused"]
            continue
        index = read_index(shard.index)
        held = in_split(index.samples["key_hash"], "val", opened.val_fraction)
        held_out += int((held & (index.samples["reason"] == 0)).sum())
        for reason, count in index.quarantined().items():
            bad[reason] = bad.get(reason, 0) + count
    return {"shards": len(opened.sources[name]), "refused": refused, "held_out": held_out, "bad": bad}


def _epoch(rows: RowSource, corpus: Corpus) -> dict[str, Any]:
    """One epoch of the training split, its documents cut to rows; the three counts go by value, from 0 on."""
    lengths, text = np.zeros(rows.context_length + 1, np.int64), np.zeros(rows.context_length + 1, np.int64)
    images = np.zeros(1 + rows.context_length // rows.patches_per_image, np.int64)
    truncated = targets = 0
    for documents in _chunks(corpus):
        words = documents["length"] - documents["images"] * rows.patches_per_image
        lengths += np.bincount(documents["length"], minlength=len(lengths))
        text += np.bincount(words, minlength=len(text))
        images += np.bincount(documents["images"], minlength=len(images))
        truncated += int(documents["truncated"].sum())
        targets += int(documents["targets"].sum())
    positions, text_tokens = (int(counts @ np.arange(len(counts))) for counts in (lengths, text))
    return {
        "samples": int(lengths.sum()),
        "positions": positions,
        "text_tokens": text_tokens,
        "image_tokens": positions - text_tokens,
        "targets": targets,
        "truncated": truncated,
        "length": _spread(lengths) | {"histogram": _histogram(lengths)},
        "text": _spread(text),
        "images": np.trim_zeros(images, "b").tolist(),
    }


def _chunks(corpus: Corpus) -> Iterator[np.ndarray]:
    """All DOCUMENT records of a source in order, some units at a time."""
    ends = np.cumsum(corpus.units).tolist()
    first = 0
    for at, end in enumerate(ends):
        if end - first >= CHUNK or at == len(ends) - 1:
            yield corpus.records(np.arange(first, end))
            first = end


def _spread(counts: np.ndarray) -> dict[str, float]:
    """Mean, quantiles and the largest of values of which there are ``counts[value]``."""
    ends = np.cumsum(counts)
    total = int(ends[-1])
    found = {"mean": float(counts @ np.arange(len(counts))) / total}
    found |= {name: int(np.searchsorted(ends, share * total)) for name, share in QUANTILES.items()}
    return found | {"max": int(np.flatnonzero(counts)[-1])}


def _histogram(counts: np.ndarray) -> list[dict[str, int]]:
    """Bins 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23, ...: two for every doubling."""
    edges = [1]
    while edges[-1] < len(counts):
        edges.append(max(edges[-1] + 1, 3 * edges[-1] // 2 if edges[-1].bit_count() == 1 else edges[-1] // 3 * 4))
    bins = zip(edges[:-1], edges[1:], strict=True)
    return [{"from": a, "to": min(b, len(counts)) - 1, "documents": int(counts[a:b].sum())} for a, b in bins]


# ---------------------------------------------------------------------------------------------------------------------
# the stream


def _mixture(rows: RowSource, counted: dict[str, dict[str, int]], data: Data) -> dict[str, dict[str, float]]:
    """By source: the share asked for and found, of what the weights count; epochs_done, and what the rows hold."""
    kind, asked = "tokens" if data.weights == "tokens" else "samples", shares(data.mixture, rows.names)
    total = sum(count[kind] for count in counted.values())
    return {
        name: {
            "asked": asked[name],
            "found": count[kind] / total,
            "epochs_done": count["samples"] / rows.streams[name].samples,
            **count,
        }
        for name, count in counted.items()
    }


def _packed(rows: RowSource, counted: dict[str, dict[str, int]], row_count: int) -> dict[str, Any]:
    def total(name: str) -> int:
        return sum(count[name] for count in counted.values())

    positions, filled = row_count * rows.context_length, total("tokens")
    return {
        "rows": row_count,
        "positions": positions,
        "filled": filled,
        "efficiency": filled / positions,
        "text_tokens": total("text_tokens"),
        "image_tokens": total("image_tokens"),
        "targets": total("targets"),
        "image_share": total("image_tokens") / positions,
        "target_share": total("targets") / positions,
        "documents": total("samples"),
        "truncated": total("truncated"),
    }


def _budget(
    rows: RowSource, counted: dict[str, dict[str, int]], row_count: int, budget_tokens: int
) -> dict[str, dict[str, float]]:
    """By source, scaled up from the counted rows: tokens a run of so many positions draws, in how many epochs, and how
    many of them are different ones.
    """
    scale = budget_tokens / (row_count * rows.context_length)
    found = {}
    for name, stream in rows.streams.items():
        tokens = counted[name]["tokens"] * scale
        unique = min(tokens, stream.tokens)
        found[name] = {"tokens": round(tokens), "epochs": tokens / stream.tokens, "unique_tokens": round(unique)}
    return found
