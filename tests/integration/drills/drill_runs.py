"""What a run left on disk, and the run that nobody disturbed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drill_processes import Processes
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, ended

STEPS = 24
CHECKPOINT_EVERY = 3
EVALUATE_EVERY = 8

Rows = dict[tuple[int, str], dict[str, Any]]


@dataclass(frozen=True)
class Calm:
    """The run that nobody disturbed: its config, the part of its record that is the result, its rows of metrics."""

    config: RunConfig
    result: dict[str, Any]
    rows: Rows

    def check(self, processes: Processes, disturbed: RunConfig) -> dict[str, Any]:
        """Run ``disturbed`` to its end: it must then be this run, bit for bit. Returns its record."""
        record = processes.finish(disturbed)
        assert record["status"] == "done"
        assert record["result"] == self.result
        assert rows(disturbed) == self.rows
        assert leftovers(disturbed) == []
        return record


def rows(config: RunConfig) -> Rows:
    """(step, kind of row) -> row, without speeds, of whole lines of every attempt. Rows logged twice must agree."""
    found: Rows = {}
    for folder in attempts(run_directory(config)):
        for row in lines_of(folder):
            key = (row["step"], "train" if "train_loss" in row else "held out")
            assert found.setdefault(key, row) == row, f"attempt {folder.name} logged another row {key}"
    return found


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of one attempt's metrics; what a kill or a full disk has cut is left out."""
    file = folder / "metrics.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_per_second")} for line in whole]


def last_step(config: RunConfig) -> int:
    """The last step that any attempt has logged; 0 for none."""
    return max((step for step, _ in rows(config)), default=0)


def leftovers(config: RunConfig) -> list[str]:
    """Temporary files, and checkpoints without a checksum, that nobody has swept up."""
    folder = run_directory(config)
    half = [path for path in folder.rglob("*.pt") if not path.with_suffix(".json").exists()]
    return sorted(str(path.relative_to(folder)) for path in [*folder.rglob("*.tmp"), *half])


def how_it_ended(config: RunConfig) -> tuple[str, str]:
    """(status, cause) that the newest attempt has told; both "" when it could tell nothing."""
    told = ended(attempts(run_directory(config))[-1])
    return (told["status"], told["cause"]) if told else ("", "")


def log_of(config: RunConfig) -> str:
    """log.txt of the newest attempt."""
    return (attempts(run_directory(config))[-1] / "log.txt").read_text()
