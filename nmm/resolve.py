"""What only the shards know: fingerprint and vocabulary go into the config, the budget becomes steps. No torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig, validate
from nmm.flops import resolve_budget
from nmm.record import read_json


def read_shards(path: str | Path) -> dict[str, Any]:
    """The manifest of a finished shard folder. Raises ``ConfigError`` when there is none."""
    if not str(path):
        raise ConfigError("data.path is empty; give the shard folder, e.g. data.path=outputs/shards")
    file = Path(path) / "manifest.json"
    if not file.exists():
        raise ConfigError(
            f"data.path={path} holds no manifest.json, so there are no finished shards; "
            f"run `nmm shards data=world out={path}` first"
        )
    manifest = read_json(file)
    missing = [key for key in ("fingerprint", "vocab_size") if key not in manifest]
    if missing:
        raise ConfigError(f"{file} lacks {', '.join(missing)}; it is not a manifest written by `nmm shards`")
    return manifest


def finalize(config: RunConfig) -> RunConfig:
    """Make paths absolute, copy fingerprint and vocabulary from the shards, validate, and resolve the budget to steps.

    Idempotent. Raises ``ConfigError`` when the shards are missing, changed, or do not fit the config.
    """
    shards = read_shards(config.data.path)
    _check_shards(config, shards)
    data = dataclasses.replace(
        config.data,
        path=os.path.abspath(config.data.path),
        fingerprint=shards["fingerprint"],
        vocab_size=int(shards["vocab_size"]),
    )
    config = dataclasses.replace(config, data=data, out=os.path.abspath(config.out))
    return validate(resolve_budget(validate(config)))  # lineage can be checked only against whole steps


def _check_shards(config: RunConfig, shards: dict[str, Any]) -> None:
    data = config.data
    if data.fingerprint and data.fingerprint != shards["fingerprint"]:
        raise ConfigError(
            f"data.path={data.path} now holds shards {shards['fingerprint'][:12]}, but this config was made for "
            f"{data.fingerprint[:12]}; point data.path at the old shards or plan again"
        )
    for name in ("image_size", "channels"):
        if name in shards and shards[name] != getattr(data, name):
            raise ConfigError(f"data.{name}={getattr(data, name)}, but the shards in {data.path} have {shards[name]}")
    have = sorted(shards.get("sources", data.mixture))
    absent = [name for name, weight in data.mixture.items() if weight > 0 and name not in have]
    if absent:
        raise ConfigError(f"data.mixture draws from {', '.join(absent)}, but {data.path} holds {', '.join(have)}")
