"""One source and split as a RowSource sees it: how its samples are stored is decided here and nowhere above.

Shape legend: k sample numbers, counted through the units of the corpus; U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from nmm.batch import SOURCES
from nmm.data.decoded import DecodedShard, open_decoded
from nmm.data.labels import Labels
from nmm.data.manifest import Shards
from nmm.data.sft import Tuning
from nmm.data.window import gather_documents

TOTALS = ("length", "images", "targets", "truncated")


class Corpus(Protocol):
    """What a RowSource asks of a source.

    ``units``: (U,) documents of every unit, see ``nmm.data.order``. ``totals``: (U, 4) their sums of TOTALS.
    """

    name: str
    units: np.ndarray
    totals: np.ndarray

    def records(self, samples: np.ndarray) -> np.ndarray:
        """(k,) DOCUMENT records of (k,) sample numbers; ``source`` and ``ordinal`` are for the caller to fill."""

    def holdings(self) -> dict[str, Any]:
        """For the record: {"shards", "refused_shards", "samples" (of the split), "left_out" (reason: samples)}."""


class DecodedCorpus:
    """A split of a rendered source: its documents' records are kept in memory, its bytes in the decoded cache.

    Its shards are numbered from ``first_shard``.

    Raises ValueError for a split without samples, and one without answers where ``tuning`` wants them.
    """

    def __init__(
        self,
        shards: Shards,
        name: str,
        split: str,
        width: int,
        patch_size: int,
        tuning: Tuning | None = None,
        first_shard: int = 0,
        labels: Labels | None = None,
    ) -> None:
        self.name, m = name, (shards.image_size // patch_size) ** 2
        self.decoded: list[DecodedShard] = open_decoded(shards, name, split, patch_size)
        if not any(len(shard.samples) for shard in self.decoded):
            raise ValueError(f"{name} {split} in {shards.root} holds no samples: render some, or set its weight to 0")
        documents = gather_documents(
            self.decoded, SOURCES.index(name), first_shard, width, m, shards.images_per_picture
        )
        needed = m * shards.images_per_picture
        if documents["length"].min() < 1 or (documents["images"].any() and width <= needed):
            raise ValueError(
                f"context_length={width} cannot hold an image of {needed} patches and a word: "
                f"make it at least {needed + 1}, or patch_size={patch_size} larger"
            )
        if tuning is not None:
            documents = tuning.select(documents, self.decoded, first_shard)
            if not len(documents):
                raise ValueError(
                    f"{name} {split} in {shards.root} holds no document with an answer within context_length="
                    f"{width}: stage=sft cannot learn from it, set data.mixture.{name}=0"
                )
        if labels is not None:
            documents = labels.select(documents, self.decoded, first_shard)
        self.documents = documents
        self.units = np.bincount(documents["shard"] - first_shard, minlength=len(self.decoded))
        self.totals = unit_totals(documents, self.units)

    def records(self, samples: np.ndarray) -> np.ndarray:
        """See Corpus."""
        return self.documents[samples]

    def holdings(self) -> dict[str, Any]:
        """See Corpus."""
        return {"shards": len(self.decoded), "refused_shards": 0, "samples": len(self.documents), "left_out": {}}


def unit_totals(documents: np.ndarray | Mapping[str, np.ndarray], units: Sequence[int] | np.ndarray) -> np.ndarray:
    """(U, 4) int64 sums of TOTALS over consecutive stretches of ``units`` records."""
    if len(units) == 1:
        return np.array([[int(documents[name].sum()) for name in TOTALS]])
    ends = np.concatenate([[0], np.cumsum(units, dtype=np.int64)])
    running = [np.concatenate([[0], np.cumsum(documents[name], dtype=np.int64)]) for name in TOTALS]
    return np.stack([total[ends[1:]] - total[ends[:-1]] for total in running], axis=1)
