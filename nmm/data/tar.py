"""Tar files read without extracting: a header walk that refuses what a plain reader skips in silence.

A plain tar reader stops at the first block it cannot read and delivers fewer samples; this one refuses an archive that
ends early, holds damaged headers, links or devices, or names that leave the folder.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

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
class TarSamples:
    """The samples of one tar, in archive order; ``members[i]`` maps extension (``"png"``, ``"0.png"``) to Member."""

    keys: tuple[str, ...]
    members: tuple[Mapping[str, Member], ...]


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
            refuse_unsafe(name, shard)
            yield Member(name, body, size)
        elif kind not in (FOLDER, PAX_GLOBAL):
            raise ValueError(f"shard {shard} has member {name!r} of type {kind!r}: links and devices are refused.")
    if len(data) < position + 2 * BLOCK or data[position:].strip(b"\0"):
        raise ValueError(f"shard {shard} does not end properly after byte {position}: it is damaged. {_FIX}")


def group_samples(members: Iterator[Member], shard: str) -> TarSamples:
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
    return TarSamples(tuple(keys), tuple(samples))


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


def refuse_unsafe(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where} names {name!r}, which leaves its folder: names must be relative, without '..'")
