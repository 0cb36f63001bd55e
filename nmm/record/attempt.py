"""One process working on one run: its directory, lock, metrics, log and checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from nmm.record.ending import CAUSES
from nmm.record.files import RecordError, is_abandoned, write_json
from nmm.record.made import SAVED, attempts, is_over
from nmm.record.owner import this_process
from nmm.record.saved import checkpoint_steps, remove_checkpoint, remove_unfinished, write_checkpoint

KEEP_CHECKPOINTS = 2
RESERVE_BYTES = 1 << 14  # let go at the end, so that a full disk can still be told of
DETAIL_CHARACTERS = 8000


@dataclass
class Attempt:
    """One process working on one run. Everything it writes lies in its own directory."""

    path: Path
    _lock: IO[str]
    _metrics: BinaryIO
    _saved: list[int] = field(default_factory=list)

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl: whole, or not at all and OSError."""
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        before = os.fstat(self._metrics.fileno()).st_size
        try:
            while line:  # a disk that becomes full takes a part of it, and says so at the next write
                line = line[self._metrics.write(line) :]
        except OSError:
            os.ftruncate(self._metrics.fileno(), before)
            raise

    def log(self, text: str) -> None:
        """Append one line with the time (UTC) to log.txt."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")

    def save_checkpoint(self, step: int, writer: Callable[[Any], Any], pinned: tuple[int, ...] = ()) -> Path:
        """Write, verify and rename a checkpoint; keep the newest two and every ``pinned`` step.

        Once two of this attempt's own are there, what earlier attempts left is deleted, see ``_drop_earlier``. Raises
        OSError when it cannot be written; the checkpoints from before are then as they were.
        """
        folder = self.path / "checkpoints"
        path = write_checkpoint(folder, step, writer)
        self._saved.append(step)
        with contextlib.suppress(OSError):  # only a mark, see ``made.has_saved``
            (self.path / SAVED).touch()
        for stale in [s for s in checkpoint_steps(folder) if s not in pinned][:-KEEP_CHECKPOINTS]:
            remove_checkpoint(folder, stale)
        self._drop_earlier(pinned)
        return path

    def _drop_earlier(self, pinned: tuple[int, ...]) -> None:
        """Delete checkpoints of earlier attempts that are over, up to the older of the two this one would go on from.

        Those of an attempt that may still live stay: it goes on from its memory and deletes its own. Those of a higher
        step stay too, they are work that this attempt has not done yet.
        """
        if len(self._saved) < KEEP_CHECKPOINTS:
            return
        for earlier in attempts(self.path.parent.parent):
            folder = earlier / "checkpoints"
            passed = [s for s in checkpoint_steps(folder) if s <= self._saved[-KEEP_CHECKPOINTS] and s not in pinned]
            if passed and earlier.name < self.path.name and is_over(earlier):
                for step in passed:
                    remove_checkpoint(folder, step)

    def end(self, status: str, detail: str = "", cause: str = "") -> None:
        """Say how the attempt ended, and of what (one of ``CAUSES``, or nothing), then let go of its lock."""
        assert cause in ("", *CAUSES), cause
        if len(detail) > DETAIL_CHARACTERS:
            half = DETAIL_CHARACTERS // 2
            detail = f"{detail[:half]}\n[...]\n{detail[-half:]}"
        try:
            (self.path / "reserve").unlink(missing_ok=True)
            write_json(self.path / "ended.json", {"status": status, "cause": cause, "detail": detail})
            with contextlib.suppress(OSError):  # the same is in ended.json, and there may be room for no more
                self.log(f"ended: {status}{cause and f' ({cause})'}")
        finally:
            self.close()

    def close(self) -> None:
        """Close files and release the lock."""
        self._metrics.close()
        self._lock.close()
        _LOCKS.discard(self._lock)


# a fork (a data worker that hangs) shares the lock and would keep it after this process has died
_LOCKS: set[IO[str]] = set()


def _let_go() -> None:
    for lock in _LOCKS:
        lock.close()  # this copy only: the lock itself stays with the process that took it
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


def begin_attempt(run: Path) -> Attempt:
    """Take the next free attempt number with mkdir; the number can never be taken twice.

    What killed attempts left half written is removed. Raises OSError when the directory cannot be written.
    """
    folder = run / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in attempts(run)), default=0)
    while True:
        path = folder / f"{number:04d}"
        try:
            path.mkdir()
            break
        except FileExistsError:
            number += 1
    lock = _locked(path / "lock")
    try:
        write_json(path / "owner.json", this_process())  # after the lock: without an owner it is only being made
        (path / "reserve").write_bytes(bytes(RESERVE_BYTES))
        attempt = Attempt(path, lock, open(path / "metrics.jsonl", "ab", buffering=0))  # noqa: SIM115
        _sweep(attempt)
    except BaseException:
        _LOCKS.discard(lock)
        lock.close()
        raise
    return attempt


def _locked(path: Path) -> IO[str]:
    lock = open(path, "w", encoding="utf-8")  # noqa: SIM115 - held open for the life of the attempt
    _LOCKS.add(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
    except BaseException as error:
        _LOCKS.discard(lock)
        lock.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise RecordError(
                f"{path.parent}: this file system has no file locks ({error.strerror}), by which attempts are told "
                "alive or dead; mount it with them (Lustre: -o flock), or put out= elsewhere"
            ) from error
        raise
    return lock


def _sweep(attempt: Attempt) -> None:
    """Delete what processes that are gone left half written, in the run directory and in their attempts."""
    run = attempt.path.parent.parent
    _remove(attempt, [path for path in run.glob(".*.tmp") if is_abandoned(path.name)])
    for other in attempts(run):
        if other == attempt.path:
            continue
        temporary = [*other.glob(".*.tmp"), *(other / "checkpoints").glob(".*.tmp")]
        if is_over(other):
            with _told(attempt, other):
                stale = remove_unfinished(other / "checkpoints")
                if stale:
                    attempt.log(f"removed what attempt {other.name} left half written: {', '.join(stale)}")
            _remove(attempt, [*temporary, *other.glob("reserve")])
        else:  # a temporary checksum marks a checkpoint as unfinished, so it goes with that only
            _remove(attempt, [path for path in temporary if is_abandoned(path.name) and ".json." not in path.name])


def _remove(attempt: Attempt, stale: list[Path]) -> None:
    for path in stale:
        with _told(attempt, path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(attempt: Attempt, path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:  # another user's: it is in nobody's way
        attempt.log(f"what was left half written in {path} stays: {error}")
