"""Documents that a test knows in full, the tars that hold them, and the slow, obvious way from one to its tokens."""

from __future__ import annotations

import functools
import gzip
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tars import write_tar

from nmm.batch import END_ID, IMAGE_ID
from nmm.data.index_file import read_index
from nmm.data.indexed import IndexedSources
from nmm.data.indexing import index_shards
from nmm.data.opening import open_data
from nmm.data.source import RowSource
from nmm.groups import Data

SIDE, PATCH, M = 16, 8, 4  # of images, of their patches, and patches an image
VAL = 0.25
WIDTH = 64  # positions a row
MIXTURE = {"caption": 45, "interleaved": 45, "text": 10}
FIRST_BYTE = 3  # the byte tokenizer's id of byte 0


@dataclass(frozen=True)
class Known:
    """A document: its key, and its texts and images (by number) in their order."""

    key: str
    segments: tuple[str | int, ...]

    def whole(self) -> list[int]:
        """All its tokens."""
        tokens: list[int] = []
        for segment in self.segments:
            tokens += [IMAGE_ID] * M if isinstance(segment, int) else [byte + FIRST_BYTE for byte in segment.encode()]
        return [*tokens, END_ID]

    def tokens(self, width: int) -> list[int]:
        """Those that fit: token by token, an image whole or not at all, and nothing after one that does not fit."""
        kept: list[int] = []
        for segment in self.segments:
            if isinstance(segment, int):
                if len(kept) + M > width:
                    return kept
                kept += [IMAGE_ID] * M
            for byte in segment.encode() if isinstance(segment, str) else b"":
                if len(kept) == width:
                    return kept
                kept.append(byte + FIRST_BYTE)
        return [*kept, END_ID] if len(kept) < width else kept

    def images(self, width: int) -> list[int]:
        """Numbers of the images that fit."""
        numbers = [segment for segment in self.segments if isinstance(segment, int)]
        return numbers[: self.tokens(width).count(IMAGE_ID) // M]

    def targets(self, width: int) -> int:
        """Tokens of text that stand after another token."""
        return sum(token != IMAGE_ID for token in self.tokens(width)[1:])


@functools.cache
def pixels(number: int) -> np.ndarray:
    """(16, 16, 3) uint8, of noise: no crop of it is like another."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def png(number: int) -> bytes:
    """``pixels(number)``, bit for bit."""
    out = io.BytesIO()
    Image.fromarray(pixels(number)).save(out, "PNG")
    return out.getvalue()


Keyed = dict[tuple[str, str], Known]


def captions(name: str, first: int, count: int) -> list[Known]:
    """An image and a caption each."""
    rng = random.Random(f"{name} {first}")
    return [Known(f"{name}{n:05d}", (n, _text(rng, n, 20))) for n in range(first, first + count)]


def interleaved(name: str, first: int, count: int) -> list[Known]:
    """Up to six texts and images in any order, at least one text: short and long, images first, last and in a row."""
    rng = random.Random(f"{name} {first}")
    documents = []
    for n in range(first, first + count):
        kinds = [rng.random() < 0.5 for _ in range(rng.randrange(1, 7))]
        kinds[rng.randrange(len(kinds))] = False
        segments = [10 * n + at if image else _text(rng, 10 * n + at, 25) for at, image in enumerate(kinds)]
        documents.append(Known(f"{name}{n:05d}", tuple(segments)))
    return documents


def texts(name: str, first: int, count: int, longest: int = 60) -> list[Known]:
    """A text each."""
    rng = random.Random(f"{name} {first}")
    return [Known(f"{name}{n:05d}", (_text(rng, n, longest),)) for n in range(first, first + count)]


def _text(rng: random.Random, number: int, longest: int) -> str:
    return f"{number} " + "".join(rng.choices("abcd é", k=rng.randrange(1, longest)))


def write_documents(shard: Path, documents: Sequence[Known]) -> None:
    """A tar of them: each is a json of segments with its images, or a txt if it is one text."""
    members: list[tuple[str, bytes]] = []
    for document in documents:
        numbers = [segment for segment in document.segments if isinstance(segment, int)]
        if not numbers and len(document.segments) == 1:
            members.append((f"{document.key}.txt", document.segments[0].encode()))  # type: ignore[union-attr]
            continue
        names = {number: f"{place}.png" for place, number in enumerate(numbers)}
        listed = [{"text": s} if isinstance(s, str) else {"image": names[s]} for s in document.segments]
        members.append((f"{document.key}.json", json.dumps({"segments": listed}).encode()))
        members += [(f"{document.key}.{name}", png(number)) for number, name in names.items()]
    write_tar(shard, members)


def write_lines(shard: Path, documents: Sequence[Known], lines: int) -> list[Known]:
    """A tar of their texts, ``lines`` to a jsonl.gz member; returns them with the keys that lines have."""
    members, found = [], []
    for first in range(0, len(documents), lines):
        part, name = documents[first : first + lines], f"part{first:05d}.jsonl.gz"
        text = "".join(json.dumps({"text": document.segments[0]}) + "\n" for document in part)
        members.append((name, gzip.compress(text.encode(), mtime=0)))
        found += [Known(f"{name}:{place}", document.segments) for place, document in enumerate(part, 1)]
    write_tar(shard, members)
    return found


def index(folder: Path) -> None:
    """Index all below ``folder`` for the byte tokenizer."""
    index_shards([folder], "bytes", workers=1, progress=False)


def opened(folder: Path, sources: dict[str, str], **changes: object) -> IndexedSources:
    """The sources of ``folder`` with images of 16 pixels and a quarter held out."""
    values = {"tokenizer": "bytes", "val_fraction": VAL, "image_size": SIDE, "patch_size": PATCH} | changes
    found = open_data(Data(path=str(folder), sources=sources, **values))  # type: ignore[arg-type]
    assert isinstance(found, IndexedSources)
    return found


def write_sources(folder: Path) -> Keyed:
    """Index folders caption, interleaved, text and tiny below ``folder``; every document by source and key."""
    known: Keyed = {}
    for shard in range(3):
        for name, documents in (
            ("caption", captions("c", 100 * shard, 50)),
            ("interleaved", interleaved("d", 1000 + 100 * shard, 70)),
        ):
            write_documents(folder / name / f"{shard:05d}.tar", documents)
            known |= {(name, document.key): document for document in documents}
    lines = write_lines(folder / "text" / "00000.tar", texts("t", 0, 90), 13)
    tiny = texts("u", 5000, 9, longest=12)
    write_documents(folder / "tiny" / "00000.tar", tiny)
    known |= {(name, document.key): document for name, held in (("text", lines), ("tiny", tiny)) for document in held}
    index(folder)
    return known


def rows_of(
    data: tuple[Path, Keyed], mixture: dict[str, float], width: int = WIDTH, seed: int = 0, **changes: Any
) -> RowSource:
    """Rows of ``write_sources``; ``changes`` are of the RowSource or of the data config."""
    options = {name: changes.pop(name) for name in ("split", "once_in_order", "weights", "cut_text") if name in changes}
    sources = opened(data[0], {name: name for name in mixture}, **changes)
    return RowSource(sources, mixture, width, PATCH, seed, **options)


def keys_of(source: RowSource, row: int) -> list[tuple[str, str]]:
    """(source, key) of a row's documents, by way of the index."""
    found = []
    for document in source.documents(row):
        name = source.names[document["source"]]
        shard = source.indexed[name].shards[document["shard"]]
        found.append((name, read_index(shard.index).key(int(document["start"]))))
    return found
