"""One record as a row of the flat table."""

from __future__ import annotations

import math
from typing import Any

RECORD_SCHEMA = 4  # 2: stage, routing, sft; 3: data, skipped samples, unique tokens; 4: versions.code; tables read all
TEXT_COLUMNS = frozenset(("run_id", "sweep", "arch", "size", "status", "trunk_id", "order_hash"))
BOOL_COLUMNS = frozenset(("on_plateau",))  # all others are numbers


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
