"""Files that are whole or not there: atomic writes, JSON, checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


class RecordError(RuntimeError):
    """The run directory holds something that must not be there; the message says what and what to do."""


class CheckpointError(RecordError):
    """Checkpoints exist but none verifies: never a silent restart."""


def write_atomic(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Write through a temporary name in the same directory: synced, then renamed, then the directory synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON; NaN and infinities are refused (use None)."""
    data = json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()
    write_atomic(path, lambda file: file.write(data))


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
