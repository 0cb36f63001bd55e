"""Fully decoupled AdamW: the decay of a step is ``weight_decay * lr_t / lr_peak``, whatever the learning rate is."""

from __future__ import annotations

import torch
from torch import nn

from nmm.config import RunConfig
from nmm.model import mup
from nmm.model.build import is_encoder, is_patch


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """One group for every (peak learning rate, decayed or not); frozen parameters are in none.

    Gains, biases and positions are not decayed. ``peak_lr`` of a group is its own; ``set_lr`` goes by it.
    """
    optim = config.optim
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not name.endswith(("patch_position", "pos_embed"))
            groups.setdefault((peak_lr(name, config), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": peak,
                # torch multiplies by lr_t: dividing by the peak here leaves weight_decay * lr_t / lr_peak
                "weight_decay": optim.weight_decay / peak if decays else 0.0,
            }
            for (peak, decays), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,
    )


def peak_lr(name: str, config: RunConfig) -> float:
    """Peak learning rate of a parameter: the run's, scaled for the encoder or for patches, and by muP."""
    optim = config.optim
    part = optim.vision_lr_scale if is_encoder(name) else optim.patch_lr_scale if is_patch(name) else 1.0
    return config.learning_rate * part * mup.lr_scale(name, config)


def set_lr(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to ``share`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
