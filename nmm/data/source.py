"""Packed rows by global number: row r is a pure function of (data, mixture, seed, context length, patch size, r).

Shape legend: T positions a row, M patches an image, n documents of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nmm.batch import IMAGE_ID, Batch, Skipped
from nmm.data.corpus import TOTALS, Corpus, DecodedCorpus
from nmm.data.counting import source_counts
from nmm.data.decoded import DecodedShard
from nmm.data.indexed import IndexedCorpus, IndexedSources
from nmm.data.labels import Labels, make_labels
from nmm.data.manifest import Shards
from nmm.data.mixture import SourceStream, draws, shares
from nmm.data.order import ORDER_VERSION
from nmm.data.packing import PACKING_VERSION, WINDOW_ROWS, Layout, RowTable, lay_out, place
from nmm.data.sft import tuning
from nmm.data.window import DOCUMENT, POSITION, Window, decoded_window, join, ranges, row_fields, row_ids
from nmm.groups import Stage

KEPT_WINDOWS = 2


class RowSource:
    """Rows of T = ``context_length`` positions from a mixture of sources, addressed by their global number.

    Args:
        shards: From ``nmm.data.opening.open_data`` (or ``open_shards``).
        mixture: Source -> weight; any positive scale.
        context_length: T. A longer document is cut there (before an image that would not fit whole) and counted.
        patch_size: Side of a patch in pixels.
        seed: Decides the order of everything, and how images are cropped.
        split: "train" or "val"; rendered shards have "test" too.
        once_in_order: Deliver every document once, in sample order, then end (evaluation). Rows of a window are mixed
            all the same, and images are not cropped at random.
        stage: "pretrain", or "sft" for what ``nmm.data.sft`` keeps and learns.
        weights: The mixture's weights are of "tokens" or of "samples".
        cut_text: Texts without images may be cut to fill rows.
        bridge: Of stage=bridge: pictures with one label each (``nmm.data.labels``), in place of documents.

    Raises ValueError for unknown sources or splits, a patch size that does not divide the image, a row that cannot hold
    an image and a word, and for shards that are damaged.
    """

    def __init__(
        self,
        shards: Shards | IndexedSources,
        mixture: Mapping[str, float],
        context_length: int,
        patch_size: int,
        seed: int,
        split: str = "train",
        once_in_order: bool = False,
        stage: str = "pretrain",
        weights: str = "tokens",
        cut_text: bool = False,
        bridge: Stage | None = None,
    ) -> None:
        self.context_length, self.seed, self.names, self.cut_text = context_length, seed, shards.names, cut_text
        self.tuning = tuning(shards.tokenizer) if stage == "sft" and isinstance(shards, Shards) else None
        self.patches_per_image = (shards.image_size // patch_size) ** 2
        self.patch_values = 3 * patch_size * patch_size
        self.labels: Labels | None = None
        if bridge is not None and isinstance(shards, Shards):
            self.labels = make_labels(shards, split, bridge, self.patches_per_image, seed)
        share = shares(mixture, self.names)
        self.stream = {
            "shards": shards.fingerprint,
            "tokenizer": shards.tokenizer.fingerprint,
            "split": split,
            "mixture": share,
            "context_length": context_length,
            "patch_size": patch_size,
            "seed": seed,
            "once_in_order": once_in_order,
            "packing": PACKING_VERSION,
            "order": ORDER_VERSION,
        }
        if self.tuning is not None:
            self.stream["stage"] = stage
        if isinstance(shards, Shards) and shards.is_cut:
            self.stream |= {name: getattr(shards, name) for name in ("image_size", "picture_size", "tiles")}
        if bridge is not None:
            asked = ("objective", "labels", "classes", "labelled", "shift")
            self.stream |= {"stage": stage, **{name: getattr(bridge, name) for name in asked}}
        if isinstance(shards, IndexedSources):
            self.stream |= {"weights": weights, "cut_text": cut_text, **shards.stream}
        self.decoded: list[DecodedShard] = []
        self.indexed: dict[str, IndexedCorpus] = {}
        self.corpora: dict[str, Corpus] = {}
        for name in share:
            self._add(shards, name, split, patch_size, once_in_order)
        self.streams = {name: self._stream(corpus, once_in_order) for name, corpus in self.corpora.items()}
        window_tokens = WINDOW_ROWS * context_length
        made = draws(list(self.streams.values()), share, window_tokens, "tokens" if once_in_order else weights)
        self.draws = dict(zip(share, made, strict=True))
        self.holdings = {name: corpus.holdings() for name, corpus in self.corpora.items()}
        self.table = RowTable(self._rows_in_window)
        self._windows: dict[int, Window] = {}
        self._layouts: dict[int, tuple[np.ndarray, Layout]] = {}

    def _add(
        self, shards: Shards | IndexedSources, name: str, split: str, patch_size: int, once_in_order: bool
    ) -> None:
        width = self.context_length
        if isinstance(shards, IndexedSources):
            seed = None if once_in_order or split != "train" else self.seed
            self.corpora[name] = self.indexed[name] = IndexedCorpus(shards, name, split, width, patch_size, seed)
            return
        corpus = DecodedCorpus(shards, name, split, width, patch_size, self.tuning, len(self.decoded), self.labels)
        self.decoded += corpus.decoded
        self.corpora[name] = corpus

    def _stream(self, corpus: Corpus, once_in_order: bool) -> SourceStream:
        tokens = corpus.totals[:, TOTALS.index("length")]
        return SourceStream(corpus.name, corpus.units, tokens, corpus.records, self.seed, once_in_order)

    def rows_at(self, cursor: int, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows cursor + rank, cursor + rank + world, ... below cursor + count, as a Batch of numpy arrays."""
        wanted = np.arange(cursor + rank, cursor + count, world)
        parts = []
        while len(wanted):
            number, first = self.table.locate(int(wanted[0]))
            inside = int(np.searchsorted(wanted, first + self._layout(number)[1].rows))
            parts.append(self._take(number, wanted[:inside] - first))
            wanted = wanted[inside:]
        return parts[0] if len(parts) == 1 else join(parts)

    def row_ids(self, cursor: int, count: int) -> np.ndarray:
        """(count,) int64 digests of rows cursor..cursor+count-1 of all ranks, for the order hash."""
        return self.rows_at(cursor, count).row_ids

    def documents(self, row: int) -> np.ndarray:
        """(d,) DOCUMENT records of one row, in the order in which they stand there."""
        window, first = self.table.locate(row)
        documents, layout = self._layout(window)
        return documents[layout.row == row - first]

    def rows_available(self) -> int:
        """How many rows there are when documents come once and in order; ValueError when they repeat for ever."""
        if not all(stream.once_in_order for stream in self.streams.values()):
            raise ValueError("training rows never end; only a RowSource with once_in_order=True has a number of rows")
        windows = max(-(-draw.stream.tokens // (draw.tokens or 1)) for draw in self.draws.values())
        return sum(self._rows_in_window(window) for window in range(windows))

    def counts(self, rows: int) -> dict[str, dict[str, int]]:
        """What the first ``rows`` rows hold, by source, from lengths alone.

        Keys: tokens, text_tokens, image_tokens, targets (text tokens that are learned), samples, epochs (started),
        truncated; of different samples only: unique_samples, unique_tokens.
        """
        window, first = self.table.locate(rows)
        documents, layout = self._layout(window)
        inside = documents[layout.row < rows - first]
        rest = documents[layout.row >= rows - first]
        place = {name: number for number, name in enumerate(self.names)}
        return {
            name: source_counts(
                self.draws[name],
                self.corpora[name],
                window,
                self.patches_per_image,
                *(part[part["source"] == place[name]] for part in (inside, rest)),
            )
            for name in self.streams
        }

    def planned_samples(self, rows: int) -> int:
        """About how many documents the first ``rows`` rows hold; nothing is packed, so any number costs the same."""
        window, part = divmod(rows, WINDOW_ROWS)
        bounds = [(draw.before(window), draw.before(window + 1)) for draw in self.draws.values()]
        return round(sum(first + (last - first) * part / WINDOW_ROWS for first, last in bounds))

    def efficiency(self, rows: int) -> float:
        """Filled share of the positions of the first ``rows`` rows."""
        return sum(count["tokens"] for count in self.counts(rows).values()) / (rows * self.context_length)

    def _window_documents(self, window: int) -> np.ndarray:
        """(n,) DOCUMENT records of a window, source by source."""
        parts = [np.zeros(0, DOCUMENT)]
        for name, draw in self.draws.items():
            first, last = draw.before(window), draw.before(window + 1)
            part = draw.stream.records(first, last)
            part["source"] = self.names.index(name)
            part["ordinal"] = np.arange(first, last)
            parts.append(part)
        return np.concatenate(parts)

    def _rows_in_window(self, window: int) -> int:
        if window in self._layouts:
            return self._layouts[window][1].rows
        documents = self._window_documents(window)
        return place(documents["length"], self.context_length, self._cuttable(documents))[1]

    def _cuttable(self, documents: np.ndarray) -> np.ndarray | None:
        """(n,) bool: which documents may be cut to fill rows."""
        return documents["images"] == 0 if self.cut_text else None

    def _layout(self, window: int) -> tuple[np.ndarray, Layout]:
        """A window's DOCUMENT records in the order of its layout, and the layout."""
        if window not in self._layouts:
            if len(self._layouts) >= KEPT_WINDOWS:
                self._layouts.pop(next(iter(self._layouts)))
            documents = self._window_documents(window)
            cuttable = self._cuttable(documents)
            layout = lay_out(documents["length"], self.context_length, self.seed, window, cuttable)
            self._layouts[window] = (_pieces(documents[layout.document], layout), layout)
        return self._layouts[window]

    def _take(self, window: int, rows: np.ndarray) -> Batch:
        """Rows of one window, counted from its first one."""
        if self.indexed:
            return self._read(window, rows)
        content = self._decoded(window)
        batch = content.take(rows, self.decoded, self.patch_values)
        if self.labels is None or not self.labels.moved:
            return batch
        documents, _ = self._layout(window)  # as many as images, and in their order
        images = ranges(content.first_image[rows], np.diff(content.first_image)[rows])
        return replace(batch, patches=self.labels.shifted(batch.patches, documents["ordinal"][images]))

    def _decoded(self, number: int) -> Window:
        if number not in self._windows:
            if len(self._windows) >= KEPT_WINDOWS:
                self._windows.pop(next(iter(self._windows)))
            documents, layout = self._layout(number)
            window = decoded_window(
                documents, layout, self.decoded, self.context_length, self.patches_per_image, self.tuning
            )
            if self.labels is not None:
                self.labels.mark(window.rows, documents, layout)
            self._windows[number] = window
        return self._windows[number]

    def _read(self, window: int, rows: np.ndarray) -> Batch:
        """Rows of indexed sources: only their own documents are read. What cannot be read is left as padding."""
        documents, layout = self._layout(window)
        layout, kept = layout.only(rows)
        documents = documents[kept]
        ids = row_ids(documents, layout)
        found = [self.indexed[self.names[document["source"]]].read(document) for document in documents]
        lost = np.array([isinstance(one, Skipped) for one in found], bool)
        skipped = tuple(one for one in found if isinstance(one, Skipped))
        contents = [one for one in found if not isinstance(one, Skipped)]
        layout, documents = layout.without(lost), documents[~lost]
        positions = np.zeros(int(documents["length"].sum()), POSITION)
        positions["logprob"] = np.nan
        if contents:
            positions["token"] = np.concatenate([one.tokens for one in contents])
        fields = row_fields(documents, layout, positions, self.context_length, self.patches_per_image)
        patches = [one.patches for one in contents if len(one.patches)]
        shape = (-1, self.patches_per_image, self.patch_values)
        return Batch(
            **fields,
            row_ids=ids,
            patches=np.concatenate(patches) if patches else np.zeros((0, *shape[1:]), np.uint8),
            patch_at=np.flatnonzero(fields["tokens"] == IMAGE_ID).reshape(-1, self.patches_per_image),
            skipped=skipped,
        )


def _pieces(documents: np.ndarray, layout: Layout) -> np.ndarray:
    """(p,) records of pieces from those of their documents.

    Only texts are cut. All but the first token of a text are learned, so a later piece learns every token of its own.
    """
    cut = layout.length != documents["length"]
    documents["begin"], documents["length"] = layout.begin, layout.length
    documents["targets"][cut] = layout.length[cut] - 1
    return documents
