"""The options of `nmm METHOD KEY=VALUE ...`: conf/METHOD.yaml with overrides, as a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from nmm.compose import compose_dict
from nmm.config import group_from_dict

Options = TypeVar("Options")


def read_options(
    cls: type[Options], name: str, argv: Sequence[str], renamed: Mapping[str, str] | None = None
) -> Options:
    """Compose conf/NAME.yaml and build a ``cls`` of it; unknown keys and wrong types raise ``ConfigError``.

    ``renamed``: word of the command line -> field, for a word that Hydra would take for one of its groups (data).
    """
    overrides = []
    for argument in argv:
        key, sign, value = argument.partition("=")
        overrides.append(f"{(renamed or {}).get(key, key)}{sign}{value}")
    return group_from_dict(cls, compose_dict(name, overrides))
