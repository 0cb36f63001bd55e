"""How large the pictures of a shard are: a small file beside its index, which tiling needs before a picture is read.

    NAME.<tokenizer8>.sizes      8 bytes magic, 32 of the shard's sha256, 4 of the CRC-32 of the rest, then (k, 2) <u2

Shape legend: k pictures of all usable samples of a shard, in the order of its index's segments.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from nmm.data.index_file import IMAGE_SEGMENT, ShardIndex
from nmm.record import write_atomic

MAGIC = b"nmmsizes"
HEAD = len(MAGIC) + 32 + 4
SIZE = np.dtype("<u2")  # nmm.data.image_header allows no side of 65,536 pixels or more


def sizes_path(index: Path) -> Path:
    """Where the sizes of an indexed shard's pictures lie."""
    return index.with_suffix(".sizes")


def write_sizes(index: Path, sizes: np.ndarray, sha256: str) -> None:
    """Write (k, 2) widths and heights of upright pictures beside an index of the shard with this ``sha256``."""
    body = np.ascontiguousarray(sizes, SIZE).tobytes()
    head = MAGIC + bytes.fromhex(sha256) + zlib.crc32(body).to_bytes(4, "little")
    write_atomic(sizes_path(index), lambda out: out.write(head + body))


def read_sizes(index: ShardIndex) -> np.ndarray:
    """(k, 2) widths and heights of the pictures of an index; none where it has no pictures.

    Raises ValueError, with the command that helps, when they were not kept, or are not of this index.
    """
    pictures = int((np.asarray(index.segments) == IMAGE_SEGMENT).sum())
    if not pictures:
        return np.zeros((0, 2), SIZE)
    file = sizes_path(index.file)
    content = file.read_bytes() if file.is_file() else b""
    body = content[HEAD:]
    fits = (
        content[: len(MAGIC)] == MAGIC
        and content[len(MAGIC) : HEAD - 4].hex() == index.header["sha256"]
        and int.from_bytes(content[HEAD - 4 : HEAD], "little") == zlib.crc32(body)
        and len(body) == 2 * SIZE.itemsize * pictures
    )
    if not fits:
        raise ValueError(
            f"{file} does not hold the sizes of the {pictures:,} pictures that {index.file.name} lists, and data.tiles "
            "needs them: run `nmm index` on the shard again"
        )
    return np.frombuffer(body, SIZE).reshape(-1, 2)
