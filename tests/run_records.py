"""Records of real size without training: one that a tiny run published, varied."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

REAL: dict[str, Any] = json.loads((Path(__file__).parent / "record_d16.json").read_text())
REAL["on_plateau"], REAL["result"]["class_excess"]["colour"] = False, 0.1  # as of a run long enough to be a point


def write_record(directory: Path, run_id: str, **changes: Any) -> Path:
    """Write ``<directory>/<run_id>/record.json`` as nmm spells it: the real one with top-level fields changed."""
    path = directory / run_id / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**REAL, "run_id": run_id, "lineage": {**REAL["lineage"], "trunk_id": run_id}, **changes}
    path.write_text(json.dumps(record, indent=1, sort_keys=True))
    return path


def write_records(directory: Path, count: int) -> list[str]:
    """``count`` finished runs that differ in seed and loss; their run ids in order."""
    names = [f"early-d16-run-s{seed:05d}-4-{seed * 7919:010x}" for seed in range(count)]
    for seed, name in enumerate(names):
        result = copy.deepcopy(REAL["result"])
        result["loss"] = {source: loss + seed * 1e-6 for source, loss in result["loss"].items()}
        write_record(directory, name, seed=seed, result=result)
    return names
