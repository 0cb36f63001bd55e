"""Tar files with the same bytes every time: POSIX ustar, every free field fixed."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_BLOCK = 512
_RECORD = 20 * _BLOCK
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)  # a plain file, ustar
_AFTER_SUM = sum(_AFTER_CHECKSUM) + sum(b" " * 8)  # the checksum field counts as spaces


class TarWriter:
    """Writes members into an open file, counting and hashing what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._sha256 = hashlib.sha256()

    def add(self, name: str, payload: bytes) -> None:
        """One more member. Raises ValueError for a name of more than 100 characters."""
        self._write(_header(name, len(payload)) + payload + bytes(-len(payload) % _BLOCK))

    def close(self) -> tuple[int, str]:
        """End the archive (the file stays open); returns its size in bytes and its sha256."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._size % _RECORD))
        return self._size, self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)


def _header(name: str, size: int) -> bytes:
    """Owner 0, mode 0644, time 0."""
    if len(name) > 100:
        raise ValueError(f"tar member name {name!r} is longer than 100 characters")
    before = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    return before + b"%06o\0 " % (sum(before) + _AFTER_SUM) + _AFTER_CHECKSUM
