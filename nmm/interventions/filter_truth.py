"""What is true of the samples that a filter chose among: their noise, where it is labelled, and whom they tell of.

Precision and recall count clean samples: of the kept ones, how many are clean; of the clean ones, how many are kept.
Entities are ranks of popularity, 0 the most popular; the tail are those from ``first_of_tail`` on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmm.data.catalogue import zipf_mandelbrot
from nmm.data.derived import SPLIT, samples_of
from nmm.data.late_bar import LateBar
from nmm.data.manifest import Shards
from nmm.data.noise import KINDS
from nmm.data.world_config import WorldConfig

TAIL_SHARE = 0.2  # of all mentions are of the tail, where the world names none itself


@dataclass(frozen=True)
class Facts:
    """One sample. labels: its kinds of noise, None where nobody knows. entities: whom its pictures show."""

    key: str
    text: str
    labels: tuple[str, ...] | None
    entities: tuple[int, ...]
    looks: tuple[tuple[str, str], ...]  # colour and shape of each


def read_facts(shards: Shards, source: str, progress: bool = True) -> list[Facts]:
    """The facts of every training sample of a source, in order."""
    infos = shards.split(source, SPLIT).shards
    bar = LateBar(f"reading {source}", sum(info.samples for info in infos))
    found = []
    for info in infos:
        for sample in samples_of(shards, info):
            found.append(_facts(sample.key, sample.text, sample.facts))
            if progress:
                bar.advance()
    bar.close()
    return found


def _facts(key: str, text: str, said: Mapping[str, Any]) -> Facts:
    pictures = said.get("scene", {}).get("images", [])
    shown = [thing for picture in pictures for thing in picture]
    noise = said.get("noise")
    return Facts(
        key,
        text,
        None if noise is None else tuple(noise),
        tuple(thing["entity"] for thing in shown),
        tuple((thing["colour"], thing["shape"]) for thing in shown),
    )


def first_of_tail(shards: Shards) -> int:
    """The rank from which on entities are rare: the world's own, or that beyond which TAIL_SHARE of mentions lie."""
    world = WorldConfig.from_dict(shards.manifest["world"])
    if world.tail_rank:
        return world.tail_rank
    popularity = zipf_mandelbrot(world.num_entities, world.zipf_exponent, world.zipf_shift)
    return int(np.searchsorted(np.cumsum(popularity), 1 - TAIL_SHARE)) + 1


def quality(facts: Sequence[Facts], kept: np.ndarray) -> dict[str, Any] | None:
    """Counts of labels among all and among kept samples, precision and recall; None where noise is not labelled.

    {"clean": {"pool": n, "kept": n}, ..., "precision", "recall"}; a sample with several kinds counts for each.
    """
    if any(one.labels is None for one in facts):
        return None
    pool = Counter(label for one in facts for label in one.labels or ("clean",))
    chosen = Counter(
        label for one, is_kept in zip(facts, kept, strict=True) if is_kept for label in one.labels or ("clean",)
    )
    counts = {label: {"pool": pool[label], "kept": chosen[label]} for label in ("clean", *KINDS) if pool[label]}
    precision = chosen["clean"] / max(1, int(kept.sum()))
    recall = chosen["clean"] / pool["clean"] if pool["clean"] else None
    return {"labels": counts, "precision": precision, "recall": recall}


def coverage(facts: Sequence[Facts], kept: np.ndarray, first_of_tail: int) -> dict[str, dict[str, float]]:
    """Of all and of kept samples: distinct entities, entropy in nats of entities, colours and shapes, tail share."""
    whole = _coverage(facts, first_of_tail)
    part = _coverage([one for one, is_kept in zip(facts, kept, strict=True) if is_kept], first_of_tail)
    return {"pool": whole, "kept": part}


def _coverage(facts: Sequence[Facts], first_of_tail: int) -> dict[str, float]:
    entities = [entity for one in facts for entity in one.entities]
    looks = [look for one in facts for look in one.looks]
    return {
        "mentions": len(entities),
        "entities": len(set(entities)),
        "entity_entropy": entropy(entities),
        "colour_entropy": entropy(colour for colour, _ in looks),
        "shape_entropy": entropy(shape for _, shape in looks),
        "tail_share": sum(entity >= first_of_tail for entity in entities) / max(1, len(entities)),
    }


def entropy(values: Iterable[Any]) -> float:
    """Plug-in entropy in nats of what is counted; 0 of nothing."""
    counts = np.array(list(Counter(values).values()), dtype=np.float64)
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log(shares)).sum())
