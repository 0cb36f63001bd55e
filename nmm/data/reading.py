"""The bytes of one sample out of a shard that may be slow, changed or gone.

Bytes are read by offset with ``pread`` and compared with the digest the index holds. Nothing is mapped into memory (a
shard cut while it is mapped would kill the process), nothing is unpacked to disk.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.data.formats import line_format
from nmm.data.index_file import ShardIndex, content_digest, read_index
from nmm.data.unpack import unpack

PAUSES = (0.1, 0.5, 2.0)  # seconds before a failed read is tried again
OPEN_SHARDS = 128  # with their indexes: two of the 1,024 files a process may often have open
UNPACKED_BYTES = 512 << 20  # of compressed jsonl members kept by a process


class ShardError(ValueError):
    """A shard is not as it was indexed, or cannot be read; the message says what to do. Nothing is lost: runs go on."""


@dataclass
class OpenShard:
    """A shard with its index, its file opened when first read and again after a failure."""

    path: Path
    index: ShardIndex
    handle: int = -1

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises OSError, also for a short read."""
        if self.handle < 0:
            self.handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(self.handle, size, offset)
        while len(data) < size:
            more = os.pread(self.handle, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"{size} bytes were asked for at {offset}, the file ends after {len(data)}")
            data += more
        return data

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1


@dataclass
class ShardReader:
    """Reads samples of shards by (shard file, index file, place in the index); keeps a few files open.

    All sources of a run share one, however many there are. ``sleep`` waits between tries. A copy in another process
    starts with nothing open.
    """

    sleep: Callable[[float], None] = time.sleep
    _open: OrderedDict[Path, OpenShard] = field(default_factory=OrderedDict)
    _unpacked: OrderedDict[tuple[Path, int], bytes] = field(default_factory=OrderedDict)
    _process: int = field(default_factory=os.getpid)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self.sleep,)

    def shard(self, path: Path, index: Path) -> OpenShard:
        """The opened shard. Raises ShardError when its index cannot be read."""
        if self._process != os.getpid():  # what a forked worker closes here, its parent keeps
            self._open, self._unpacked, self._process = OrderedDict(), OrderedDict(), os.getpid()
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        try:
            self._open[path] = OpenShard(path, read_index(index))
        except (OSError, ValueError) as error:
            raise ShardError(f"the index of {path} cannot be read any more: {error}") from error
        return self._open[path]

    def parts(self, shard: OpenShard, place: int) -> dict[str, bytes]:
        """Member name -> bytes of one sample, as they were when the shard was indexed.

        Raises ShardError when they cannot be read after some tries, or are other bytes by now.
        """
        row = shard.index.samples[place]
        found: str | OSError = ""
        for pause in (*PAUSES, None):
            try:
                parts = self._parts(shard, place)
                if content_digest(list(parts.values())) == row["digest"]:
                    return parts
                found = "its bytes are not those that were indexed"
            except OSError as error:
                found = error
            except ValueError as error:  # of ``unpack``
                found = str(error)
            shard.close()
            for key in [key for key in self._unpacked if key[0] == shard.path]:
                self._unpacked.pop(key)
            if pause is not None:
                self.sleep(pause)
        raise ShardError(_complaint(shard, place, found))

    def _parts(self, shard: OpenShard, place: int) -> dict[str, bytes]:
        row = shard.index.samples[place]
        first = int(row["first_member"])
        names = shard.index.header["names"]
        parts = {}
        for member in shard.index.members[first : first + int(row["members"])].tolist():
            name, (offset, size, start, length) = names[member[0]], member[1:]
            if line_format(name):
                parts["jsonl"] = self._line(shard, name, offset, size, start, length)
            else:
                parts[name] = shard.pread(offset, size)
        return parts

    def _line(self, shard: OpenShard, name: str, offset: int, size: int, start: int, length: int) -> bytes:
        if line_format(name) == "jsonl":
            return shard.pread(offset + start, length)
        key = (shard.path, offset)
        if key not in self._unpacked:
            self._unpacked[key] = unpack(shard.pread(offset, size), name)
            while len(self._unpacked) > 1 and sum(map(len, self._unpacked.values())) > UNPACKED_BYTES:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(key)
        return self._unpacked[key][start : start + length]


def _complaint(shard: OpenShard, place: int, found: str | OSError) -> str:
    where = f"shard {shard.path}, sample {shard.index.key(place)!r}"
    if isinstance(found, FileNotFoundError):
        return f"{where}: the shard has vanished. Put it back and run again: the run goes on where it was"
    if isinstance(found, OSError):
        return (
            f"{where} cannot be read after {len(PAUSES) + 1} tries: {found}. Once it can, run again: the run goes on "
            "where it was"
        )
    return (
        f"{where}: {found}; the shard was changed after `nmm index`. Put the old file back and run again, or index it "
        "again and start a new run"
    )
