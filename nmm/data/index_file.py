"""The index of one shard: a small file beside it that says where every sample's bytes lie and how long it is.

    NAME.<tokenizer8>.index      8 bytes magic, 4 of the CRC-32 and 4 of the length of the header, the header
                                 (canonical JSON, padded to 64 bytes), then the arrays it lists, padded likewise

Shape legend: n samples of a shard (quarantined ones included), S segments and m members of all of them.

An index is made once per shard and tokenizer and memory-mapped by whoever trains, so ten million samples open at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nmm.config import canonical_json
from nmm.data.reasons import REASONS
from nmm.record import write_atomic

INDEX_FORMAT = 1
MAGIC = b"nmmindex"
ALIGN = 64
IMAGE_SEGMENT = -1
KINDS = ("caption", "interleaved", "text")

SAMPLE_ROW = np.dtype(
    [
        ("id", "<u8"),  # digest of shard fingerprint and key: unique over all shards
        ("key_hash", "<u8"),  # digest of the key alone: decides the split
        ("digest", "<u8"),  # of the bytes that are delivered (see ``content_digest``): duplicates, changes
        ("reason", "u1"),  # 0: usable; else 1 + its place in REASONS
        ("kind", "u1"),  # its place in KINDS
        ("images", "<u2"),
        ("text_bytes", "<u4"),  # of the text, UTF-8: the caption's length
        ("text_tokens", "<u4"),  # of the text, without the token that ends a document
        ("first_segment", "<u4"),
        ("segments", "<u4"),
        ("first_member", "<u4"),
        ("members", "<u2"),
    ]
)
MEMBER = np.dtype(
    [
        ("name", "<u2"),  # its place in the header's ``names``: the member's name after the key, "jpg", "0.png"
        ("offset", "<u8"),  # of its bytes in the shard
        ("size", "<u8"),
        ("start", "<u8"),  # a line of a jsonl member: where it begins in what the member unpacks to
        ("length", "<u8"),  # and how long it is; else 0 and size
    ]
)


@dataclass(frozen=True)
class ShardIndex:
    """One shard's index, opened. Arrays are memory maps; take them as they are, nobody may write to them.

    ``header``: format, shard (its file name), bytes, sha256, tokenizer (fingerprint), samples, units (usable samples of
    each stretch of the shard that is read together: one, or one for each jsonl member), names, caption_field,
    ``refused``, empty or why the whole shard was left out; and, added on writing, arrays and ``left_out``, what
    ``quarantined`` gives.
    """

    file: Path
    header: Mapping[str, Any]

    @cached_property
    def samples(self) -> np.ndarray:
        """(n,) SAMPLE_ROW."""
        return self._array("samples", SAMPLE_ROW)

    @cached_property
    def segments(self) -> np.ndarray:
        """(S,) int32: text tokens of a stretch of text, or IMAGE_SEGMENT; in the order of the document."""
        return self._array("segments", np.dtype("<i4"))

    @cached_property
    def members(self) -> np.ndarray:
        """(m,) MEMBER."""
        return self._array("members", MEMBER)

    def key(self, sample: int) -> str:
        """The key of sample ``sample`` of this shard."""
        first, last = self._array("key_ends", np.dtype("<u4"))[sample : sample + 2].tolist()
        return bytes(self._array("keys", np.dtype("u1"))[first:last]).decode()

    def quarantined(self) -> dict[str, int]:
        """Reason -> samples that are left out for it."""
        return dict(self.header["left_out"])

    def _array(self, name: str, dtype: np.dtype) -> np.ndarray:
        place = self.header["arrays"][name]
        size = place["count"] * dtype.itemsize
        return self._map[place["offset"] : place["offset"] + size].view(dtype)

    @cached_property
    def _map(self) -> np.ndarray:
        """All bytes of the file: one map for all arrays, as each takes one of the files a process may have open."""
        return np.memmap(self.file, np.uint8, "r")


def index_path(shard: Path, tokenizer: str, folder: Path | None = None) -> Path:
    """Where the index of a shard lies for a tokenizer's fingerprint: beside it, or in ``folder``.

    There its name starts with a digest of the shard's own folder, so that shards of one name do not meet.
    """
    name = f"{shard.name}.{tokenizer[:8]}.index"
    if folder is None:
        return shard.with_name(name)
    place = hashlib.sha256(os.path.abspath(shard.parent).encode()).hexdigest()[:8]
    return folder / f"{place}.{name}"


def write_index(file: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], keys: list[str]) -> None:
    """Write an index in one rename. ``arrays``: samples, segments, members; ``header`` as ShardIndex says."""
    encoded = [key.encode() for key in keys]
    ends = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    blob = np.frombuffer(b"".join(encoded), "u1")
    everything = {**arrays, "key_ends": ends, "keys": blob}
    bodies, places, offset = [], {}, 0
    for name, array in everything.items():
        data = np.ascontiguousarray(array).tobytes()
        places[name] = {"offset": offset, "count": len(array), "crc32": zlib.crc32(data)}
        bodies.append(data + bytes(-len(data) % ALIGN))
        offset += len(bodies[-1])
    body = b"".join(bodies)
    full = {
        **header,
        "left_out": left_out(arrays["samples"]),
        "format": INDEX_FORMAT,
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "body_bytes": len(body),
    }
    head = _padded_header({**full, "arrays": places})
    write_atomic(file, lambda out: out.write(head + body))


def left_out(samples: np.ndarray) -> dict[str, int]:
    """Reason -> how many of the (n,) SAMPLE_ROW are left out for it."""
    counts = np.bincount(samples["reason"], minlength=1 + len(REASONS))[1:].tolist()
    return {reason: count for reason, count in zip(REASONS, counts, strict=True) if count}


def read_index(file: Path, verify: bool = True) -> ShardIndex:
    """Open an index; ``verify`` reads its whole table of samples.

    Raises ValueError for another format, a cut file or a damaged table of samples.
    """
    with open(file, "rb") as handle:
        start = handle.read(16)
        checksum, length = int.from_bytes(start[8:12], "little"), int.from_bytes(start[12:16], "little")
        text = handle.read(length) if start[:8] == MAGIC and length < 1 << 28 else b""
        size = os.fstat(handle.fileno()).st_size
    try:
        if zlib.crc32(text) != checksum:
            raise ValueError("its header is damaged")
        header = json.loads(text)
        begin = 16 + length
        complete = size == begin + header["body_bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not an index of a shard: delete it and run `nmm index` again") from error
    if header["format"] != INDEX_FORMAT:
        raise ValueError(f"{file} has format {header['format']}, this version reads {INDEX_FORMAT}: `nmm index` again")
    if not complete:
        raise ValueError(f"{file} is cut ({size} bytes): delete it and run `nmm index` again")
    places = {name: {**place, "offset": place["offset"] + begin} for name, place in header["arrays"].items()}
    index = ShardIndex(file, {**header, "arrays": places})
    if verify and zlib.crc32(index.samples.view(np.uint8).data) != places["samples"]["crc32"]:
        raise ValueError(f"{file} is damaged: delete it and run `nmm index` again")
    return index


def check_index(index: ShardIndex) -> None:
    """Compare all its bytes with their checksum; ``read_index`` does so for the table of samples only.

    Raises ValueError for a damaged index.
    """
    size = index.header["body_bytes"]
    with open(index.file, "rb") as handle:
        handle.seek(-size, os.SEEK_END)
        if hashlib.sha256(handle.read()).hexdigest() != index.header["body_sha256"]:
            raise ValueError(f"{index.file} is damaged: delete it and run `nmm index` again")


def content_digest(parts: list[bytes]) -> int:
    """64-bit digest of the bytes a sample delivers: its members as they lie in the shard, lengths included."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest()[:8], "little")


def text_digest(*parts: str) -> int:
    """64-bit digest of a sample's key (and what stands before it)."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little")


def _padded_header(header: Mapping[str, Any]) -> bytes:
    text = canonical_json(header).encode()
    text += b" " * (-(16 + len(text)) % ALIGN)
    return MAGIC + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
