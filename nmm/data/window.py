"""Rows put together: from where their documents stand to the arrays of a Batch.

Shape legend: R rows, T positions a row, n documents, L positions of all of them, I images, M patches an image, P pixel
values a patch, B rows taken at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmm.batch import ARRAYS, IMAGE_ID, PAD_ID, Batch
from nmm.data.decoded import DecodedShard
from nmm.data.packing import Layout
from nmm.data.sft import CAPTION, Tuning

DOCUMENT = np.dtype(
    [
        ("id", "u8"),  # of the sample
        ("source", "i1"),  # its place among the sources of the data
        ("length", "i8"),  # positions, never above T; of a piece, with the one it repeats
        ("begin", "i8"),  # of a piece: its first position in the document that is its own; 0 for all others
        ("whole", "i8"),  # positions of the document
        ("images", "i8"),
        ("targets", "i8"),  # text tokens that follow another token and are learned
        ("truncated", "?"),
        ("ordinal", "i8"),  # which of all deliveries of its source this is, counted through the epochs
        ("shard", "i8"),  # number of its shard
        ("start", "i8"),  # first position in its decoded shard, or place in the index of its shard
        ("first_image", "i8"),  # first image in its decoded shard
    ]
)
POSITION = np.dtype([("token", "<i4"), ("logprob", "<f4"), ("letter", "u1")])


def gather_documents(
    decoded: Sequence[DecodedShard], source: int, first_shard: int, width: int, m: int, images_per_picture: int = 1
) -> np.ndarray:
    """(n,) DOCUMENT records of one source in sample order; its shards are numbered from ``first_shard``.

    A document longer than ``width`` (T) is cut there, or before the picture of so many images of ``m`` patches that
    would not fit whole.
    """
    samples = np.concatenate([shard.samples for shard in decoded])
    documents = np.zeros(len(samples), DOCUMENT)
    for name in ("id", "length", "images", "start", "first_image"):
        documents[name] = samples[name]
    documents["source"] = source
    documents["truncated"] = documents["length"] > width
    shard = np.repeat(np.arange(len(decoded)), [len(d.samples) for d in decoded])
    documents["shard"] = shard + first_shard
    for i in np.flatnonzero(documents["truncated"]):
        start = documents["start"][i]
        patches = int((decoded[shard[i]].positions["token"][start : start + width] == IMAGE_ID).sum())
        pictures, partial = divmod(patches, m * images_per_picture)
        documents["images"][i] = pictures * images_per_picture
        documents["length"][i] = width - partial
    documents["whole"] = documents["length"]
    documents["targets"] = documents["length"] - documents["images"] * m - samples["opens_with_text"]
    return documents


@dataclass(frozen=True)
class Window:
    """The rows of one window of decoded shards. ``rows`` holds Batch's (R, ...) fields; image i (of I) is image
    ``image_number[i]`` of decoded shard ``image_shard[i]``, its patches stand in columns ``patch_column[i]`` (M), and
    row r has images ``first_image[r] : first_image[r + 1]``.
    """

    rows: Mapping[str, np.ndarray]
    first_image: np.ndarray
    image_shard: list[int]
    image_number: list[int]
    patch_column: np.ndarray

    def take(self, rows: np.ndarray, decoded: Sequence[DecodedShard], patch_values: int) -> Batch:
        """The (B,) ``rows`` of this window as a Batch of numpy arrays; pixels are read here, P = ``patch_values``."""
        first, number = self.first_image[rows], np.diff(self.first_image)[rows]
        images = ranges(first, number)
        m, width = self.patch_column.shape[1], self.rows["tokens"].shape[1]
        patches = np.empty((len(images), m, patch_values), np.uint8)
        for i, image in enumerate(images.tolist()):
            at = self.image_number[image] * m
            patches[i] = decoded[self.image_shard[image]].patches[at : at + m]
        row_start = np.repeat(np.arange(len(rows)) * width, number)
        patch_at = self.patch_column[images] + row_start[:, None]
        return Batch(patches=patches, patch_at=patch_at, **{name: values[rows] for name, values in self.rows.items()})


def decoded_window(
    documents: np.ndarray,
    layout: Layout,
    decoded: Sequence[DecodedShard],
    width: int,
    m: int,
    tuning: Tuning | None = None,
) -> Window:
    """The window of (n,) DOCUMENT records that stand as ``layout`` says (both in the order of the layout)."""
    positions = np.empty(int(documents["length"].sum()), POSITION)
    first = np.cumsum(documents["length"]) - documents["length"]
    for shard in np.unique(documents["shard"]):
        inside = documents["shard"] == shard
        length = documents["length"][inside]
        records = decoded[shard].positions[ranges(documents["start"][inside], length)]
        to = ranges(first[inside], length)
        for name in ("token", "logprob", "letter"):
            positions[name][to] = records[name]
    rows = row_fields(documents, layout, positions, width, m, tuning)
    rows["row_ids"] = row_ids(documents, layout)
    return Window(
        rows=rows,
        first_image=np.searchsorted(np.repeat(layout.row, documents["images"]), np.arange(layout.rows + 1)),
        image_shard=np.repeat(documents["shard"], documents["images"]).tolist(),
        image_number=ranges(documents["first_image"], documents["images"]).tolist(),
        patch_column=(np.flatnonzero(rows["tokens"] == IMAGE_ID) % width).reshape(-1, m),
    )


def row_fields(
    documents: np.ndarray, layout: Layout, positions: np.ndarray, width: int, m: int, tuning: Tuning | None = None
) -> dict[str, np.ndarray]:
    """Batch's (R, T) fields of (n,) documents with (L,) POSITION records, all in the order of the layout.

    All text is learned, or with ``tuning`` what its rule says.
    """
    rows = _text_fields(documents, layout, positions, width) | _place_fields(documents, layout, width)
    is_patch = rows["tokens"] == IMAGE_ID
    first_image = np.searchsorted(np.repeat(layout.row, documents["images"]), np.arange(layout.rows))
    nth_patch = np.cumsum(is_patch.reshape(-1)).reshape(is_patch.shape) - 1 - first_image[:, None] * m
    rows["image"] = np.where(is_patch, nth_patch // m, -1).astype(np.int32)
    _add_next(rows, tuning)
    return rows


def _text_fields(documents: np.ndarray, layout: Layout, positions: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """(R, T) tokens, and logprobs and classes of the tokens themselves."""
    size = layout.rows * width
    tokens = np.full(size, PAD_ID, np.int64)
    logprobs, classes = np.full(size, np.nan, np.float32), np.zeros(size, np.uint8)
    to = ranges(layout.row * width + layout.column, documents["length"])
    tokens[to], logprobs[to], classes[to] = positions["token"], positions["logprob"], positions["letter"]
    shape = (layout.rows, width)
    return {"tokens": tokens.reshape(shape), "logprobs": logprobs.reshape(shape), "classes": classes.reshape(shape)}


def _place_fields(documents: np.ndarray, layout: Layout, width: int) -> dict[str, np.ndarray]:
    """(R, T) document, source and position."""
    size, length = layout.rows * width, documents["length"]
    document, source = np.full(size, -1, np.int32), np.full(size, -1, np.int8)
    position = np.zeros(size, np.int64)
    start = layout.row * width + layout.column
    at = ranges(start, length)
    document[at] = np.repeat(layout.place, length)
    source[at] = np.repeat(documents["source"], length)
    position[at] = at - np.repeat(start, length)
    shape = (layout.rows, width)
    return {"document": document.reshape(shape), "source": source.reshape(shape), "position": position.reshape(shape)}


def _add_next(rows: dict[str, np.ndarray], tuning: Tuning | None) -> None:
    """Add targets and weights, and move logprobs and classes from a token to the position before it."""
    document = rows["document"]
    learned = np.ones(document.shape, bool)
    if tuning is not None:
        flat = [rows["tokens"], rows["classes"], rows["position"] == 0, rows["source"] == CAPTION]
        learned = tuning.learned(*(field.reshape(-1) for field in flat)).reshape(document.shape)
    follows = np.zeros(document.shape, bool)
    follows[:, :-1] = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    nothing = {"tokens": 0, "logprobs": np.nan, "classes": 0}
    moved = {n: np.where(follows, np.roll(rows[n], -1, axis=1), rows[n].dtype.type(v)) for n, v in nothing.items()}
    rows["targets"], rows["logprobs"], rows["classes"] = moved["tokens"], moved["logprobs"], moved["classes"]
    rows["weights"] = (follows & (rows["targets"] != IMAGE_ID) & np.roll(learned, -1, axis=1)).astype(np.float32)


def row_ids(documents: np.ndarray, layout: Layout) -> np.ndarray:
    """(R,) int64 digest of the ids of a row's documents (of a piece also from where to where), in their order."""
    span = documents["begin"] << 32 | documents["length"]
    sample_ids = documents["id"] + np.where(documents["length"] != documents["whole"], span, 0).astype(np.uint64)
    first = np.searchsorted(layout.row, np.arange(layout.rows + 1))
    data, ends = sample_ids.astype("<u8").tobytes(), (first * 8).tolist()
    digests = [hashlib.blake2b(data[a:b], digest_size=8).digest() for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ... (length[0] of them), then the same for start[1], and so on; int64."""
    ends = np.cumsum(length, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(start - (ends - length), length)


def join(parts: Sequence[Batch]) -> Batch:
    """Rows of several numpy Batches as one."""
    fields: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in ARRAYS}
    positions = np.cumsum([0] + [part.tokens.size for part in parts[:-1]])
    fields["patch_at"] = [at + before for at, before in zip(fields["patch_at"], positions, strict=True)]
    skipped = tuple(one for part in parts for one in part.skipped)
    return Batch(**{name: np.concatenate(values) for name, values in fields.items()}, skipped=skipped)
