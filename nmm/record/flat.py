"""Many records as one flat table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmm.record.files import RecordError, read_json


def iter_records(directory: Path) -> Iterator[dict[str, Any]]:
    """Published records of a sweep directory, ordered by run id."""
    if not directory.is_dir():
        raise RecordError(f"{directory} is not a directory; give the folder that holds the run directories")
    for path in sorted(directory.glob("*/record.json")):
        yield read_json(path)


def load_table(directory: Path | str) -> list[dict[str, Any]]:
    """One flat row per finished run that is a point of the law: no trunks, which are lineage, and no tuned runs."""
    done = (r for r in iter_records(Path(directory)) if r["status"] == "done")
    return [flatten(r) for r in done if r["role"] != "trunk" and r.get("stage", "pretrain") == "pretrain"]


def flatten(record: dict[str, Any]) -> dict[str, Any]:
    """The columns of the table; unknown entropies become NaN."""
    params, tokens, flops, result = record["params"], record["tokens"], record["flops"], record["result"]
    row: dict[str, Any] = {key: record[key] for key in ("run_id", "sweep", "arch", "size", "seed", "status", "steps")}
    row |= {"trunk_id": record["lineage"]["trunk_id"], "tokens": tokens["total"]}
    row |= {"text_tokens": tokens["text"], "image_tokens": tokens["image"]}
    row |= {"unique_tokens": _number(tokens.get("unique"))}  # unknown before schema 3
    row |= {
        "n_total": params["total"],
        "n_non_embedding": params["non_embedding"],
        "n_active": params["active"],
        "n_active_non_embedding": params["active_non_embedding"],
        "n_decoder_non_embedding": params["decoder_non_embedding"],
        "n_vision": params["vision"],
        "flops_6nd": flops["6nd"],
        "flops_exact": flops["total"],
    }
    for kind in ("loss", "entropy"):
        row |= {f"{kind}_{name}": _number(value) for name, value in result[kind].items()}
    row |= {"colour_excess": _number(result["class_excess"].get("colour")), "on_plateau": record["on_plateau"]}
    row |= {key: record[key] for key in ("wall_seconds", "tokens_per_second")}
    return row | {"order_hash": result["order_hash"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
