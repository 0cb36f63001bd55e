"""One process working on one run: its directory, lock, metrics, log and checkpoints."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from nmm.record.files import file_sha256, write_atomic, write_json

KEEP_CHECKPOINTS = 2


@dataclass
class Attempt:
    """One process working on one run. Everything it writes lies in its own directory."""

    path: Path
    _lock: IO[str]
    _metrics: IO[str]

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and flush it."""
        self._metrics.write(json.dumps(values, allow_nan=False) + "\n")
        self._metrics.flush()

    def log(self, text: str) -> None:
        """Append one line with the time (UTC) to log.txt."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")

    def save_checkpoint(self, step: int, writer: Callable[[BinaryIO], Any], pinned: tuple[int, ...] = ()) -> Path:
        """Write, checksum and rename a checkpoint; keep the newest two and every ``pinned`` step."""
        folder = self.path / "checkpoints"
        path = folder / f"step-{step:09d}.pt"
        write_atomic(path, writer)
        write_json(path.with_suffix(".json"), {"step": step, "bytes": path.stat().st_size, "sha256": file_sha256(path)})
        old = [s for s in checkpoint_steps(folder) if s not in pinned][:-KEEP_CHECKPOINTS]
        for stale in old:
            (folder / f"step-{stale:09d}.json").unlink()
            (folder / f"step-{stale:09d}.pt").unlink(missing_ok=True)
        return path

    def end(self, status: str, detail: str = "") -> None:
        """Say how the attempt ended, then let go of its lock."""
        self.log(f"ended: {status}")
        write_json(self.path / "ended.json", {"status": status, "detail": detail})
        self.close()

    def close(self) -> None:
        """Close files and release the lock."""
        self._metrics.close()
        self._lock.close()


def begin_attempt(run: Path) -> Attempt:
    """Take the next free attempt number with mkdir; the number can never be taken twice."""
    folder = run / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
    while True:
        path = folder / f"{number:04d}"
        try:
            path.mkdir()
            break
        except FileExistsError:
            number += 1
    lock = open(path / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held open for the life of the attempt
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(str(os.getpid()))
    lock.flush()
    return Attempt(path, lock, open(path / "metrics.jsonl", "a", encoding="utf-8"))  # noqa: SIM115


def attempts(run: Path) -> list[Path]:
    """Attempt directories, oldest first."""
    folder = run / "attempts"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit())


def is_alive(attempt: Path) -> bool:
    """True while the process that made the attempt holds its lock (this machine or a lock-aware shared disk)."""
    with contextlib.suppress(FileNotFoundError), open(attempt / "lock", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a checkpoints/ folder, ascending, whether they verify or not."""
    return sorted(int(p.stem.split("-")[1]) for p in folder.glob("step-*.json"))
