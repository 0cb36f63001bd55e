"""One document as the members of a WebDataset sample, and a tar of such samples with the same bytes every time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nmm.data.png import encode_png
from nmm.data.scene import SceneObject
from nmm.data.tar_writer import TarWriter
from nmm.data.words import COLOURS, IMAGE, LOCATIONS, SIZES
from nmm.data.world import Document, World


def sample_key(source: str, split: str, index: int) -> str:
    """The key all members of a sample share."""
    return f"{source}-{split}-{index:09d}"


def image_names(document: Document) -> list[str]:
    """Member names of a document's pictures: "png" for a caption's only one, else "0.png", "1.png", ..."""
    if document.source == "caption":
        return ["png"]
    return [f"{number}.png" for number in range(len(document.images))]


def stored_logprobs(document: Document) -> list[float] | None:
    """The log-probabilities as written: the shortest decimals that give back the same float32; None: not known."""
    if math.isnan(document.logprobs[0]):
        return None
    return [_shortest(value) for value in document.logprobs.tolist()]


@lru_cache(maxsize=1 << 16)
def _shortest(value: float) -> float:
    return float(str(np.float32(value)))


def document_record(world: World, document: Document, logprobs: list[float] | None) -> dict[str, Any]:
    """The JSON member of a sample: segments, log-probabilities, classes, questions and the truth about the scene.

    Where noise is possible also ``noise``, its kinds; an ``entity`` is its rank of popularity, 0 the most popular.
    """
    known = {} if logprobs is None else {"logprobs": logprobs}
    noise = {} if document.noise is None else {"noise": list(document.noise)}
    return {
        "source": document.source,
        "split": document.split,
        "index": document.index,
        "seed": world.config.seed,
        "segments": _segments(document),
        **known,
        "classes": document.classes,
        "questions": [question._asdict() for question in document.questions],
        "scene": _scene(world, document),
        **noise,
    }


def _segments(document: Document) -> list[dict[str, str]]:
    segments: list[dict[str, str]] = []
    pieces = document.text.split(IMAGE)
    for number, piece in enumerate(pieces):
        if number:
            segments.append({"image": image_names(document)[number - 1]})
        if piece.strip():
            segments.append({"text": piece.strip()})
    return segments


def _scene(world: World, document: Document) -> dict[str, Any]:
    if document.source == "text":
        return {"subjects": list(document.subjects)}
    return {"images": [[_object(world, thing) for thing in objects] for objects in document.scene]}


def _object(world: World, thing: SceneObject) -> dict[str, Any]:
    catalogue, entity = world.catalogue, thing.entity
    return {
        "entity": entity,
        "name": " ".join(catalogue.names[entity]),
        "location": LOCATIONS[thing.cell],
        "size": SIZES[thing.size],
        "colour": catalogue.colour_words[entity],
        "shape": catalogue.shape_words[entity],
        "badge": list(COLOURS)[catalogue.badge[entity]],
        "pattern": int(catalogue.pattern[entity]),
        "jitter": [thing.jitter % 3 - 1, thing.jitter // 3 - 1],
    }


@dataclass
class ShardStats:
    """What one tar holds: enough to build the manifest without reading it again. ``logprob_sum`` None: not known."""

    path: str
    first_index: int
    samples: int = 0
    text_tokens: int = 0
    images: int = 0
    logprob_sum: float | None = 0.0
    bytes: int = 0
    sha256: str = ""

    def add(self, document: Document, logprobs: list[float] | None) -> None:
        """Count a document."""
        self.samples += 1
        self.text_tokens += len(document.logprobs)
        self.images += len(document.images)
        if logprobs is None or self.logprob_sum is None:
            self.logprob_sum = None
        else:
            self.logprob_sum += math.fsum(logprobs)


def _members(world: World, document: Document, logprobs: list[float] | None) -> Iterator[tuple[str, bytes]]:
    for name, image in zip(image_names(document), document.images, strict=True):
        yield name, encode_png(image)
    yield "txt", document.text.encode()
    record = document_record(world, document, logprobs)
    yield "json", json.dumps(record, separators=(",", ":")).encode()


def write_tar(world: World, documents: Iterator[Document], file: BinaryIO, stats: ShardStats) -> Iterator[int]:
    """Write documents as a tar into `file`, filling `stats`; yields after each document (for progress)."""
    tar = TarWriter(file)
    for document in documents:
        logprobs = stored_logprobs(document)
        key = sample_key(document.source, document.split, document.index)
        for name, payload in _members(world, document, logprobs):
            tar.add(f"{key}.{name}", payload)
        stats.add(document, logprobs)
        yield 1
    stats.bytes, stats.sha256 = tar.close()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
