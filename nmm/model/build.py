"""Config -> initialised model."""

from __future__ import annotations

from nmm.config import ConfigError, RunConfig
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.init import init_weights


def build(config: RunConfig) -> NativeMultimodalModel:
    """The model of ``config`` with weights from (seed, "init") only."""
    if config.data.vocab_size < 3:
        raise ConfigError(
            f"data.vocab_size={config.data.vocab_size}: it is read from the shards' manifest; is data.path right?"
        )
    model = NativeMultimodalModel(config)
    init_weights(model, seed=config.seed)
    if config.bridge is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and learns(name, config))
    return model


def learns(name: str, config: RunConfig) -> bool:
    """Whether stage=bridge trains a parameter. Embedding and head of words never: their gradient would be zero."""
    if name.startswith("bridge_head."):
        return True
    if is_encoder(name) or is_patch(name):
        return config.stage.train_patch
    if name.startswith("trunk.blocks."):
        return int(name.split(".")[2]) in config.trained_blocks
    return name.startswith("trunk.") and bool(config.trained_blocks)  # the norm after the blocks


def is_encoder(name: str) -> bool:
    """True for parameters of the vision encoder (``optim.vision_lr_scale``)."""
    return name.startswith("vision.")


def is_patch(name: str) -> bool:
    """True for what brings patches into the trunk: projection or connector, positions (``optim.patch_lr_scale``)."""
    return name.startswith(("connector.", "patch_position"))
