"""A run as its directory has it: config.json, with changes that do not make another run of it. No torch, no Hydra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig, from_dict, identity, to_dict, validate
from nmm.record import read_json


def read_frozen(directory: Path, changes: Sequence[str] = ()) -> RunConfig:
    """The config that ``directory`` was begun with, after ``changes``: GROUP.FIELD=VALUE, the value as JSON or as text.

    Raises ``ConfigError`` when there is no config.json, a change is not understood, or it would be another run.
    """
    path = directory / "config.json"
    if not path.exists():
        raise ConfigError(f"{directory} holds no config.json, so it is no run; begin one: `nmm train KEY=VALUE ...`")
    frozen = read_json(path)
    values = frozen["settings"]
    for change in changes:
        _apply(values, change)
    config = validate(from_dict(values))
    if identity(config) != frozen["identity"]:
        cause = f"{' '.join(changes)} would make another run of it" if changes else "another version of nmm began it"
        raise ConfigError(
            f"{directory}: {cause}. What does not change the result can be given here, e.g. trainer.devices, "
            "trainer.num_nodes, trainer.strategy, data.path, data.max_skipped"
        )
    return config


def changes_from(directory: Path, config: RunConfig) -> list[str]:
    """The changes that turn what ``directory`` was begun with into ``config``, as ``read_frozen`` takes them."""
    return _changes(read_json(directory / "config.json")["settings"], to_dict(config), "")


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict) and value:
            found += _changes(old[key], value, f"{prefix}{key}.")
        elif old.get(key) != value:
            found.append(f"{prefix}{key}={json.dumps(value)}")
    return found


def _apply(values: dict[str, Any], change: str) -> None:
    dotted, equals, text = change.partition("=")
    *groups, field = dotted.split(".")
    for group in groups:
        values = values.get(group, {})
    if not equals or field not in values:
        raise ConfigError(f"{change!r} is not a change of this run; give GROUP.FIELD=VALUE, e.g. trainer.devices=2")
    try:
        values[field] = json.loads(text)
    except json.JSONDecodeError:
        values[field] = text
