"""PNG files without a compressor: small noisy pictures hardly shrink, and the bytes depend on no zlib version."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_STORED = 65_535


def _block(kind: bytes, payload: bytes) -> bytes:
    body = kind + payload
    return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))


def _stored(payload: bytes) -> bytes:
    """A zlib stream of uncompressed blocks (RFC 1950 and 1951)."""
    parts = [b"\x78\x01"]
    for start in range(0, len(payload), _MAX_STORED):
        piece = payload[start : start + _MAX_STORED]
        final = start + _MAX_STORED >= len(payload)
        parts.append(struct.pack("<BHH", final, len(piece), 0xFFFF ^ len(piece)) + piece)
    parts.append(struct.pack(">I", zlib.adler32(payload)))
    return b"".join(parts)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of an RGB image, uint8 of shape (height, width, 3)."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = image.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + _block(b"IHDR", header) + _block(b"IDAT", _stored(rows.tobytes())) + _block(b"IEND", b"")
