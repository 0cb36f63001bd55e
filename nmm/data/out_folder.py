"""A folder that one command fills, piece by piece, and goes on with after it was stopped.

``plan.json`` says what the folder is for and is written first; a folder with other contents is never touched.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from nmm.config import canonical_json
from nmm.data.records import write_atomically

PLAN = "plan.json"


def refuse_strangers(out: Path) -> None:
    """Raise ValueError if `out` holds files but no plan: somebody else's folder."""
    if out.exists() and not (out / PLAN).exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and was not made by this command (no {PLAN}); choose another folder")


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the folder's lock, so that a second call waits and then finds everything finished."""
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in out.glob("**/.*.tmp-*"):  # of a run that was killed: nobody else holds the lock
            leftover.unlink()
        yield


def claim(out: Path, wanted: Mapping[str, Any]) -> None:
    """Write the plan, or check that the one that is there asks for the same. Raises ValueError if it does not."""
    path = out / PLAN
    if not path.exists():
        write_atomically(path, canonical_json(wanted).encode())
        return
    differing = _differences(json.loads(path.read_text()), wanted)
    if differing:
        raise ValueError(
            f"{out} holds shards of other parameters ({'; '.join(differing)}); choose another folder or delete this one"
        )


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Readable list of the leaves in which two nested mappings differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(set(found) | set(wanted))
        return [line for key in keys for line in _differences(found.get(key), wanted.get(key), f"{name}.{key}")]
    return [] if found == wanted else [f"{name.lstrip('.')} is {found}, asked for {wanted}"]


class _Rate(ProgressColumn):
    """Samples a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} samples/s" if task.speed else "")


def progress_bar(show: bool) -> Progress:
    """A bar that counts samples."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not show)
