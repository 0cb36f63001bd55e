"""What a compressed jsonl member holds, up to a limit: a few kilobytes can spell gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import zstandard

MAX_UNPACKED = 1 << 30  # bytes of one member
MAX_RATIO = 256  # of unpacked to packed, beyond the first megabyte; text has 3 to 20
_WINDOW = 1 << 27  # what zstd --long asks for
_PIECE = 1 << 12  # of packed bytes: what zstd makes of them at most still fits in memory


def unpack(data: bytes, form: str) -> bytes:
    """The bytes of a jsonl member; ``form`` is one of ``nmm.data.formats.LINES``.

    Raises ValueError for one that is cut or damaged, or gets larger than MAX_UNPACKED or MAX_RATIO allow.
    """
    limit = min(MAX_UNPACKED, (1 << 20) + MAX_RATIO * len(data))
    match form:
        case "jsonl.gz":
            pieces = _gunzip(data, limit)
        case "jsonl.zst":
            pieces = _unzstd(data)
        case _:
            pieces = iter((data,))
    found, size = [], 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > limit:
                break
            found.append(piece)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise ValueError(f"it does not unpack, it is cut or damaged: {error}") from error
    if size > limit:
        raise ValueError(
            f"it unpacks to more than {limit:,} bytes and is refused: allowed are {MAX_RATIO} times its size, and "
            f"{MAX_UNPACKED:,} bytes; split it into smaller members"
        )
    return b"".join(found)


def lines(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(number from 1, start, length) of the lines of ``data`` that are not blank, without their ends."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        if data[start:end].strip():
            yield number, start, end - start
        start = end + 1


def _gunzip(data: bytes, limit: int) -> Iterator[bytes]:
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        yield unpacker.decompress(data, limit + 1)
        if not unpacker.eof:
            if unpacker.unconsumed_tail:
                return  # the limit was reached
            raise EOFError("the end is missing")
        data = unpacker.unused_data.lstrip(b"\0")


def _unzstd(data: bytes) -> Iterator[bytes]:
    """All frames, one after the other, as pzstd writes them."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    unpacker = decompressor.decompressobj()
    at = 0
    while at < len(data):
        piece = data[at : at + _PIECE]
        yield unpacker.decompress(piece)
        at += len(piece)
        if unpacker.eof and (at := at - len(unpacker.unused_data)) < len(data):
            unpacker = decompressor.decompressobj()
    if not unpacker.eof:
        raise EOFError("the end is missing")
