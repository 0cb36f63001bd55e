"""Shards on disk, read without extracting: the manifest, and a header walk over each tar.

A shard folder is trusted only as far as it can be checked: the manifest's fingerprint covers the manifest, the
manifest's sha256 covers each tar, and the header walk refuses an archive that ends early, holds damaged headers or
names that leave the folder. (A plain tar reader stops silently at the first block it cannot read, and delivers fewer
samples.)
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from nmm.config import canonical_json
from nmm.data.tokenizer import Tokenizer, load_tokenizer

MANIFEST_FORMAT = 1
BLOCK = 512
ZEROS = bytes(BLOCK)
_FIX = "Render or copy the shards again."
REGULAR, FOLDER, PAX, PAX_GLOBAL, GNU_NAME = b"0", b"5", b"x", b"g", b"L"

Bytes: TypeAlias = bytes | mmap.mmap


@dataclass(frozen=True)
class Member:
    """One file inside a tar: where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar, in archive order; ``members[i]`` maps extension (``"png"``, ``"0.png"``) to Member."""

    keys: tuple[str, ...]
    members: tuple[Mapping[str, Member], ...]


@dataclass(frozen=True)
class ShardInfo:
    """One tar as its manifest describes it. ``bytes`` is the file's size, ``first_index`` its first document."""

    path: str
    samples: int
    bytes: int
    sha256: str
    first_index: int


@dataclass(frozen=True)
class SplitInfo:
    """One split of one source. ``entropy`` is the known nats per text token, None where nobody knows it."""

    samples: int
    text_tokens: int
    images: int
    entropy: float | None
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class Shards:
    """An opened shard folder. ``sources[source][split]`` is a SplitInfo, ``cache`` keeps the decoded samples."""

    root: Path
    cache: Path
    fingerprint: str
    tokenizer: Tokenizer
    vocab_size: int
    image_size: int
    sources: Mapping[str, Mapping[str, SplitInfo]]
    manifest: Mapping[str, Any]

    def split(self, source: str, split: str) -> SplitInfo:
        """One split of one source. Raises ValueError naming what the folder does hold."""
        if source not in self.sources:
            raise ValueError(f"{self.root} has no source {source!r}; it holds {sorted(self.sources)}")
        splits = self.sources[source]
        if split not in splits:
            raise ValueError(f"{self.root} has no split {split!r} of {source!r}; it holds {sorted(splits)}")
        return splits[split]


def open_shards(path: str | Path, cache: str | Path | None = None, verify: bool = False) -> Shards:
    """Open a finished shard folder. Decoded samples go to ``cache`` (default ``<path>/.decoded``).

    Sizes are compared at once; checksums when a shard is decoded for the first time, or here with ``verify=True``.
    Raises FileNotFoundError (no manifest, missing tar) and ValueError (unknown format, edited manifest, changed tar).
    """
    root = Path(path)
    manifest = _read_manifest(root)
    sources = {
        source: {split: _split_info(entry) for split, entry in splits.items()}
        for source, splits in manifest["sources"].items()
    }
    tokenizer = load_tokenizer(root / "tokenizer.json")
    if tokenizer.vocab_size != manifest["vocab_size"]:
        raise ValueError(
            f"{root / 'tokenizer.json'} has {tokenizer.vocab_size} words, the manifest says {manifest['vocab_size']}: "
            "the two do not belong together. Render the shards again."
        )
    shards = Shards(
        root=root,
        cache=Path(cache) if cache is not None else root / ".decoded",
        fingerprint=manifest["fingerprint"],
        tokenizer=tokenizer,
        vocab_size=manifest["vocab_size"],
        image_size=manifest["image_size"],
        sources=sources,
        manifest=manifest,
    )
    for info in (shard for splits in sources.values() for split in splits.values() for shard in split.shards):
        check_size(root, info)
        if verify:
            index_shard(root, info)
    return shards


def check_size(root: Path, info: ShardInfo) -> None:
    """Raise unless the tar exists inside ``root`` with the size its manifest gives."""
    _refuse_unsafe(info.path, "manifest.json")
    file = root / info.path
    if not file.is_file():
        raise FileNotFoundError(f"shard {file} is named in the manifest but missing. {_FIX}")
    size = file.stat().st_size
    if size != info.bytes:
        raise ValueError(f"shard {file} has {size} bytes, the manifest says {info.bytes}: cut or replaced. {_FIX}")


def index_shard(root: Path, info: ShardInfo) -> ShardIndex:
    """Check a tar against its manifest entry (size, sha256, number of samples) and list its samples.

    Raises ValueError naming the shard, what was expected and what to do.
    """
    check_size(root, info)
    file = root / info.path
    with open_bytes(file) as data:
        digest = hashlib.sha256(data).hexdigest()
        if digest != info.sha256:
            raise ValueError(f"shard {file} has sha256 {digest[:12]}, the manifest says {info.sha256[:12]}. {_FIX}")
        index = group_samples(walk_tar(data, str(file)), str(file))
    if len(index.keys) != info.samples:
        raise ValueError(f"shard {file} holds {len(index.keys)} samples, the manifest says {info.samples}. {_FIX}")
    return index


def open_bytes(file: Path) -> mmap.mmap:
    """A read-only memory map of a file. Raises ValueError for an empty file."""
    if file.stat().st_size == 0:
        raise ValueError(f"shard {file} is empty. {_FIX}")
    with open(file, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def walk_tar(data: Bytes, shard: str) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in archive order. ``shard`` is the name used in errors.

    Understands ustar, GNU and pax names. Raises ValueError for a damaged header, a missing end, bytes after the end,
    a link or device, and a name that is absolute or contains ``..``.
    """
    position, long_name = 0, None
    while True:
        header = data[position : position + BLOCK]
        if len(header) < BLOCK:
            raise ValueError(f"shard {shard} stops at byte {position} without an end-of-archive mark: cut. {_FIX}")
        if header == ZEROS:
            break
        name, size, kind = _parse_header(header, shard, position)
        body = position + BLOCK
        position = body + -(-size // BLOCK) * BLOCK
        if position > len(data):
            raise ValueError(f"shard {shard} is cut inside member {name!r} at byte {body}. {_FIX}")
        if kind == GNU_NAME:
            long_name = data[body : body + size].rstrip(b"\0").decode()
        elif kind == PAX:
            long_name = _pax_path(data[body : body + size]) or long_name
        elif kind == REGULAR:
            name, long_name = long_name or name, None
            _refuse_unsafe(name, shard)
            yield Member(name, body, size)
        elif kind not in (FOLDER, PAX_GLOBAL):
            raise ValueError(f"shard {shard} has member {name!r} of type {kind!r}: links and devices are refused.")
    if len(data) < position + 2 * BLOCK or data[position:].strip(b"\0"):
        raise ValueError(f"shard {shard} does not end properly after byte {position}: it is damaged. {_FIX}")


def group_samples(members: Iterator[Member], shard: str) -> ShardIndex:
    """Group members into samples: the key is the name up to the first dot of its last part, the extension is the rest.

    Raises ValueError for a member twice in a sample and for a key that comes back after another sample.
    """
    keys: list[str] = []
    samples: list[dict[str, Member]] = []
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if not keys or key != keys[-1]:
            keys.append(key)
            samples.append({})
        if extension in samples[-1]:
            raise ValueError(f"shard {shard} has member {member.name!r} twice. {_FIX}")
        samples[-1][extension] = member
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"shard {shard} has sample {twice!r} in two places. {_FIX}")
    return ShardIndex(tuple(keys), tuple(samples))


def _read_manifest(root: Path) -> dict[str, Any]:
    file = root / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{root} has no manifest.json: no shards there, or their rendering was interrupted. "
            f"Run `nmm shards data=world out={root}` (it goes on where it stopped)."
        )
    manifest = json.loads(file.read_text())
    if manifest.get("format") != MANIFEST_FORMAT:
        raise ValueError(f"{file} has format {manifest.get('format')!r}, this version reads {MANIFEST_FORMAT}. {_FIX}")
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    if hashlib.sha256(canonical_json(rest).encode()).hexdigest() != manifest.get("fingerprint"):
        raise ValueError(f"{file} does not match its own fingerprint: it was edited. {_FIX}")
    return manifest


def _split_info(entry: Mapping[str, Any]) -> SplitInfo:
    shards = tuple(
        ShardInfo(shard["path"], shard["samples"], shard["bytes"], shard["sha256"], shard["first_index"])
        for shard in entry["shards"]
    )
    entropy = entry.get("entropy_per_text_token")
    return SplitInfo(entry["samples"], entry["text_tokens"], entry["images"], entropy, shards)


def _parse_header(header: bytes, shard: str, position: int) -> tuple[str, int, bytes]:
    """Name, size in bytes and type of one 512-byte tar header, after checking its checksum."""
    try:
        stored = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int.from_bytes(header[125:136]) if header[124] & 0x80 else int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise ValueError(f"shard {shard} has a damaged header at byte {position}. {_FIX}") from error
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != stored:
        raise ValueError(f"shard {shard} has a damaged header at byte {position}: its checksum is wrong. {_FIX}")
    name = header[:100].split(b"\0", 1)[0].decode()
    prefix = header[345:500].split(b"\0", 1)[0].decode() if header[257:263] == b"ustar\0" else ""
    kind = header[156:157]
    return (f"{prefix}/{name}" if prefix else name), size, REGULAR if kind == b"\0" else kind


def _pax_path(body: bytes) -> str | None:
    """The ``path`` entry of a pax extended header (records are ``<length> <key>=<value>\\n``), None if it has none."""
    while body:
        length = int(body.split(b" ", 1)[0])
        key, _, value = body[:length].split(b" ", 1)[1].partition(b"=")
        if key == b"path":
            return value.rstrip(b"\n").decode()
        body = body[length:]
    return None


def _refuse_unsafe(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where} names {name!r}, which leaves its folder: names must be relative, without '..'")
