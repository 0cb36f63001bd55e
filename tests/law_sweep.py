"""A runner that trains nothing and publishes losses of a known law with noise, and a sweep on the real sizes for it.

ln L has noise shared by all branches of a trunk and noise of every branch, drawn from the run ids, so that a run has
the same loss whoever runs it. D of a record is 0.9 of the positions: rows are not full.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lab import ROOT

from nmm.config import Arch, Data, RunConfig, Schedule, Trainer, identity, run_id, to_dict
from nmm.flops import count_params, training_flops
from nmm.record import begin_attempt, publish, read_record, write_config
from sweeps.adaptive.shapes import conf_sizes
from sweeps.manifest import Entry
from sweeps.plan import make_plan
from sweeps.spec import spec_from_dict

RUNNER = "law_sweep:execute"
FILLING = 0.9
E, A, ALPHA, B, BETA = 0.5, 150.0, 0.64, 210.0, 0.45
TRUNK_NOISE, ROW_NOISE = 0.006, 0.003
GRID = {
    "name": "law", "archs": ["early"], "sizes": ["d24", "d32", "d40", "d48"], "tokens": [512_000, 1_024_000, 2_048_000],
    "seeds": [0], "cooldown_fraction": 0.25,
}  # fmt: skip


def execute(config: RunConfig, directory: Path) -> dict[str, Any]:
    """The runner's contract: safe to repeat, publishes a record. Ids in DIR/fails.json raise, those in
    DIR/diverges.json diverge."""
    done = read_record(directory)
    if done is not None:
        return done
    write_config(directory, {"run_id": run_id(config), "identity": identity(config), "settings": to_dict(config)})
    attempt = begin_attempt(directory)
    if run_id(config) in listed(directory.parent, "fails"):
        attempt.end("failed", "ValueError: told to fail")
        raise ValueError("told to fail")
    status = "diverged" if run_id(config) in listed(directory.parent, "diverges") else "done"
    published = publish(directory, attempt, record_of(config, status))
    attempt.end(status)
    return published


def listed(directory: Path, name: str) -> list[str]:
    path = directory / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def noise(name: str, deviation: float) -> float:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return deviation * float(np.random.default_rng(seed).standard_normal())


def loss_of(config: RunConfig) -> float:
    size, tokens = count_params(config).active_non_embedding, FILLING * config.total_steps * config.tokens_per_step
    shared = noise(config.parent.run_id, TRUNK_NOISE) + noise(run_id(config), ROW_NOISE)
    return (E + A * size**-ALPHA + B * tokens**-BETA) * float(np.exp(shared))


def record_of(config: RunConfig, status: str) -> dict[str, Any]:
    params, positions = count_params(config), config.total_steps * config.tokens_per_step
    names = ("total", "non_embedding", "active", "active_non_embedding", "decoder_non_embedding", "vision")
    return {
        "run_id": run_id(config), "sweep": config.sweep, "arch": config.arch.name, "size": config.size.name,
        "seed": config.seed, "status": status, "steps": config.total_steps, "role": config.role,
        "lineage": {"trunk_id": config.parent.run_id or run_id(config)}, "on_plateau": False,
        "wall_seconds": 1.0, "tokens_per_second": 1e6,
        "params": {name: getattr(params, name) for name in names},
        "tokens": {"total": round(FILLING * positions), "text": round(FILLING * positions), "image": 0},
        "flops": {name: training_flops(config, positions)[name] for name in ("6nd", "total")},
        "result": {"loss": {"avg": loss_of(config)}, "entropy": {"avg": E}, "class_excess": {}, "order_hash": "0"},
    }  # fmt: skip


def plan_law_sweep(directory: Path, **changes: Any) -> list[Entry]:
    """Plan the sweep; ``changes`` as in a sweep file."""
    shards = directory.parent / "shards"
    shards.mkdir(exist_ok=True)
    (shards / "manifest.json").write_text(json.dumps({"fingerprint": "f" * 64, "vocab_size": 300}))

    def compose(overrides: Sequence[str]) -> RunConfig:
        chosen = dict(override.split("=", 1) for override in overrides)
        return RunConfig(
            arch=Arch(name=chosen["arch"], fusion="late" if chosen["arch"] == "late" else "early"),
            size=conf_sizes()[chosen["size"]].size,
            data=Data(path=str(shards)),
            schedule=Schedule(warmup_steps=4),
            trainer=Trainer(rows_per_step=2),
        )

    return make_plan(spec_from_dict({**GRID, **changes}), directory, compose).entries


def run_all(directory: Path, entries: Sequence[Entry]) -> None:
    """Every line, in this process."""
    for entry in entries:
        execute(entry.config, directory / entry.run_id)


def next_runs(directory: Path, *options: str, goal: str = "interval of alpha for early") -> tuple[int, str]:
    """``nmm sweep next`` in a process of its own: exit status, and all that it printed."""
    command = [sys.executable, "-m", "nmm.cli", "sweep", "next", str(directory), "--goal", goal, *options]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def environment() -> dict[str, str]:
    """With this module importable in workers, and tables that are not wrapped."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
