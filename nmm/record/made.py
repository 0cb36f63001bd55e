"""Which attempts a run has, which of them still work on it, and which certainly never will again."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path

from nmm.record.files import RecordError
from nmm.record.owner import owner, this_process

SAVED = "saved"  # in an attempt's directory once it has written a checkpoint; stays when that is cleared away


def has_saved(attempt: Path) -> bool:
    """Whether the attempt wrote a checkpoint, even one that a later attempt has cleared away since."""
    return (attempt / SAVED).exists()


def attempts(run: Path) -> list[Path]:
    """Attempt directories, oldest first. Raises ``RecordError`` for a link: attempts are written and cleared away."""
    folder = run / "attempts"
    if not folder.is_dir():
        return []
    found = sorted(p for p in folder.iterdir() if p.name.isdigit())
    for path in (folder, *found):
        if path.is_symlink():
            raise RecordError(f"{path} is a link; a run writes in its own directory only: put the real one there")
    return found


def is_alive(attempt: Path) -> bool:
    """True while the process that made the attempt holds its lock (this machine or a lock-aware shared disk)."""
    with contextlib.suppress(FileNotFoundError), open(attempt / "lock", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_over(attempt: Path) -> bool:
    """True when nobody can write into the attempt any more: it says it has ended, or its process on this machine died,
    at the latest as the machine was started anew.

    Of another machine's process a free lock proves nothing (not every shared disk passes locks on), and an attempt
    without an owner is only being made: both count as not over.
    """
    if (attempt / "ended.json").exists():
        return True
    try:
        whose = owner(attempt)
    except RecordError:
        return False
    here = this_process()
    if whose is None or not (here["boot"] and whose["boot"]) or whose["host"] != here["host"]:
        return False
    return not is_alive(attempt)
