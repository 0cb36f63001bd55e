"""Tar files read without extracting: a header walk that refuses what a plain reader skips in silence.

A plain tar reader stops at the first block it cannot read and delivers fewer samples; this one refuses an archive that
ends early, holds damaged headers, links or devices, or names that leave the folder.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

BLOCK = 512
ZEROS = bytes(BLOCK)
HEADER = struct.Struct("100s 24x 12s 12x 8s 1s 100x 6s 82x 155s 12x")  # name, size, checksum, type, magic, prefix
_FIX = "Render or copy the shards again."
REGULAR, FOLDER, PAX, PAX_GLOBAL, GNU_NAME = b"0", b"5", b"x", b"g", b"L"

MAX_NAME_RECORD = 1 << 16  # bytes of a pax or GNU record of names; real ones have hundreds

Bytes: TypeAlias = bytes | mmap.mmap


class Sliced(Protocol):
    """What a walk reads from: bytes, a map, or a file that hands out slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


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


def walk_tar(data: Sliced, shard: str) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in archive order. ``shard`` is the name used in errors.

    Understands ustar, GNU and pax names. Raises nothing but ValueError: for a damaged header, a missing end, bytes
    after the end, a link or device, and a name that is absolute or contains ``..``.
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
        if kind in (GNU_NAME, PAX):
            long_name = _long_name(kind, data[body : body + min(size, MAX_NAME_RECORD + 1)], shard, body) or long_name
        elif kind == REGULAR:
            name, long_name = long_name or name, None
            refuse_unsafe(name, shard)
            yield Member(name, body, size)
        elif kind not in (FOLDER, PAX_GLOBAL):
            raise ValueError(f"shard {shard} has member {name!r} of type {kind!r}: links and devices are refused.")
    rest = range(position, len(data), 1 << 20)
    if len(data) < position + 2 * BLOCK or any(data[at : at + (1 << 20)].strip(b"\0") for at in rest):
        raise ValueError(f"shard {shard} does not end properly after byte {position}: it is damaged. {_FIX}")


def stream_samples(members: Iterator[Member], shard: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield (key, extension -> Member) of each sample as soon as it is complete.

    The key is the name up to the first dot of its last part, the extension is the rest. Raises ValueError for a member
    twice in a sample and for a key that comes back after another sample.
    """
    key, sample = "", dict[str, Member]()
    seen: set[str] = set()
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        own = f"{folder}/{stem}" if folder else stem
        if own != key or not sample:
            if sample:
                yield key, sample
            if own in seen:
                raise ValueError(f"shard {shard} has sample {own!r} in two places. {_FIX}")
            seen.add(own)
            key, sample = own, {}
        if extension in sample:
            raise ValueError(f"shard {shard} has member {member.name!r} twice. {_FIX}")
        sample[extension] = member
    if sample:
        yield key, sample


def group_samples(members: Iterator[Member], shard: str) -> TarSamples:
    """All samples of ``stream_samples``, which says what it raises."""
    samples = list(stream_samples(members, shard))
    return TarSamples(tuple(key for key, _ in samples), tuple(found for _, found in samples))


def _parse_header(header: bytes, shard: str, position: int) -> tuple[str, int, bytes]:
    """Name, size in bytes and type of one 512-byte tar header, after checking its checksum."""
    raw_name, raw_size, raw_sum, kind, magic, raw_prefix = HEADER.unpack(header)
    try:
        stored = _octal(raw_sum)
        size = int.from_bytes(raw_size[1:]) if raw_size[0] & 0x80 else _octal(raw_size)
    except ValueError as error:
        raise ValueError(f"shard {shard} has a damaged header at byte {position}. {_FIX}") from error
    if sum(header) - sum(raw_sum) + 8 * ord(" ") != stored:
        raise ValueError(f"shard {shard} has a damaged header at byte {position}: its checksum is wrong. {_FIX}")
    try:
        name = raw_name.partition(b"\0")[0].decode()
        prefix = raw_prefix.partition(b"\0")[0].decode() if magic == b"ustar\0" else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"shard {shard} has a member at byte {position} whose name is not UTF-8. {_FIX}") from error
    return (f"{prefix}/{name}" if prefix else name), size, REGULAR if kind == b"\0" else kind


def _octal(field: bytes) -> int:
    """A number of a header; unlike ``int`` it knows no sign, which would send the walk back."""
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit():
        raise ValueError(f"{field!r} is not a number")
    return int(digits, 8)


def _long_name(kind: bytes, body: bytes, shard: str, position: int) -> str | None:
    """The name that a GNU or pax record gives to the member after it, None if it gives none."""
    try:
        if len(body) > MAX_NAME_RECORD:
            raise ValueError("it is too long")
        name = body.rstrip(b"\0").decode() if kind == GNU_NAME else _pax_path(body)
        if name is not None and "\0" in name:
            raise ValueError("it holds a NUL")
    except (ValueError, IndexError) as error:
        raise ValueError(f"shard {shard} has a damaged record of names at byte {position}: {error}. {_FIX}") from error
    return name


def _pax_path(body: bytes) -> str | None:
    """The ``path`` entry of a pax extended header (records are ``<length> <key>=<value>\\n``), None if it has none."""
    start = 0
    while start < len(body):
        length = int(body[start : start + 20].split(b" ", 1)[0])
        if length < 1:
            raise ValueError(f"a record of {length} bytes")
        key, _, value = body[start : start + length].split(b" ", 1)[1].partition(b"=")
        if key == b"path":
            return value.rstrip(b"\n").decode()
        start += length
    return None


def refuse_unsafe(name: str, where: str) -> None:
    if ".." not in name and not name.startswith("/") and name.strip("./"):
        return  # what nearly every name is, without the cost of taking it apart
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where} names {name!r}, which leaves its folder: names must be relative, without '..'")
