"""Config -> initialised model."""

from __future__ import annotations

from nmm.config import ConfigError, RunConfig
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.init import init_weights

VISION_PREFIXES = ("vision.", "connector.", "patch_position")


def build(config: RunConfig) -> NativeMultimodalModel:
    """The model of ``config`` with weights from (seed, "init") only."""
    if config.data.vocab_size < 3:
        raise ConfigError(
            f"data.vocab_size={config.data.vocab_size}: it is read from the shards' manifest; is data.path right?"
        )
    model = NativeMultimodalModel(config)
    init_weights(model, seed=config.seed)
    return model


def is_vision(name: str) -> bool:
    """True for parameters that get the vision learning rate: patch projection or encoder, connector, positions."""
    return name.startswith(VISION_PREFIXES)
