"""Which tars hold which documents, and how many documents a token budget needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nmm.data.world import SOURCES, SPLITS, World, WorldConfig

RESERVE = 0.15
PROBE_DOCUMENTS = 2048
Samples = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class ShardPlan:
    """One tar to write: documents first_index..first_index+samples-1 of a source and split."""

    source: str
    split: str
    number: int
    first_index: int
    samples: int

    @property
    def path(self) -> str:
        """Of the tar, relative to the output folder."""
        return f"{self.source}/{self.split}-{self.number:06d}.tar"


def plan_shards(samples: Samples, shard_samples: int, first_sample: int = 0) -> list[ShardPlan]:
    """The tars for these numbers of documents, sources and splits in their fixed order; training documents are those
    from number `first_sample` on.

    Raises:
        ValueError: for an unknown source or split, a negative count, none at all, or shard_samples < 1.
    """
    if shard_samples < 1:
        raise ValueError(f"shard_samples={shard_samples} must be at least 1")
    if first_sample < 0:
        raise ValueError(f"first_sample={first_sample} must not be negative")
    for source, splits in samples.items():
        for split, count in splits.items():
            if source not in SOURCES or split not in SPLITS:
                raise ValueError(
                    f"samples names {source}/{split}; sources: {', '.join(SOURCES)}; splits: {', '.join(SPLITS)}"
                )
            if count < 0:
                raise ValueError(f"samples of {source}/{split} is {count}, it must not be negative")
    plans = []
    for source in SOURCES:
        for split in SPLITS:
            count = samples.get(source, {}).get(split, 0)
            skipped = first_sample if split == "train" else 0
            for number, first in enumerate(range(0, count, shard_samples)):
                plans.append(ShardPlan(source, split, number, skipped + first, min(shard_samples, count - first)))
    if not plans:
        raise ValueError("samples asks for no document at all")
    return plans


def samples_for_tokens(
    config: WorldConfig, tokens: int, mixture: Mapping[str, float], image_tokens: int = 16, reserve: float = RESERVE
) -> dict[str, int]:
    """How many training documents of each source hold `tokens` tokens in all, text and image, shared out by `mixture`.

    The mean length of a document is measured on the first 2,048; `reserve` is added so that the budget is surely met.
    """
    world = World(config)
    total = math.fsum(mixture.values())
    needed = {}
    for source, weight in mixture.items():
        probe = world.documents(source, "train", 0, PROBE_DOCUMENTS, pixels=False)
        mean = float(np.mean([len(d.logprobs) + image_tokens * len(d.scene) for d in probe]))
        needed[source] = math.ceil(tokens * weight / total * (1.0 + reserve) / mean)
    return needed
