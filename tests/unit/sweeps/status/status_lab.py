"""A planned sweep whose run directories are made of files, as runs in every state would leave them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.record import Attempt, begin_attempt, publish, read_json, write_json
from sweeps.manifest import Entry
from sweeps.status import Reader, Report
from sweeps.status.states import RunState

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    g()\n'
ELSEWHERE = {"host": "another-machine", "pid": 7, "boot": "b", "started": "2026-01-01T00:00:00Z"}


@dataclass
class Lab:
    """Entries: two trunks, then their two branches each."""

    directory: Path
    entries: list[Entry]
    held: list[Attempt] = field(default_factory=list)

    def run(self, number: int) -> Path:
        return self.directory / self.entries[number].run_id

    def attempt(self, number: int, steps: range = range(0), **values: Any) -> Attempt:
        """An attempt at work, with a row of metrics for each of ``steps``."""
        made = begin_attempt(self.run(number))
        for step in steps:
            made.log_metrics({"step": step, "train_loss": 3.0 - step / 1000, "tokens_per_second": 2560.0, **values})
        self.held.append(made)
        return made

    def failed(self, number: int, cause: str, error: str, steps: range = range(0)) -> None:
        self.attempt(number, steps).end("failed", TRACEBACK + error + "\n", cause)

    def killed(self, number: int, steps: range = range(0)) -> Path:
        """Ended without a word."""
        made = self.attempt(number, steps)
        made.close()
        return made.path

    def finish(self, number: int, status: str = "done", steps: range = range(0), **result: Any) -> None:
        config, made = self.entries[number].config, self.attempt(number, steps)
        record = {
            "run_id": self.entries[number].run_id, "status": status, "steps": config.total_steps,
            "arch": config.arch.name, "size": config.size.name, "tokens_per_second": 1e6,
            "result": {"loss": {"avg": 2.0}, **result},
        }  # fmt: skip
        publish(self.run(number), made, record)
        made.end(status)

    def elsewhere(self, number: int, steps: range = range(0), slurm: dict[str, Any] | None = None) -> Path:
        """At work on a machine whose locks do not reach us."""
        path = self.killed(number, steps)
        write_json(path / "owner.json", {**ELSEWHERE, "slurm": slurm})
        return path

    def report(self) -> Report:
        return Reader(self.directory).read()

    def state(self, number: int) -> RunState:
        return self.report().states[number]

    def submission(self, runs: list[str], job: str = "4000") -> Path:
        """Handed to SLURM as one array of one task; returns that task's log."""
        folder = self.directory / "launcher" / "slurm"
        values = {"name": "toy-0001", "job": job, "level": "trunk", "chunks": [runs], "options": {}}
        write_json(folder / "0001.json", values)
        return folder / "0001-0.log"


def age(attempt: Path, seconds: float) -> None:
    """As if everything in it had been written so long before the newest file of the file system."""
    for path in (*attempt.iterdir(), attempt):
        before = path.stat().st_mtime - seconds
        os.utime(path, (before, before))


def damaged(path: Path) -> None:
    read_json(path)
    path.write_text(path.read_text()[:20])
