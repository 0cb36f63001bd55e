"""Packed rows by global number: row r is a pure function of (shards, mixture, seed, context length, patch size, r).

Shape legend: T positions a row, M patches an image, n documents of a window.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nmm.batch import SOURCES, Batch
from nmm.data.decoded import DecodedShard, open_decoded
from nmm.data.manifest import Shards
from nmm.data.mixture import SourceStream, token_budgets
from nmm.data.packing import PACKING_VERSION, WINDOW_ROWS, RowTable, lay_out, pack
from nmm.data.sft import tuning
from nmm.data.window import DOCUMENT, Window, assemble, gather_documents, join

KEPT_WINDOWS = 2


class RowSource:
    """Rows of T = ``context_length`` positions from a mixture of sources, addressed by their global number.

    Args:
        shards: From ``open_shards``.
        mixture: Source -> weight in tokens (image + text); any positive scale.
        context_length: T. A longer document is cut there (before an image that would not fit whole) and counted.
        patch_size: Side of a patch in pixels.
        seed: Decides the order of everything.
        split: "train", "val" or "test".
        once_in_order: Deliver every document once, in sample order, then end (evaluation). Rows of a window are mixed
            all the same.
        stage: "pretrain", or "sft" for what ``nmm.data.sft`` keeps and learns.

    Raises ValueError for unknown sources or splits, a patch size that does not divide the image, a row that cannot hold
    an image and a word, and for shards that are damaged.
    """

    def __init__(
        self,
        shards: Shards,
        mixture: Mapping[str, float],
        context_length: int,
        patch_size: int,
        seed: int,
        split: str = "train",
        once_in_order: bool = False,
        stage: str = "pretrain",
    ) -> None:
        self.context_length, self.seed = context_length, seed
        self.tuning = tuning(shards.tokenizer) if stage == "sft" else None
        self.patches_per_image = (shards.image_size // patch_size) ** 2
        self.patch_values = 3 * patch_size * patch_size
        self.budgets = token_budgets(mixture, WINDOW_ROWS * context_length)
        total = sum(mixture.values())
        self.stream = {
            "shards": shards.fingerprint,
            "tokenizer": shards.tokenizer.fingerprint,
            "split": split,
            "mixture": {source: mixture[source] / total for source in self.budgets},
            "context_length": context_length,
            "patch_size": patch_size,
            "seed": seed,
            "once_in_order": once_in_order,
            "packing": PACKING_VERSION,
        }
        if self.tuning is not None:
            self.stream["stage"] = stage
        self.decoded: list[DecodedShard] = []
        self.documents = np.zeros(0, DOCUMENT)
        self.streams: dict[str, SourceStream] = {}
        self._first_document: dict[str, int] = {}
        for source in self.budgets:
            self._add(shards, source, split, patch_size, once_in_order)
        self.table = RowTable(self._rows_in_window)
        self._windows: dict[int, Window] = {}

    def _add(self, shards: Shards, source: str, split: str, patch_size: int, once_in_order: bool) -> None:
        decoded = open_decoded(shards, source, split, patch_size)
        if not any(len(shard.samples) for shard in decoded):
            raise ValueError(f"{source} {split} in {shards.root} holds no samples: render some, or set its weight to 0")
        code, m = SOURCES.index(source), self.patches_per_image
        documents = gather_documents(decoded, code, len(self.decoded), self.context_length, m)
        if documents["length"].min() < 1 or (documents["images"].any() and self.context_length <= m):
            raise ValueError(
                f"context_length={self.context_length} cannot hold an image of {m} patches and a word: "
                f"make it at least {m + 1}, or patch_size={patch_size} larger"
            )
        if self.tuning is not None:
            documents = self.tuning.select(documents, decoded, len(self.decoded))
            if not len(documents):
                raise ValueError(
                    f"{source} {split} in {shards.root} holds no document with an answer within context_length="
                    f"{self.context_length}: stage=sft cannot learn from it, set data.mixture.{source}=0"
                )
        samples = np.bincount(documents["shard"] - len(self.decoded), minlength=len(decoded)).tolist()
        self.streams[source] = SourceStream(source, documents["length"], samples, self.seed, once_in_order)
        self._first_document[source] = len(self.documents)
        self.documents = np.concatenate([self.documents, documents])
        self.decoded += decoded

    def rows_at(self, cursor: int, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows cursor + rank, cursor + rank + world, ... below cursor + count, as a Batch of numpy arrays."""
        wanted = np.arange(cursor + rank, cursor + count, world)
        parts = []
        while len(wanted):
            number, first = self.table.locate(int(wanted[0]))
            window = self._window(number)
            inside = int(np.searchsorted(wanted, first + len(window.rows["row_ids"])))
            parts.append(window.take(wanted[:inside] - first, self.decoded, self.patch_values))
            wanted = wanted[inside:]
        return parts[0] if len(parts) == 1 else join(parts)

    def row_ids(self, cursor: int, count: int) -> np.ndarray:
        """(count,) int64 digests of rows cursor..cursor+count-1 of all ranks, for the order hash."""
        return self.rows_at(cursor, count).row_ids

    def rows_available(self) -> int:
        """How many rows there are when documents come once and in order; ValueError when they repeat for ever."""
        if not all(stream.once_in_order for stream in self.streams.values()):
            raise ValueError("training rows never end; only a RowSource with once_in_order=True has a number of rows")
        windows = max(-(-stream.tokens // self.budgets[source]) for source, stream in self.streams.items())
        return sum(self._rows_in_window(window) for window in range(windows))

    def counts(self, rows: int) -> dict[str, dict[str, int]]:
        """What the first ``rows`` rows hold, by source, from lengths alone.

        Keys: tokens, text_tokens, image_tokens, targets (text tokens that are learned), samples, unique_samples, epochs
        (started), truncated.
        """
        window, first = self.table.locate(rows)
        documents = self._window_documents(window)
        layout = lay_out(self.documents["length"][documents], self.context_length, self.seed, window)
        inside = documents[layout.document[layout.row < rows - first]]
        return {
            source: self._count(source, window, inside[self.documents["source"][inside] == SOURCES.index(source)])
            for source in self.streams
        }

    def _count(self, source: str, window: int, here: np.ndarray) -> dict[str, int]:
        """Totals of one source: all windows before ``window``, and documents ``here`` of that window."""
        stream, first = self.streams[source], self._first_document[source]
        before = stream.count_at(self.budgets[source] * window)
        epochs, rest = divmod(before, stream.samples)
        own = self.documents[first : first + stream.samples]
        earlier = stream.epoch(epochs)[0][:rest]
        here = here - first

        def total(name: str) -> int:
            return sum(int(part[name].sum()) * n for part, n in ((own, epochs), (own[earlier], 1), (own[here], 1)))

        samples, tokens, image_tokens = before + len(here), total("length"), total("images") * self.patches_per_image
        return {
            "tokens": tokens,
            "text_tokens": tokens - image_tokens,
            "image_tokens": image_tokens,
            "targets": total("targets"),
            "samples": samples,
            "unique_samples": stream.samples if epochs else len(np.union1d(earlier, here)),
            "epochs": -(-samples // stream.samples),
            "truncated": total("truncated"),
        }

    def efficiency(self, rows: int) -> float:
        """Filled share of the positions of the first ``rows`` rows."""
        return sum(count["tokens"] for count in self.counts(rows).values()) / (rows * self.context_length)

    def _window_documents(self, window: int) -> np.ndarray:
        """(n,) numbers of a window's documents in ``self.documents``, source by source."""
        parts = [np.zeros(0, np.int64)]
        for source, stream in self.streams.items():
            first, last = (stream.count_at(self.budgets[source] * w) for w in (window, window + 1))
            parts.append(stream.documents(first, last) + self._first_document[source])
        return np.concatenate(parts)

    def _rows_in_window(self, window: int) -> int:
        return pack(self.documents["length"][self._window_documents(window)], self.context_length)[1]

    def _window(self, number: int) -> Window:
        if number not in self._windows:
            if len(self._windows) >= KEPT_WINDOWS:
                self._windows.pop(next(iter(self._windows)))
            documents = self.documents[self._window_documents(number)]
            layout = lay_out(documents["length"], self.context_length, self.seed, number)
            in_rows = documents[layout.document]
            self._windows[number] = assemble(
                in_rows, layout, self.decoded, self.context_length, self.patches_per_image, self.tuning
            )
        return self._windows[number]
