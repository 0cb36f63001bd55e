"""Which configurations are possible: every refusal names the field, its value and the fix.

``nmm.config`` exports what others need from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmm.validation.bridge import trained_blocks as trained_blocks
from nmm.validation.bridge import validate_bridge
from nmm.validation.data import validate_data as validate_data
from nmm.validation.model import validate_experts, validate_shapes, validate_vision
from nmm.validation.rft import validate_rft
from nmm.validation.run import validate_budget, validate_lineage, validate_optim, validate_ranks, validate_start
from nmm.validation.tables import CHOICES, NOT_NEGATIVE, POSITIVE
from nmm.validation.tables import ConfigError as ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig


def _get(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def validate(config: RunConfig) -> RunConfig:
    """Return the config unchanged, or raise ``ConfigError`` naming the field, its value and the fix."""
    for name, allowed in CHOICES.items():
        if _get(config, name) not in allowed:
            raise ConfigError(f"{name}={_get(config, name)!r} is not one of {', '.join(allowed)}")
    for table, bound in ((POSITIVE, "greater than 0"), (NOT_NEGATIVE, "0 or more")):
        for name in (f"{group}.{field}" for group, fields in table.items() for field in fields):
            value = _get(config, name)
            if not (value > 0 if table is POSITIVE else value >= 0):
                raise ConfigError(f"{name}={value!r} must be {bound}")
    validate_optim(config)
    validate_shapes(config)
    validate_vision(config)
    validate_experts(config)
    validate_start(config)
    validate_ranks(config)
    validate_budget(config)
    validate_data(config)
    validate_lineage(config)
    validate_rft(config)
    validate_bridge(config)
    return config
