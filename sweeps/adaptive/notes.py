"""DIR/next/NNNN.json: why the lines of one generation are in the manifest.

{"goal", "budget", "cost", "interval", "expected", "ratio", "repeat_ratio", "blind_ratio",
"fits": {"file", "sha256"}, "notes": [...], "round": number or null, "runs": [{"run_id", "flops"}],
"offers": [{"name", "flops", "runs"}]}. The note is written before its lines, so one whose lines are not in the manifest
is what a killed process left, and counts for nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nmm.record import read_json, write_json
from sweeps.manifest import SweepError

FOLDER = "next"


@contextlib.contextmanager
def only_planner(directory: Path) -> Iterator[None]:
    """One `nmm sweep next` at a time on this machine. Raises ``SweepError`` while another is at work."""
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SweepError(f"another `nmm sweep next` is at work on {directory}; wait for it") from None
        yield


def numbers(directory: Path) -> list[int]:
    """Numbers of the notes there are, rising."""
    return sorted(int(path.stem) for path in (directory / FOLDER).glob("[0-9]*.json") if path.stem.isdecimal())


def write_note(directory: Path, values: Mapping[str, Any]) -> int:
    """Publish under the next number, which only one writer can get; returns the number. Raises ``SweepError``."""
    folder = directory / FOLDER
    number = max(numbers(directory), default=0) + 1
    staged = folder / f".staged-{os.getpid()}.json"
    write_json(staged, dict(values))
    try:
        os.link(staged, folder / f"{number:04d}.json")
    except FileExistsError:
        raise SweepError(
            f"another `nmm sweep next` planned {folder}/{number:04d}.json just now; run it again"
        ) from None
    finally:
        staged.unlink()
    return number


def notes(directory: Path, planned: Collection[str]) -> list[dict[str, Any]]:
    """The notes whose lines are in the manifest, in order. planned: run ids of the manifest."""
    found = [read_json(directory / FOLDER / f"{number:04d}.json") for number in numbers(directory)]
    return [note for note in found if all(run["run_id"] in planned for run in note["runs"])]
