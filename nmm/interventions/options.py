"""The options of `nmm METHOD KEY=VALUE ...`: conf/METHOD.yaml with overrides, as a frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nmm.compose import compose_dict
from nmm.config import group_from_dict
from nmm.origin import only_one

Options = TypeVar("Options")


def read_options(
    cls: type[Options],
    name: str,
    argv: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    runs: Sequence[str] = (),
) -> Options:
    """Compose conf/NAME.yaml and build a ``cls`` of it; unknown keys and wrong types raise ``ConfigError``.

    ``renamed``: word of the command line -> field, for a word that Hydra would take for one of its groups (data).
    ``runs``: fields that name a run; a folder that holds just one stands for it.
    """
    overrides = []
    for argument in argv:
        key, sign, value = argument.partition("=")
        overrides.append(f"{(renamed or {}).get(key, key)}{sign}{value}")
    options: Any = group_from_dict(cls, compose_dict(name, overrides))
    given = {field: getattr(options, field) for field in runs}
    found: Options = dataclasses.replace(options, **{f: str(only_one(Path(run))) for f, run in given.items() if run})
    return found
