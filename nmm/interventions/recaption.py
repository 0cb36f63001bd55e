"""Recaptioning as a transform of data: a function tells the pictures of a shard folder anew (arXiv 2409.04828, 2.1).

The function may be anybody's: it takes texts and pictures, and returns texts. In a script of your own::

    from nmm.data.manifest import open_shards
    from nmm.interventions.recaption import recaption

    def shout(texts, pictures):          # pictures[i] is (images, S, S, 3) uint8
        return [text.replace("small", "big") for text in texts]

    recaption(open_shards("outputs/shards/world"), "outputs/shards/loud", shout, {"rule": "shout, version 1"})

Shape legend: I images of a sample, S side of an image in pixels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nmm.config import ConfigError, canonical_json
from nmm.data.derived import SPLIT, Sample, derive, retold, samples_of
from nmm.data.images import decode_image
from nmm.data.manifest import ShardInfo, Shards
from nmm.data.out_folder import progress_bar
from nmm.record import read_json, write_json

# (texts, pictures) of some samples -> their new texts, or None for one that is to stay as it is. A text holds all
# tokens, "<image>" for each picture and "<end>" at its end; pictures are (I, S, S, 3) uint8. Must be a pure function.
Rewrite: TypeAlias = Callable[[Sequence[str], Sequence[np.ndarray]], Sequence[str | None]]

CHUNK = 512  # samples that are told, and kept, at a time


@dataclass(frozen=True)
class Retelling:
    """What ``recaption`` did. flops: what ``cost`` said, over all samples; told_now: samples told in this call."""

    manifest: Mapping[str, Any]
    samples: int
    kept: int  # stayed as they were
    flops: float
    told_now: int
    seconds: float


def recaption(
    shards: Shards,
    out: str | Path,
    rewrite: Rewrite,
    made_by: Mapping[str, Any],
    source: str = "caption",
    told: str | Path | None = None,
    cost: Callable[[], float] = lambda: 0.0,
    command: Sequence[str] = (),
    progress: bool = True,
) -> Retelling:
    """Write the folder ``out`` in which the training samples of ``source`` have new words; the rest is carried over.

    Args:
        shards: An opened rendered folder.
        out: A shard folder like any other; what it was made of is in its manifest and provenance.json.
        rewrite: The function. It is called with up to CHUNK samples, in order.
        made_by: Plain JSON, everything that decides what ``rewrite`` returns: part of the fingerprint, so no paths.
        source: Whose training split changes.
        told: Where new texts are kept until all are there, so that a stopped call goes on; None: SHARDS/.told.
        cost: FLOPs that ``rewrite`` has taken so far in this process.
        command: Arguments of the command, for provenance.json.
        progress: Show a bar.

    Raises ValueError for words that the vocabulary lacks, for another number of texts or of "<image>" than was given,
    and as ``nmm.data.derived.derive``.
    """
    infos = shards.split(source, SPLIT).shards
    digest = hashlib.sha256(canonical_json({"parent": shards.fingerprint, **made_by}).encode()).hexdigest()[:16]
    folder = Path(told or shards.root / ".told") / f"{source}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    start, now, flops = time.monotonic(), 0, 0.0
    texts: list[list[str | None]] = []
    with progress_bar(progress) as bar:
        task = bar.add_task(f"telling {source}", total=sum(info.samples for info in infos))
        for info in infos:
            tar: list[str | None] = []
            for first in range(0, info.samples, CHUNK):
                size = min(CHUNK, info.samples - first)
                file = (
                    folder / f"{info.path.removesuffix('.tar').replace('/', '-')}-{info.sha256[:12]}-{first:06d}.json"
                )
                if not file.is_file():
                    write_json(file, _tell(shards, info, first, size, rewrite, cost))
                    now += size
                part = read_json(file)
                tar += part["texts"]
                flops += part["flops"]
                bar.advance(task, size)
            texts.append(tar)
    seconds = time.monotonic() - start

    def transform(tar: int, place: int, sample: Sample) -> Sample:
        text = texts[tar][place]
        return sample if text is None else retold(sample, text)

    manifest = derive(shards, out, source, transform, {"made_by": "recaption", **made_by}, command, progress)
    kept = sum(text is None for tar in texts for text in tar)
    return Retelling(manifest, sum(map(len, texts)), kept, flops, now, seconds)


def _tell(
    shards: Shards, info: ShardInfo, first: int, size: int, rewrite: Rewrite, cost: Callable[[], float]
) -> dict[str, Any]:
    """New texts of one chunk, as they are kept."""
    samples = list(islice(samples_of(shards, info), first, first + size))
    before = cost()
    found = list(rewrite([sample.text for sample in samples], [pictures_of(shards, sample) for sample in samples]))
    if len(found) != len(samples):
        raise ValueError(f"the function was given {len(samples)} samples and returned {len(found)} texts")
    for sample, text in zip(samples, found, strict=True):
        if text is not None:
            _check(shards, sample, text)
    return {"texts": found, "flops": cost() - before}


def _check(shards: Shards, sample: Sample, text: str) -> None:
    """Better now than when the folder is written."""
    try:
        shards.tokenizer.encode(text)
        retold(sample, text)
    except ValueError as error:
        raise ValueError(f"sample {sample.key}, new text {text!r}: {error}") from error


def pictures_of(shards: Shards, sample: Sample) -> np.ndarray:
    """(I, S, S, 3) uint8 pictures of a sample, in the order of its text."""
    side = shards.picture_size or shards.image_size
    names = [segment["image"] for segment in sample.facts["segments"] if "image" in segment]
    images = [decode_image(sample.members[name], name.rpartition(".")[2], side) for name in names]
    return np.array(images, np.uint8).reshape(-1, side, side, 3)


# ---------------------------------------------------------------------------------------------------------------------
# `nmm recaption`


@dataclass(frozen=True)
class Recaption:
    """One `nmm recaption` command; the fields are those of conf/recaption.yaml."""

    shards: str
    model: str
    model_shards: str
    merge: str
    max_words: int
    temperature: float
    top_p: float
    seed: int
    batch_rows: int
    out: str
    told: str
    threads: int
    accelerator: str
    progress: bool

    def __post_init__(self) -> None:
        for name, allowed in (("merge", ("replace", "fuse")), ("accelerator", ("cpu", "gpu"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("max_words", "batch_rows", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name, example in (("shards", "data=outputs/shards/pool"), ("model", "model=outputs/runs/RUN_ID"),
                              ("out", "out=outputs/shards/retold")):  # fmt: skip
            if not getattr(self, name):
                given = "data" if name == "shards" else name
                raise ConfigError(f"{given}= is missing; e.g. {example}")
