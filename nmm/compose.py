"""conf/ + command-line overrides -> a plain dict, with Hydra's own words when something is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nmm.config import ConfigError, RunConfig, from_dict

CONFIG_MODULE = "conf"


def compose_dict(name: str, overrides: Sequence[str], config_module: str = CONFIG_MODULE) -> dict[str, Any]:
    """Compose ``<name>.yaml`` of a package. Raises ``ConfigError`` for an unknown group, option or key."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_module(config_module, version_base="1.3"):
            composed = hydra.compose(name, overrides=list(overrides))
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot compose {' '.join(overrides) or 'the defaults'}: {explain(error)}") from error
    values.pop("hydra", None)
    return values


def compose(overrides: Sequence[str], config_module: str = CONFIG_MODULE) -> RunConfig:
    """Compose ``config.yaml`` into a ``RunConfig`` (not yet finalized: see ``nmm.resolve``)."""
    return from_dict(compose_dict("config", overrides, config_module))


def explain(error: BaseException) -> str:
    """Hydra puts the useful half (which key, which options exist) into the cause."""
    parts = [str(error).strip()]
    if error.__cause__ is not None and str(error.__cause__).strip() not in parts[0]:
        parts.append(str(error.__cause__).strip())
    return "; ".join(" ".join(part.split()) for part in parts)
