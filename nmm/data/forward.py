"""A file read once from front to end by whoever slices it, and hashed on the way. No memory map: a shard that shrinks
while it is read must be an error, and reading a map beyond the end kills the process.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

PIECE = 1 << 20


class ForwardFile:
    """``file[a:b]`` is its bytes. Slices that move forward cost one read of the file; one that looks back, another.

    A context manager. Reading raises ValueError when the file gets shorter or is empty, OSError when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self.before = os.fstat(self._file.fileno())
        self._piece, self._start, self._end = b"", 0, 0
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> ForwardFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.before.st_size

    def __getitem__(self, key: slice, /) -> bytes:
        size = self.before.st_size
        first = key.start or 0
        last = size if key.stop is None or key.stop > size else key.stop
        if first < self._start:
            return self._pread(first, last - first)
        if last > self._end:
            self._go_on(first, last)
        return self._piece[first - self._start : last - self._start]

    def finish(self) -> str:
        """The sha256 of the whole file. Raises ValueError when it was changed since it was opened."""
        while self._end < len(self):
            self._go_on(self._end, self._end + 1)
        after, before = os.stat(self.path), self.before
        if (after.st_size, after.st_mtime_ns, after.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino):
            raise ValueError(f"shard {self.path} was changed while it was read: index it when nobody writes to it")
        return self._sha256.hexdigest()

    def _go_on(self, first: int, last: int) -> None:
        """Read at least up to ``last``, keep what is not before ``first``."""
        kept = self._piece[first - self._start :] if first < self._end else b""
        size = min(max(PIECE, last - self._end), len(self) - self._end)
        new = self._pread(self._end, size)
        self._sha256.update(new)
        whole = kept + new
        self._end += size
        skipped = max(0, first - (self._end - len(whole)))
        self._piece, self._start = whole[skipped:], self._end - len(whole) + skipped

    def _pread(self, offset: int, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = os.pread(self._file.fileno(), size, offset)
            if not piece:
                raise ValueError(f"shard {self.path} got shorter while it was read: {len(self)} bytes at first")
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
