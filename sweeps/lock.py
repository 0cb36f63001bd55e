"""DIR/launcher/lock: one launcher at a time works on a sweep's directory, and others can tell which."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sweeps.manifest import SweepError

TRIES, PAUSE_SECONDS = 20, 0.05


class LaunchError(SweepError):
    """Another launcher is at work, or workers cannot start."""


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock; ``pid`` means something on ``host`` only. 0 and "": it did not say."""

    host: str
    pid: int

    @property
    def here(self) -> bool:
        """Whether that process is one of this machine."""
        return self.host == socket.gethostname()


@contextlib.contextmanager
def only_launcher(directory: Path) -> Iterator[IO[str]]:
    """Hold the lock; yields its open file, so that a child process can be made to hold it too.

    Raises ``LaunchError`` while another process has it.
    """
    folder = directory / "launcher"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as lock:  # "w" would wipe out what its holder wrote
        if not _take(lock):
            raise LaunchError(
                f"another `nmm sweep launch` is at work on {directory}; follow it with `nmm sweep status {directory}`"
            )
        lock.truncate(0)
        lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        lock.flush()
        yield lock


def _take(lock: IO[str]) -> bool:
    """A look at the lock (``lock_holder``) holds it for a moment, so a refusal counts only when it lasts."""
    for _ in range(TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(PAUSE_SECONDS)
    return False


def lock_holder(directory: Path) -> Holder | None:
    """Who holds the lock now; None when nobody does."""
    path = directory / "launcher" / "lock"
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse(lock.read())
    return None


def _parse(text: str) -> Holder:
    try:
        values = json.loads(text)
        return Holder(str(values["host"]), int(values["pid"]))
    except (ValueError, KeyError, TypeError):  # caught between taking the lock and writing, or an older version's
        return Holder("", 0)
