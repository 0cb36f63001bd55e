"""A world that only asks for sums, small models on it, and the options of `nmm rft` for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab import conf, tiny_config_on

from nmm.config import RunConfig
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig

ASKING: dict[str, Any] = {
    "num_entities": 40,
    "name_words": 8,
    "num_colours": 3,
    "object_counts": (0.0, 1.0, 0.0, 0.0),
    "reasoning": 1.0,
    "reasoning_modulus": 3,
}


def write_asking_shards(out: Path, train: int = 400, **changes: Any) -> Path:
    """Captions that ask for sums modulo 3 of two colours."""
    counts = {"caption": {"train": train, "val": 80, "test": 40}}
    write_shards(WorldConfig.from_dict(ASKING | changes), out, counts, 256, progress=False)
    return out


def asking_config(shards: Path, size: str = "d16", /, **groups: Any) -> RunConfig:
    """A short pretraining on such shards."""
    data = {**conf("data", "world"), "path": str(shards), "eval_rows": 6, "context_length": 64}
    data["mixture"] = {"caption": 1.0}
    return tiny_config_on(shards, "early", size, **{"data": data, "budget": {"steps": 12}, **groups})
