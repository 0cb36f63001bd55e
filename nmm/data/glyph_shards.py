"""Write glyphs as the tars that downloaders leave behind, restartable and the same bytes every time.

    <out>/plan.json                         what this folder is for, written first
    <out>/caption/00000.tar                 000000000.png + .txt + .json, as img2dataset writes them
    <out>/interleaved/00000.tar             000000000.0.png, .1.png + .json with "segments" in order
    <out>/text/00000.tar                    000000000.jsonl.gz, ... of some hundred lines with a "text" each
    <out>/<source>/00000_stats.json         beside every tar, written after it
    <out>/glyphs.json                       written last: the fonts that were used, with digests, and what was counted

There is no split and no manifest: `nmm index` reads the folders like anybody's, and training holds samples out by key.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nmm.config import canonical_json
from nmm.data.glyph_fonts import matplotlib_fonts, read_catalogue
from nmm.data.glyphs import SOURCES, GlyphConfig, GlyphDocument, Glyphs
from nmm.data.out_folder import claim, only_writer, progress_bar, refuse_strangers
from nmm.data.png import encode_png
from nmm.data.records import write_atomically
from nmm.data.tar_writer import TarWriter

FORMAT = 1
LINES = 512  # of a jsonl member
MOST_SAMPLES = 10_000  # of a tar: a key is five digits of the tar and four of the sample
RESERVE = 0.15
PROBE_DOCUMENTS = 1024
_CHUNK = 256


@dataclass(frozen=True)
class TarPlan:
    """One tar to write: documents first..first+samples-1 of a source."""

    source: str
    number: int
    first: int
    samples: int

    @property
    def path(self) -> str:
        """Of the tar, relative to the output folder."""
        return f"{self.source}/{self.number:05d}.tar"

    @property
    def stats(self) -> str:
        """Of what is known about it, likewise."""
        return f"{self.source}/{self.number:05d}_stats.json"

    def key(self, row: int) -> str:
        """Of the document ``row`` of this tar."""
        return f"{self.number:05d}{row:04d}"


@dataclass(frozen=True)
class TarStats:
    """What one tar holds; ``count`` and ``successes`` as img2dataset calls them."""

    count: int
    successes: int
    pictures: int
    text_bytes: int
    bytes: int
    sha256: str


def write_glyph_shards(
    config: GlyphConfig,
    out: str | Path,
    samples: Mapping[str, int],
    shard_samples: int = 4096,
    progress: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """Write `samples[source]` documents of every source under `out` and return what glyphs.json says.

    Tars that an earlier call finished are kept.

    Raises:
        ValueError: for an unknown source, a count that makes no sense, an `out` made for something else (also with
            other fonts, or another version of Unicode or FreeType), or no fonts.
    """
    out = Path(out)
    plans = _plans(samples, shard_samples)
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    refuse_strangers(out)
    drawn_with = _glyphs(config, matplotlib_fonts()).catalogue.record()
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        asked = {"config": asdict(config), "samples": dict(samples), "shard_samples": shard_samples}
        claim(out, {"format": FORMAT, **asked, "drawn_with": _digests(drawn_with)})
        done = {plan: stats for plan in plans if (stats := _finished(out, plan)) is not None}
        kept = len(done)
        _write_missing(config, out, plans, done, workers, progress)
        record = {"format": FORMAT, **asked, **drawn_with, "sources": _totals(done)}
        write_atomically(out / "glyphs.json", json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    if progress:
        size = sum(stats.bytes for stats in done.values())
        print(
            f"{sum(plan.samples for plan in plans):,} samples in {len(plans)} shards, {size / 1e6:,.0f} MB "
            f"({len(plans) - kept} written now, {kept} kept): {out / 'glyphs.json'}"
        )
    return record


def glyphs_for_tokens(
    config: GlyphConfig,
    mixture: Mapping[str, float],
    count_tokens: Callable[[str], int],
    image_tokens: int,
    train: int,
    held_out: int,
    val_fraction: float,
) -> dict[str, int]:
    """How many documents of each source a training run and its evaluation need, with a reserve of RESERVE.

    Args:
        config: What is drawn; the mean length of a document is measured on the first 1,024 of a source.
        mixture: Source -> weight.
        count_tokens: Tokens of a text.
        image_tokens: Of a picture.
        train: Tokens that training sees, text and image, shared out by `mixture`.
        held_out: Tokens of each source that evaluation needs.
        val_fraction: Which share of a source is held out.

    Raises ValueError for an unknown source, and for a share that is not between 0 and 1.
    """
    _refuse_unknown(mixture)
    if not 0 < val_fraction < 1:
        raise ValueError(
            f"data.val_fraction={val_fraction} must lie between 0 and 1: runs are judged on what it holds out"
        )
    glyphs = _glyphs(config, matplotlib_fonts())
    total = math.fsum(mixture.values())
    needed = {}
    for source, weight in mixture.items():
        probe = glyphs.documents(source, 0, PROBE_DOCUMENTS)
        lengths = [count_tokens(d.text) + image_tokens * len(d.pictures) for d in probe]
        tokens = max(train * weight / total / (1.0 - val_fraction), held_out / val_fraction if weight else 0.0)
        needed[source] = math.ceil(tokens * (1.0 + RESERVE) / float(np.mean(lengths)))
    return needed


@lru_cache(maxsize=1)
def _glyphs(config: GlyphConfig, folder: Path) -> Glyphs:
    """One for each process, so that fonts are looked through and opened once."""
    return Glyphs(config, read_catalogue(folder))


def _plans(samples: Mapping[str, int], shard_samples: int) -> list[TarPlan]:
    if not 1 <= shard_samples <= MOST_SAMPLES:
        raise ValueError(f"shard_samples={shard_samples} must be from 1 to {MOST_SAMPLES:,}")
    _refuse_unknown(samples)
    for source, count in samples.items():
        if count < 0:
            raise ValueError(f"samples of {source} is {count}, it must not be negative")
    plans = [
        TarPlan(source, number, first, min(shard_samples, samples[source] - first))
        for source in SOURCES
        for number, first in enumerate(range(0, samples.get(source, 0), shard_samples))
    ]
    if not plans:
        raise ValueError("samples asks for no document at all")
    return plans


def _refuse_unknown(sources: Mapping[str, Any]) -> None:
    for source in sources:
        if source not in SOURCES:
            raise ValueError(f"glyphs have no source {source!r}; sources: {', '.join(SOURCES)}")


def _digests(drawn_with: Mapping[str, Any]) -> dict[str, str]:
    """What must not change between two calls that fill one folder."""
    fonts = hashlib.sha256(canonical_json(drawn_with["fonts"]).encode()).hexdigest()
    return {"fonts": fonts, "unicode": drawn_with["unicode"], "freetype": drawn_with["freetype"]}


def _finished(out: Path, plan: TarPlan) -> TarStats | None:
    """Statistics of a tar that is complete and unharmed on disk, else None."""
    tar, beside = out / plan.path, out / plan.stats
    if not (tar.exists() and beside.exists()):
        return None
    stats = TarStats(**json.loads(beside.read_text()))
    with tar.open("rb") as file:
        intact = hashlib.file_digest(file, "sha256").hexdigest() == stats.sha256
    return stats if intact else None


def _write_missing(
    config: GlyphConfig, out: Path, plans: list[TarPlan], done: dict[TarPlan, TarStats], workers: int, progress: bool
) -> None:
    """Write the planned tars that are not in `done` and add them to it."""
    missing = [plan for plan in plans if plan not in done]
    folder = matplotlib_fonts()
    with progress_bar(progress and bool(missing)) as bar:
        total, kept = sum(plan.samples for plan in plans), sum(plan.samples for plan in done)
        task = bar.add_task("rendering", total=total, completed=kept)
        if workers == 1 or len(missing) < 2:
            for plan in missing:
                done[plan] = write_tar_of_glyphs(config, folder, out, plan)
                bar.advance(task, plan.samples)
            return
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            jobs = {pool.submit(write_tar_of_glyphs, config, folder, out, plan): plan for plan in missing}
            for job in as_completed(jobs):
                done[jobs[job]] = job.result()
                bar.advance(task, jobs[job].samples)


def write_tar_of_glyphs(config: GlyphConfig, folder: Path, out: Path, plan: TarPlan) -> TarStats:
    """Write one tar, then its statistics, each under a temporary name that is renamed when the bytes are on disk."""
    tar = out / plan.path
    tar.parent.mkdir(parents=True, exist_ok=True)
    temporary = tar.with_name(f".{tar.name}.tmp-{os.getpid()}")
    documents = _stream(_glyphs(config, folder), plan)
    pictures = text_bytes = 0
    with temporary.open("wb") as file:
        writer = TarWriter(file)
        for first in range(0, plan.samples, LINES):
            some = [next(documents) for _ in range(min(LINES, plan.samples - first))]
            pictures += sum(len(document.pictures) for document in some)
            text_bytes += sum(len(document.text.encode()) for document in some)
            for name, payload in _members(plan, first, some):
                writer.add(name, payload)
        size, sha256 = writer.close()
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(tar)
    stats = TarStats(plan.samples, plan.samples, pictures, text_bytes, size, sha256)
    write_atomically(out / plan.stats, canonical_json(asdict(stats)).encode())
    return stats


def _stream(glyphs: Glyphs, plan: TarPlan) -> Iterator[GlyphDocument]:
    for first in range(0, plan.samples, _CHUNK):
        yield from glyphs.documents(plan.source, plan.first + first, min(_CHUNK, plan.samples - first))


def _members(plan: TarPlan, first: int, documents: list[GlyphDocument]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the members that hold `documents`, of which the first is the tar's `first`-th."""
    match plan.source:
        case "text":
            lines = "".join(json.dumps({"text": document.text}) + "\n" for document in documents)
            yield f"{plan.key(first)}.jsonl.gz", gzip.compress(lines.encode(), 6, mtime=0)
        case "caption":
            for row, document in enumerate(documents, first):
                key = plan.key(row)
                (picture,) = document.pictures
                height, width, _ = picture.pixels.shape
                said = {"key": key, "caption": document.text, "width": width, "height": height}
                yield f"{key}.png", encode_png(picture.pixels)
                yield f"{key}.txt", document.text.encode()
                yield f"{key}.json", _json({**said, **picture.truth()})
        case _:
            for row, document in enumerate(documents, first):
                key = plan.key(row)
                for number, picture in enumerate(document.pictures):
                    yield f"{key}.{number}.png", encode_png(picture.pixels)
                truth = [picture.truth() for picture in document.pictures]
                yield f"{key}.json", _json({"segments": _segments(document), "pictures": truth})


def _segments(document: GlyphDocument) -> list[dict[str, str]]:
    names = (f"{number}.png" for number in range(len(document.pictures)))
    return [{"text": s} if isinstance(s, str) else {"image": next(names)} for s in document.segments]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _totals(done: Mapping[TarPlan, TarStats]) -> dict[str, dict[str, int]]:
    """Source -> samples, pictures, text_bytes and shards."""
    totals: dict[str, dict[str, int]] = {}
    for plan, stats in done.items():
        total = totals.setdefault(plan.source, {"samples": 0, "pictures": 0, "text_bytes": 0, "shards": 0})
        for name, more in zip(total, (stats.count, stats.pictures, stats.text_bytes, 1), strict=True):
            total[name] += more
    return totals
