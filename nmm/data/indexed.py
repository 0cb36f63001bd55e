"""Sources of tars as they are: found, opened by their indexes, and read one document at a time.

Shape legend: n usable samples of a shard and split, S segments of them, U units, M patches an image, P pixel values a
patch, T positions a row.
"""

from __future__ import annotations

import functools
import glob
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nmm.batch import END_ID, IMAGE_ID, Skipped
from nmm.config import canonical_json
from nmm.data.corpus import TOTALS
from nmm.data.counter_rng import CounterStream
from nmm.data.formats import RULES, SHARD_SUFFIXES, Picture, parse
from nmm.data.images import CROP_UNIFORMS, Crop, check_patch_size, decode_picture, patchify
from nmm.data.index_file import index_path, read_index
from nmm.data.index_records import check_version, shard_records, unit_table
from nmm.data.reading import OpenShard, ShardError, ShardReader
from nmm.data.reasons import BadSample
from nmm.data.tiles import decode_tiles
from nmm.data.tokenizer import TextTokenizer, open_tokenizer
from nmm.data.window import DOCUMENT
from nmm.groups import Data

IDENTITY = ("sha256", "body_sha256", "caption_field", "rules", "names")  # of a header: what decides the documents
KEPT_RECORDS = 100_000  # of shards; what a window needs again, its stream keeps
NO_LIMIT = 1 << 40  # of the length of a document


@dataclass(frozen=True)
class IndexedShard:
    """A shard, the file of its index, and what stands in its header."""

    path: Path
    index: Path
    header: Mapping[str, Any]


@dataclass(frozen=True)
class IndexedSources:
    """The sources of a run, all indexed for one tokenizer. ``sources[name]`` are its shards in a fixed order."""

    sources: Mapping[str, tuple[IndexedShard, ...]]
    tokenizer: TextTokenizer
    fingerprint: str
    image_size: int
    val_fraction: float
    crop_scale: float
    flip: float
    tiles: int = 1
    reader: ShardReader = field(default_factory=ShardReader, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Every source a batch can name, by number."""
        return tuple(sorted(self.sources))

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def stream(self) -> dict[str, Any]:
        """What decides the rows beside what every RowSource knows."""
        names = ("image_size", "val_fraction", "crop_scale", "flip", *(("tiles",) if self.tiles > 1 else ()))
        return {name: getattr(self, name) for name in names}

    @property
    def tiling(self) -> tuple[int, int] | None:
        """What decides how many images a picture is: side of an image and most tiles; None where it is always one."""
        return (self.image_size, self.tiles) if self.tiles > 1 else None


def open_indexed(data: Data) -> IndexedSources:
    """Find the shards of ``data.sources`` and open their indexes.

    Raises ValueError naming the source when it has no shards, a shard is not indexed for this tokenizer or has another
    size than when it was, or all of it was refused.
    """
    tokenizer = open_tokenizer(data.tokenizer)
    folder = Path(data.index_dir) if data.index_dir else None
    sources = {
        name: tuple(_indexed(name, path, tokenizer, folder, data) for path in shard_paths(name, where, data.path))
        for name, where in sorted(data.sources.items())
    }
    for name, shards in sources.items():
        _refuse_copies(name, shards)
    held = {name: [[s.header[part] for part in IDENTITY] for s in shards] for name, shards in sources.items()}
    content = canonical_json({"sources": held, "tokenizer": tokenizer.fingerprint})
    return IndexedSources(
        sources=sources,
        tokenizer=tokenizer,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        image_size=data.image_size,
        val_fraction=data.val_fraction,
        crop_scale=data.crop_scale,
        flip=data.flip,
        tiles=data.tiles,
    )


def shard_paths(name: str, where: str, root: str = "") -> list[Path]:
    """The files a source is made of: ``where`` is a folder, a glob or a file, or several with "::" between them.

    Each part's files are sorted; relative parts start from ``root``. Raises ValueError for a part without any, and for
    a file named twice.
    """
    found: list[Path] = []
    for part in where.split("::"):
        path = Path(root) / part
        there = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        files = [p for p in there if p.name.endswith(SHARD_SUFFIXES) and p.is_file()]
        if not files:
            raise ValueError(
                f"data.sources.{name}: {path} has no shards (files that end in {', '.join(SHARD_SUFFIXES)})"
            )
        found += sorted(files)
    if len(set(found)) != len(found):
        twice = next(p for p in found if found.count(p) > 1)
        raise ValueError(f"data.sources.{name}={where} names {twice} twice")
    return found


def _indexed(name: str, path: Path, tokenizer: TextTokenizer, folder: Path | None, data: Data) -> IndexedShard:
    file = index_path(path, tokenizer.fingerprint, folder)
    command = f"nmm index {path.parent} --tokenizer {data.tokenizer}" + (f" --into {folder}" if folder else "")
    try:
        state = file.stat()
        header = _header(file, state.st_mtime_ns, state.st_size)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ValueError(f"data.sources.{name}: {error.filename} does not exist; `{command}` makes indexes") from None
    if size != header["bytes"]:
        raise ValueError(
            f"data.sources.{name}: shard {path} has {size} bytes, {header['bytes']} when it was indexed. Put the old "
            f"file back, or `{command}` and start a new run"
        )
    if header.get("rules") != RULES or header["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(
            f"data.sources.{name}: {file} was made by other rules or for another tokenizer; `{command}` makes it "
            "again, for new runs"
        )
    return IndexedShard(path, file, header)


def _refuse_copies(name: str, shards: Sequence[IndexedShard]) -> None:
    """One shard twice would be twice as many unique tokens as there are."""
    seen: dict[str, Path] = {}
    for shard in shards:
        first = seen.setdefault(shard.header["sha256"], shard.path)
        if first != shard.path and not shard.header["refused"]:
            raise ValueError(f"data.sources.{name}: {shard.path} is a copy of {first}; leave one of them out")


@functools.lru_cache(maxsize=1 << 16)
def _header(file: Path, modified: int, size: int) -> Mapping[str, Any]:
    """Of an index that was checked; ``modified`` and ``size`` say which version of the file."""
    return read_index(file).header


# ---------------------------------------------------------------------------------------------------------------------
# reading


class Content(NamedTuple):
    """What one document holds: (length,) int64 tokens and (images, M, P) uint8 patches."""

    tokens: np.ndarray
    patches: np.ndarray


class IndexedCorpus:
    """A split of an indexed source. Memory does not grow with its samples, but for the pages of the indexes.

    ``seed`` decides the crops of training images; None: centre crops, not mirrored (evaluation). Raises ValueError for
    a split without samples, a patch size that does not divide the images and a width (T) without room for one.
    """

    def __init__(
        self, shards: IndexedSources, name: str, split: str, width: int, patch_size: int, seed: int | None
    ) -> None:
        self.name, self.split, self.width, self.patch_size = name, split, width, patch_size
        self.opened, self.shards = shards, shards.sources[name]
        check_patch_size(shards.image_size, patch_size)
        self.m = (shards.image_size // patch_size) ** 2
        tables = self._tables(width)
        self.units = np.concatenate([units for units, _ in tables])
        self.totals = np.concatenate([totals for _, totals in tables])
        self._ends = np.cumsum([int(units.sum()) for units, _ in tables])
        if not self._ends[-1]:
            raise ValueError(
                f"data.sources.{name} has no {split} sample: `nmm index` left {self._left_out().total()} out, of the "
                f"rest data.val_fraction={shards.val_fraction} are held out by their keys; change it, or index more"
            )
        if width <= self.m and any(totals[:, TOTALS.index("images")].any() for _, totals in self._tables(NO_LIMIT)):
            raise ValueError(
                f"context_length={width} cannot hold an image of {self.m} patches and a word: "
                f"make it at least {self.m + 1}, or patch_size={patch_size} larger"
            )
        self._crops = CounterStream(seed, "crop", name) if seed is not None else None
        self._records: OrderedDict[int, np.ndarray] = OrderedDict()

    def _tables(self, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
        rules = (self.split, self.opened.val_fraction, width, self.m, self.opened.tiling)
        return [unit_table(shard.index, shard.header["body_sha256"], *rules) for shard in self.shards]

    def records(self, samples: np.ndarray) -> np.ndarray:
        """See Corpus."""
        shard = np.searchsorted(self._ends, samples, side="right")
        found = np.zeros(len(samples), DOCUMENT)
        for number in np.unique(shard).tolist():
            inside = shard == number
            first = int(self._ends[number - 1]) if number else 0
            found[inside] = self._shard_records(number)[samples[inside] - first]
        return found

    def holdings(self) -> dict[str, Any]:
        """See Corpus; ``left_out`` counts both splits."""
        refused = sum(bool(shard.header["refused"]) for shard in self.shards)
        samples = int(self.units.sum())
        return {
            "shards": len(self.shards),
            "refused_shards": refused,
            "samples": samples,
            "left_out": dict(self._left_out()),
        }

    def _left_out(self) -> Counter[str]:
        left_out: Counter[str] = Counter()
        for shard in self.shards:
            left_out.update(shard.header["left_out"])
        return left_out

    def read(self, document: np.void) -> Content | Skipped:
        """One document, or why it is not there. Raises ShardError when its shard is not as it was indexed."""
        where = self.shards[document["shard"]]
        shard, place = self._opened_shard(int(document["shard"])), int(document["start"])
        parts = self.opened.reader.parts(shard, place)
        try:
            parsed = parse(parts, where.header["caption_field"])
            return self._content(parsed.segments, document)
        except BadSample as bad:
            images = int(document["images"]) * self.m
            later = bool(document["begin"])
            text = int(document["length"]) - images - later
            name = f"{where.path}: {shard.index.key(place)}: {bad}"
            return Skipped(self.name, bad.reason, name, text, images, int(document["targets"]), 1 - later)

    def _content(self, segments: Sequence[str | Picture], document: np.void) -> Content:
        whole, held = int(document["whole"]), 0
        tokens: list[int] = []
        pictures: list[np.ndarray] = []
        for segment in segments:
            if held >= whole:
                break
            if isinstance(segment, str):
                ids = self.opened.tokenizer.encode(segment)
            elif len(pictures) == document["images"]:
                break  # cut before this image
            else:
                shown = self._pixels(segment, document, len(pictures))
                pictures += list(shown)
                ids = [IMAGE_ID] * (self.m * len(shown))
            tokens += ids
            held += len(ids)
        if not document["truncated"]:
            tokens.append(END_ID)
        if len(tokens) < whole or (not document["truncated"] and len(tokens) != whole):
            raise ShardError(
                f"shard {self.shards[document['shard']].path}: a document has {len(tokens)} tokens now and had "
                f"{whole} when it was indexed; the tokenizer's library reads it differently. Run `nmm index` again "
                "(--force) and start a new run"
            )
        side = self.opened.image_size
        pixels = np.array(pictures, np.uint8).reshape(-1, side, side, 3)
        first = max(0, int(document["begin"]) - 1)
        own = tokens[first : min(whole, first + int(document["length"]))]
        return Content(np.array(own, np.int64), patchify(pixels, self.patch_size))

    def _pixels(self, picture: Picture, document: np.void, number: int) -> np.ndarray:
        """(images, side, side, 3) uint8 of a picture whose first image is number ``number`` of its document.

        They are one, or its tiles and a thumbnail; cropped (not with tiles) and mirrored by (seed, ordinal, number).
        """
        side, scale, flip = self.opened.image_size, self.opened.crop_scale, self.opened.flip
        crop = None
        if self._crops is not None and (scale < 1 or flip > 0):
            at = np.array([document["ordinal"]], np.int64)
            crop = Crop(scale, self._crops.uniform(at, CROP_UNIFORMS * number, CROP_UNIFORMS)[0], flip)
        if self.opened.tiles > 1:
            mirrored = crop is not None and crop.mirrored
            return decode_tiles(picture.data, picture.extension, side, self.opened.tiles, mirrored)
        return decode_picture(picture.data, picture.extension, side, crop)[None]

    def _shard_records(self, number: int) -> np.ndarray:
        if number not in self._records:
            while self._records and sum(map(len, self._records.values())) > KEPT_RECORDS:
                self._records.popitem(last=False)
            index = self._opened_shard(number).index
            opened = self.opened
            records = shard_records(index, self.split, opened.val_fraction, self.width, self.m, opened.tiling)
            records["shard"] = number
            self._records[number] = records
        self._records.move_to_end(number)
        return self._records[number]

    def _opened_shard(self, number: int) -> OpenShard:
        """Raises ShardError when its index is not the one this corpus was made of."""
        where = self.shards[number]
        shard = self.opened.reader.shard(where.path, where.index)
        check_version(shard.index, where.header["body_sha256"])
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": OrderedDict()}
