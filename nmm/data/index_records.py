"""From the index of a shard to records of its documents: which are in a split, how long they are, where they are cut.

Shape legend: n usable samples of a shard and split, k of them that are cut, S segments of all samples, U units, T
positions a row, M patches an image.

With tiles a picture is several images: ``tiling`` is (side of an image in pixels, most tiles of a picture), or None.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from nmm.data.corpus import TOTALS, unit_totals
from nmm.data.counter_rng import TO_UNIT
from nmm.data.index_file import IMAGE_SEGMENT, ShardIndex, read_index
from nmm.data.picture_sizes import read_sizes
from nmm.data.reading import ShardError
from nmm.data.tiling import image_counts
from nmm.data.window import DOCUMENT, ranges

Tiling = tuple[int, int]


def shard_records(
    index: ShardIndex, split: str, val_fraction: float, width: int, m: int, tiling: Tiling | None = None
) -> np.ndarray:
    """(n,) DOCUMENT records of a shard's usable samples in one split; ``start`` is the place in the index.

    A document is its segments and the token that ends it. One longer than ``width`` (T) is cut there, or before the
    picture, of ``m`` patches an image, that would not fit whole.
    """
    place, measures = _measured(index, split, val_fraction, width, m, tiling)
    documents = np.zeros(len(place), DOCUMENT)
    documents["id"], documents["start"] = index.samples["id"][place], place
    for name in TOTALS:
        documents[name] = measures[name]
    documents["whole"] = documents["length"]
    return documents


def _measured(
    index: ShardIndex, split: str, val_fraction: float, width: int, m: int, tiling: Tiling | None
) -> tuple[Any, dict[str, Any]]:
    """(n,) places in the index of what ``shard_records`` returns, and (n,) of each of TOTALS.

    Columns are taken one by one: rows of the table as a whole take five times as long.
    """
    samples, segments = np.asarray(index.samples), np.asarray(index.segments)
    place = np.flatnonzero((samples["reason"] == 0) & in_split(samples["key_hash"], split, val_fraction))
    images, first = samples["images"][place].astype(np.int64), samples["first_segment"][place].astype(np.int64)
    pictures = _picture_images(index, tiling)
    if tiling is not None:
        before = np.concatenate([[0], np.cumsum(pictures)])
        images = before[first + samples["segments"][place]] - before[first]
    length = samples["text_tokens"][place] + images * m + 1
    truncated = length > width
    cut = np.flatnonzero(truncated)
    if len(cut):
        number = samples["segments"][place[cut]].astype(np.int64)
        length[cut], images[cut] = _cut(segments, pictures, first[cut], number, width, m)
    opens_with_text = segments[first] != IMAGE_SEGMENT
    targets = length - images * m - opens_with_text
    return place, {"length": length, "images": images, "targets": targets, "truncated": truncated}


def in_split(key_hash: np.ndarray, split: str, val_fraction: float) -> np.ndarray:
    """(n,) bool: a sample is held out by the digest of its key, whatever else there is.

    Raises ValueError for another split than "train" and "val".
    """
    if split not in ("train", "val"):
        raise ValueError(f"indexed sources have the splits train and val, not {split!r}")
    held_out = (key_hash >> np.uint64(11)).astype(np.float64) * TO_UNIT < val_fraction
    return np.asarray(held_out if split == "val" else ~held_out)


def _picture_images(index: ShardIndex, tiling: Tiling | None) -> np.ndarray:
    """(S,) int64 images that every segment is: 0 for text."""
    is_picture = np.asarray(index.segments) == IMAGE_SEGMENT
    images = is_picture.astype(np.int64)
    if tiling is not None:
        images[is_picture] = image_counts(read_sizes(index), *tiling)
    return images


def _cut(
    segments: np.ndarray, pictures: np.ndarray, first: np.ndarray, number: np.ndarray, width: int, m: int
) -> tuple[Any, Any]:
    """Length and images of (k,) truncated documents of ``number`` segments from ``first`` on."""
    inside = ranges(first, number)
    segment, shown = segments[inside], pictures[inside]
    document = np.repeat(np.arange(len(first)), number)
    is_image = segment == IMAGE_SEGMENT
    taken = np.where(is_image, m * shown, segment)
    ends = np.cumsum(taken, dtype=np.int64)
    before = np.concatenate([[0], ends])[np.cumsum(number) - number]
    ends = ends - before[document]
    starts = ends - taken
    images = np.bincount(document, shown * (ends <= width), len(first)).astype(np.int64)
    length = np.full(len(first), width)
    over = is_image & (starts < width) & (ends > width)
    length[document[over]] = starts[over]
    return length, images


@functools.lru_cache(maxsize=1 << 14)
def unit_table(
    file: Path, body: str, split: str, val_fraction: float, width: int, m: int, tiling: Tiling | None = None
) -> tuple[Any, Any]:
    """(U,) documents and (U, 4) totals of the units of one shard; ``body`` names the version of the index."""
    index = read_index(file, verify=False)  # it was, on opening
    check_version(index, body)
    place, measures = _measured(index, split, val_fraction, width, m, tiling)
    usable = np.cumsum(np.asarray(index.samples)["reason"] == 0)[place]
    units = np.diff(np.searchsorted(usable, np.cumsum([0, *index.header["units"]]), side="right"))
    return units, unit_totals(measures, units)


def check_version(index: ShardIndex, body: str) -> None:
    """Raises ShardError when this is not the index whose arrays have the digest ``body``."""
    if index.header["body_sha256"] != body:
        raise ShardError(
            f"{index.file} was made again since this run opened it. If the shard is as it was, run again: the run goes "
            "on where it was; else start a new run"
        )
