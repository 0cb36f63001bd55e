"""Tars of every format, indexed sources made of them, runs on those, and ways to damage them."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard
from lab import conf, tiny_config_on
from PIL import Image
from tars import write_tar

from nmm.config import RunConfig
from nmm.data.index_file import ShardIndex, index_path, read_index
from nmm.data.indexing import Summary, index_shards
from nmm.data.tokenizer import open_tokenizer

TEXT = "a red fox jumps over the lazy dog while seven quiet birds watch from old trees near water"
WORDS = TEXT.split()
SHARES = {"caption": 0.45, "interleaved": 0.45, "text": 0.1}
Members = list[tuple[str, bytes]]


def picture(number: int, extension: str = "jpg", side: int = 24) -> bytes:
    """An image of noise; another ``number``, other bytes."""
    noise = random.Random(number).randbytes(3 * 36)
    out = io.BytesIO()
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension]
    small = Image.frombytes("RGB", (6, 6), noise)
    small.resize((side, side + number % 9), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def words(number: int, most: int = 14) -> str:
    """Three to ``most`` words, the last of them a number that no other text has."""
    rng = random.Random(number)
    return " ".join([*rng.choices(WORDS, k=rng.randrange(2, most)), str(number)])


def caption_members(first: int, count: int, extension: str = "jpg") -> Members:
    """As img2dataset writes them."""
    return [
        member
        for n in range(first, first + count)
        for member in (
            (f"{n:06d}.{extension}", picture(n, extension)),
            (f"{n:06d}.json", json.dumps({"caption": words(n), "url": "u", "status": "success"}).encode()),
            (f"{n:06d}.txt", words(n).encode()),
        )
    ]


def interleaved_members(first: int, count: int, extension: str = "jpg") -> Members:
    """One or two images a document, as OBELICS lists them."""
    found: Members = []
    for n in range(first, first + count):
        images = 1 + n % 2
        texts = [text for i in range(images) for text in (words(10_000 + 10 * n + i), None)]
        places = [place for i in range(images) for place in (None, f"http://somewhere/{i}")]
        found.append((f"d{n:06d}.json", json.dumps({"texts": texts, "images": places}).encode()))
        found += [(f"d{n:06d}.{i}.{extension}", picture(10_000 + 10 * n + i, extension)) for i in range(images)]
    return found


def text_members(first: int, count: int) -> Members:
    """A txt a sample."""
    return [(f"t{n:06d}.txt", words(200_000 + n, 40).encode()) for n in range(first, first + count)]


def line_members(first: int, count: int, form: str = "jsonl.gz", lines: int = 20) -> Members:
    """``count`` texts, ``lines`` of them in each member of format ``form``."""
    pack: Callable[[bytes], bytes] = {
        "jsonl": bytes,
        "jsonl.gz": lambda data: gzip.compress(data, mtime=0),
        "jsonl.zst": zstandard.compress,
    }[form]
    texts = [json.dumps({"text": words(300_000 + n, 40)}) + "\n" for n in range(first, first + count)]
    return [
        (f"part{first + at:06d}.{form}", pack("".join(texts[at : at + lines]).encode()))
        for at in range(0, count, lines)
    ]


def caption_tar(path: Path, count: int, first: int = 0, extension: str = "jpg") -> Path:
    """``count`` captioned images, keys from ``first`` on."""
    return write_tar(path, caption_members(first, count, extension))


def interleaved_tar(path: Path, count: int, first: int = 0, extension: str = "jpg") -> Path:
    """``count`` documents of text and images."""
    return write_tar(path, interleaved_members(first, count, extension))


def text_tar(path: Path, count: int, first: int = 0) -> Path:
    """``count`` texts, a member each."""
    return write_tar(path, text_members(first, count))


def jsonl_tar(path: Path, count: int, first: int = 0, form: str = "jsonl.gz", lines: int = 20) -> Path:
    """``count`` texts, ``lines`` a member."""
    return write_tar(path, line_members(first, count, form, lines))


def small_sources(folder: Path, caption: int = 60, interleaved: int = 40, text: int = 80, shards: int = 2) -> Path:
    """Folders caption, interleaved and text of ``shards`` tars each, with as many samples a tar as given; not indexed.

    Texts are jsonl.gz members.
    """
    for shard in range(shards):
        caption_tar(folder / "caption" / f"{shard:05d}.tar", caption, shard * caption)
        interleaved_tar(folder / "interleaved" / f"{shard:05d}.tar", interleaved, shard * interleaved)
        jsonl_tar(folder / "text" / f"{shard:05d}.tar", text, shard * text)
    return folder


def index_all(folder: Path, **options: Any) -> Summary:
    """Index every shard below ``folder`` for the byte tokenizer, in this process; options as ``index_shards``."""
    return index_shards([folder], "bytes", **{"workers": 1, "progress": False, **options})


def opened_index(shard: Path) -> ShardIndex:
    """The index of a shard for the byte tokenizer."""
    return read_index(index_path(shard, open_tokenizer("bytes").fingerprint))


def indexed_config(folder: Path, /, **groups: Any) -> RunConfig:
    """A finalized config of a few steps on the indexed folders of ``small_sources``.

    A group is given as a dict of the fields that differ, as in ``lab.tiny_config_on``.
    """
    data = {
        **conf("data", "shards"),
        "path": str(folder),
        "sources": {name: name for name in SHARES if (folder / name).is_dir()},
        "val_fraction": 0.2,
        "image_size": 16,
        "patch_size": 8,
        "context_length": 128,
        "eval_rows": 3,
    }
    data["mixture"] = {name: SHARES[name] for name in data["sources"]}
    change = {**data, **groups.pop("data", {})}
    return tiny_config_on(folder, **{"data": change, "budget": {"steps": 8}, **groups})


def command_line(config: RunConfig) -> list[str]:
    """What ``nmm train`` takes to run ``indexed_config(...)``, data and all."""
    data = config.data
    sources = ",".join(f"{name}:{where}" for name, where in data.sources.items())
    mixture = ",".join(f"{name}:{share}" for name, share in data.mixture.items())
    names = ("path", "val_fraction", "image_size", "patch_size", "context_length", "eval_rows", "max_skipped", "flip")
    trainer = ("micro_batches", "num_workers", "checkpoint_every_steps", "log_every_steps", "compile", "rows_per_step")
    return [
        f"arch={config.arch.name}",
        f"size={config.size.name}",
        "data=shards",
        f"+data.sources={{{sources}}}",
        f"+data.mixture={{{mixture}}}",
        *(f"data.{name}={getattr(data, name)}" for name in (*names, "crop_scale")),
        *(f"trainer.{name}={getattr(config.trainer, name)}" for name in trainer),
        f"budget.steps={config.total_steps}",
        f"schedule.warmup_steps={config.schedule.warmup_steps}",
        f"out={config.out}",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# damage


def members_of(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the members of a sound tar."""
    from nmm.data.tar import walk_tar

    for member in walk_tar(shard.read_bytes(), str(shard)):
        yield member.name, member.offset, member.size


def place_of(shard: Path, name: str) -> tuple[int, int]:
    """Offset and size of a member."""
    return next((offset, size) for found, offset, size in members_of(shard) if found == name)


def overwrite(file: Path, offset: int, data: bytes) -> None:
    """Change bytes in place; the size stays."""
    with open(file, "r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def spoil_picture(shard: Path, name: str) -> None:
    """Zero the last half of an image, so that its header is sound and only decoding finds it."""
    offset, size = place_of(shard, name)
    overwrite(shard, offset + size // 2, bytes(size - size // 2))


def cut(file: Path, size: int) -> None:
    """Keep the first ``size`` bytes."""
    file.write_bytes(file.read_bytes()[:size])
