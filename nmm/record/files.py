"""Files that are whole or not there: atomic writes, first-wins placing, JSON, checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

CLAIM_SECONDS = 5.0  # a claim is held for one rename
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL)
DISK_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # full
    *(errno.EROFS, errno.EACCES, errno.EPERM),  # not ours to write
    *(errno.EIO, errno.ESTALE),  # broken
)
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]+)-(?P<pid>\d+)-x[0-9a-f]{8}\.tmp")


class RecordError(RuntimeError):
    """The run directory holds something that must not be there; the message says what and what to do."""


class CheckpointError(RecordError):
    """Checkpoints exist but none verifies: never a silent restart."""


class DiskError(RecordError):
    """The disk is full, may not be written, or gives back something else than was written."""


def write_atomic(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Write through a temporary name in the same directory: synced, then renamed, then the directory synced."""
    with staged(path, writer) as temporary:
        os.replace(temporary, path)
    sync_directory(path.parent)


@contextlib.contextmanager
def staged(path: Path, writer: Callable[[BinaryIO], Any]) -> Iterator[Path]:
    """Written and synced under a temporary name beside ``path``, for the caller to rename or link; else removed.

    The name is no other process's: host and process are in it, on a shared disk the process alone would not do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-x{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def is_abandoned(temporary: str) -> bool:
    """True for a temporary name of ``staged`` whose process was on this machine and is no more."""
    made_by = _TEMPORARY.fullmatch(temporary)
    if made_by is None or made_by["host"] != _host():
        return False
    try:
        os.kill(int(made_by["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place_once(path: Path, value: Any) -> bool:
    """Write JSON to ``path`` unless it is there: False then. Of several processes exactly one gets True.

    By a hard link, which appears whole. Where the file system has none, by a claim beside it, made exclusively: a
    process that dies between the claim and its file leaves ``RecordError`` for the next one, never a second file.
    """
    data = _encoded(value)
    with staged(path, lambda file: file.write(data)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if not _replace_once(temporary, path):
                return False
    sync_directory(path.parent)
    return True


def _replace_once(temporary: Path, path: Path) -> bool:
    claim = path.with_name(f".{path.name}.claim")
    deadline = time.monotonic() + CLAIM_SECONDS
    while not path.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if time.monotonic() > deadline:
                raise RecordError(
                    f"{claim} says that another process is writing {path.name}, which is not there; if none is at "
                    "work on this run, that process died: delete the claim and run again"
                ) from None
            time.sleep(0.05)
            continue
        try:
            if path.exists():  # its writer was done between our look and our claim
                return False
            os.replace(temporary, path)
            return True
        finally:
            claim.unlink()
    return False


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON; NaN and infinities are refused (use None)."""
    data = _encoded(value)
    write_atomic(path, lambda file: file.write(data))


def _encoded(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def read_json(path: Path) -> Any:
    """Parse one JSON file; a half-written or foreign file raises ``RecordError`` naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not valid JSON ({error}); move it away and run again") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
