"""One piece of a manifest, for one task of a job array: level "trunk" first, then level "branch".

Chunk i of a level is its lines [i * size, (i + 1) * size) in manifest order, so every line is in exactly one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from sweeps import manifest
from sweeps.launch import Options, run_entries
from sweeps.manifest import Entry

LEVELS = ("trunk", "branch")


def chunks(entries: Sequence[Entry], level: str, size: int) -> list[list[Entry]]:
    """Cut one level into pieces of ``size`` lines. Runs without a trunk belong to level "trunk".

    Raises ``ConfigError`` for an unknown level or a size below 1.
    """
    if level not in LEVELS:
        raise ConfigError(f"--role {level!r} is not one of {', '.join(LEVELS)}")
    if size < 1:
        raise ConfigError(f"--size {size} must be at least 1")
    lines = [entry for entry in entries if (entry.role == "branch") == (level == "branch")]
    return [lines[start : start + size] for start in range(0, len(lines), size)]


def run_chunk(directory: Path, index: int, size: int, level: str, options: Options, console: Console) -> int:
    """Run chunk ``index`` in its own worker processes. Returns the exit status: 0 only if all its lines are done.

    Several tasks may work on one directory; each run directory fences its own attempts. Raises ``ConfigError`` for an
    index that does not exist.
    """
    directory = directory.absolute()
    entries = manifest.read(directory)
    pieces = chunks(entries, level, size)
    if not 0 <= index < len(pieces):
        raise ConfigError(
            f"--index {index}: {directory} has {len(pieces)} chunks of {size} for level {level} (0-based)"
        )
    (directory / "launcher").mkdir(exist_ok=True)
    return run_entries(directory, entries, pieces[index], options, console)
