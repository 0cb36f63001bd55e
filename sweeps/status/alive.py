"""Is an attempt still at work? On this machine its lock says so; elsewhere, and when it hangs, what it writes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.status.planned import Planned

SILENT_SECONDS = 600.0  # shorter silences say nothing: start, compilation, evaluation, a checkpoint
SILENT_ROWS = 5.0  # and so many times its usual interval between two rows
SIGNS = ("metrics.jsonl", "log.txt", "owner.json", "checkpoints", ".")


@dataclass(frozen=True)
class Clock:
    """``now``: the time by the clock that dates files; ``own``: the directory is read-only, so it is this machine's."""

    now: float
    own: bool = False


def file_clock(directory: Path) -> Clock:
    """The present by the clock of the file system under ``directory``, whatever this machine's own clock says."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".clock-", suffix=".tmp") as file:
            return Clock(os.stat(file.name).st_mtime)
    except OSError:
        return Clock(time.time(), own=True)  # somebody else's sweep, or a full disk: the page says so


def silent_seconds(attempt: Path, clock: Clock) -> float:
    """How long ago the attempt last wrote anything."""
    newest = 0.0
    for name in SIGNS:
        try:
            newest = max(newest, os.stat(attempt / name).st_mtime)
        except FileNotFoundError:
            continue
    return max(0.0, clock.now - newest)


def patience(rows: Sequence[dict[str, Any]], run: Planned) -> float:
    """Seconds of silence that mean nothing yet, from the newest ``rows`` of its metrics (oldest first)."""
    intervals = []
    for before, row in zip(rows, rows[1:], strict=False):
        speed, steps = row.get("tokens_per_second"), row["step"] - before["step"]
        if isinstance(speed, int | float) and speed > 0 and steps > 0:
            intervals.append(steps * run.tokens_per_step / speed)
    usual = max(intervals, default=run.log_every * run.seconds_per_step)
    return max(SILENT_SECONDS, SILENT_ROWS * usual)
