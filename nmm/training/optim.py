"""Fully decoupled AdamW: the decay of a step is ``weight_decay * lr_t / lr_peak``, whatever the learning rate is."""

from __future__ import annotations

import torch
from torch import nn

from nmm.config import RunConfig
from nmm.model.build import is_vision


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Four groups: (vision or not) x (decayed matrices or gains, biases and positions)."""
    optim, peak = config.optim, config.learning_rate
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in sorted(model.named_parameters()):
        decays = parameter.ndim >= 2 and not name.endswith(("patch_position", "pos_embed"))
        groups.setdefault((is_vision(name), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": peak * (optim.vision_lr_scale if vision else 1.0),
                # torch multiplies by lr_t: dividing by the peak here leaves weight_decay * lr_t / lr_peak
                "weight_decay": optim.weight_decay / (peak * (optim.vision_lr_scale if vision else 1.0))
                if decays
                else 0.0,
            }
            for (vision, decays), parameters in groups.items()
        ],
        lr=peak,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to ``share`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
