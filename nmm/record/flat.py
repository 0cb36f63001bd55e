"""One record as a row of the flat table."""

from __future__ import annotations

import math
from typing import Any

# 2: stage, routing, sft; 3: data, skipped samples, unique tokens; 4: versions.code; 5: intervention. Tables read all
RECORD_SCHEMA = 5
TEXT_COLUMNS = frozenset(("run_id", "sweep", "arch", "size", "arm", "status", "trunk_id", "order_hash"))
BOOL_COLUMNS = frozenset(("on_plateau",))  # all others are numbers


def flatten(record: dict[str, Any]) -> dict[str, Any]:
    """The columns of the table; unknown entropies become NaN, a run of no comparison has the arm ""."""
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
    labels = record.get("intervention", {"arm": "", "charged_flops": 0.0})  # of no comparison before schema 5
    row |= {"arm": labels["arm"], "charged_flops": float(labels["charged_flops"])}
    for kind in ("loss", "entropy"):
        row |= {f"{kind}_{name}": _number(value) for name, value in result[kind].items()}
    grounded = result.get("grounded", {})  # unknown before schema 5, and of data whose words have no classes
    row |= {f"{kind}_grounded": _number(grounded.get(kind)) for kind in ("loss", "entropy")}
    tail = [kind for kind in ("loss", "entropy") if f"{kind}_tail" in grounded]
    row |= {f"{kind}_grounded_tail": _number(grounded[f"{kind}_tail"]) for kind in tail}
    row |= {"colour_excess": _number(result["class_excess"].get("colour")), "on_plateau": record["on_plateau"]}
    row |= {key: record[key] for key in ("wall_seconds", "tokens_per_second")}
    return row | {"order_hash": result["order_hash"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
