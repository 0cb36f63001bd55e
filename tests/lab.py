"""Helpers of the tests: tiny shards, configs on them, run directories, real batches, the `nmm` command line.

Nothing here imports torch at module level, so tests that need none stay fast.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from nmm.batch import Batch
from nmm.config import RunConfig, from_dict, run_id
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.resolve import finalize

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("caption", "interleaved", "text")
ARCHS = ("early", "late", "moe")
ALL_ARCHS = tuple(sorted(p.stem for p in (ROOT / "conf" / "arch").glob("*.yaml") if p.stem != "from_start"))
SIZES = tuple(sorted(path.stem for path in (ROOT / "conf" / "size").glob("d*.yaml")))  # the CPU ladder
PAPER_SIZES = tuple(
    sorted(p.stem for p in (ROOT / "conf" / "size").glob("*.yaml") if not p.stem.startswith(("d", "from")))
)


@functools.cache
def _file(path: str) -> Any:
    return yaml.safe_load((ROOT / "conf" / f"{path}.yaml").read_text())


def conf(group: str, option: str) -> dict[str, Any]:
    """One file of conf/ as it stands."""
    loaded: dict[str, Any] = copy.deepcopy(_file(f"{group}/{option}"))
    return loaded


def composed(**options: str) -> dict[str, Any]:
    """What Hydra composes for options of groups, ``composed(arch="moe", size="932m")``, by plain merging: 100x faster.

    A file that chooses options of other groups (a size of the paper) yields to ``options``, as to the command line.
    ``test_conf`` holds a sample of it to Hydra.
    """
    root = copy.deepcopy(_file("config"))
    chosen: dict[str, str] = {}
    for entry in root.pop("defaults"):
        chosen |= (
            {k: v for k, v in entry.items() if v and not k.startswith("override")} if isinstance(entry, dict) else {}
        )
    root.pop("hydra")
    chosen |= options
    for group in tuple(chosen):
        for entry in conf(group, chosen[group]).get("defaults", []):
            if isinstance(entry, dict):
                chosen |= {k.removeprefix("override /"): v for k, v in entry.items()} | options
    for group, option in chosen.items():
        values = conf(group, option)
        bases = [conf(group, base) for base in values.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
        whole = (ROOT / "conf" / group / f"{option}.yaml").read_text().startswith("# @package _global_")
        for part in (*bases, values):
            root = _merged(root, part if whole else {group: part})
    return root


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(v, above[k]) if isinstance(v, dict) and k in above else above.get(k, v) for k, v in below.items()
    }
    return {**above, **both}


def write_tiny_shards(out: Path) -> Path:
    """300 training, 60 validation and 10 test documents of each source of a small world."""
    counts = {source: {"train": 300, "val": 60, "test": 10} for source in SOURCES}
    write_shards(WorldConfig(num_entities=150, name_words=16), out, counts, 128, progress=False)
    return out


def tiny_config_on(shards: Path, arch: str = "early", size: str = "d16", /, **groups: Any) -> RunConfig:
    """A finalized config of a few eager steps on tiny shards.

    A group is given as a dict of the fields that differ (``trainer={"micro_batches": 2}``), anything else as its value.
    """
    values: dict[str, Any] = {
        "arch": conf("arch", arch),
        "block": conf("block", "small"),
        "size": conf("size", size),
        "data": {**conf("data", "world"), "path": str(shards), "eval_rows": 6},
        "optim": conf("optim", "adamw"),
        "schedule": {**conf("schedule", "wsd"), "warmup_steps": 4},
        "trainer": {**conf("trainer", "cpu"), "compile": "off", "log_every_steps": 2, "progress": False},
        "budget": {"steps": 12},
    }
    for name, change in groups.items():
        is_group = isinstance(change, dict) and name != "budget"
        values[name] = {**values.get(name, {}), **change} if is_group else change
    return finalize(from_dict(values))


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
