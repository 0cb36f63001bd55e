"""Helpers of the tests: files of conf/, run directories, real batches, the `nmm` command line.

Nothing here imports torch at module level, so tests that need none stay fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from nmm.batch import Batch
from nmm.config import RunConfig, run_id

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("caption", "interleaved", "text")
ARCHS = ("early", "late", "moe")
SIZES = tuple(sorted(path.stem for path in (ROOT / "conf" / "size").glob("*.yaml")))


def conf(group: str, option: str) -> dict[str, Any]:
    """One file of conf/ as it stands."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "conf" / group / f"{option}.yaml").read_text())
    return loaded


def run_directory(config: RunConfig) -> Path:
    """Where ``nmm train`` keeps this run."""
    return Path(config.out) / run_id(config)


def train(config: RunConfig) -> dict[str, Any]:
    """Execute a run where the command line would, and return its record."""
    from nmm.training.run import execute

    return execute(config, run_directory(config))


def metrics(config: RunConfig) -> dict[tuple[int, str], dict[str, Any]]:
    """Every row any attempt has logged, without speeds: (step, kind of row) -> row. Rows logged twice must agree."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for file in sorted((run_directory(config) / "attempts").glob("*/metrics.jsonl")):
        for line in file.read_text().splitlines():
            row = {k: v for k, v in json.loads(line).items() if not k.endswith("_per_second")}
            key = (row["step"], "train" if "train_loss" in row else "held out")
            assert rows.setdefault(key, row) == row, f"two attempts logged different rows {key}"
    return rows


def training_batch(config: RunConfig, step: int = 0) -> Batch:
    """The global batch of a step, as torch tensors."""
    from nmm.data.loader import to_torch
    from nmm.training.run import rows_of, shards_of

    rows = config.trainer.rows_per_step
    return to_torch(rows_of(shards_of(config), config).rows_at(step * rows, rows))


def nmm(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The `nmm` command line in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, "-m", "nmm.cli", *arguments],
        cwd=cwd,
        env=child_environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def child_environment() -> dict[str, str]:
    """Environment of a child process that imports this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
