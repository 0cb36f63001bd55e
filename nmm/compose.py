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
    """One line. Hydra puts the useful half (which key, which options exist) into the cause, and advice that is no help
    here (``+key`` is refused as well) and search paths into the text.
    """
    texts = [str(error)]
    if error.__cause__ is not None and str(error.__cause__).strip() not in texts[0]:
        texts.append(str(error.__cause__))
    lines = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    noise = ("To append to your config", "full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(noise))
