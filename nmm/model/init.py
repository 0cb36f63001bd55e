"""All initial values, in one place, from one generator of their own.

| parameter | standard deviation | why |
|---|---|---|
| token embedding | 0.1 | large enough for RMS-normed blocks, small enough that patches are heard |
| the same, tied to the head | 1 / sqrt(width) | the head reads normed vectors, so the first logits have deviation 1 |
| early patch projection | 0.3 / sqrt(pixels) | patches enter at the scale of the embeddings' sum with positions |
| patch position | 0.3 | which patch it is must not have to be discovered |
| matrices of the trunk, router, experts, connector | 1 / sqrt(fan in) | a product keeps the scale of what it reads |
| projection of a second encoder's features | 1 / sqrt(fan in) | the same |
| of these, ends of attention and FFN, if block.init=depth | 1 / sqrt(2 depth fan in) | the sum of blocks stays 1 |
| vision encoder built to size | 1 / sqrt(fan in), positions 0.3, biases 0 | as the trunk, block.init included |
| vision encoder of a timm name | timm's own, from the run's seed (nmm.model.timm_nets) | each net is made for its own |
| head, and that of labels | 0 | the first loss is exactly log V |
| gains | 1 | |
| buffers of the trunk (biases of experts) | 0 | |

muP multiplies some of these (nmm.model.mup).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.model import mup
from nmm.model.fusion import NativeMultimodalModel
from nmm.params import SIZED


def init_weights(model: NativeMultimodalModel, seed: int) -> None:
    """Fill every parameter in place, in name order, from a generator seeded by ``seed`` alone.

    A timm encoder keeps the values it was made with.
    """
    generator = torch.Generator().manual_seed(seed)
    for buffer in model.trunk.buffers():
        buffer.zero_()
    for name, parameter in sorted(model.named_parameters()):
        if is_of_timm(name, model.config):
            continue
        std = _std(name, parameter, model.config)
        with torch.no_grad():
            if std is None:
                parameter.fill_(1.0)
            elif std == 0.0:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def is_of_timm(name: str, config: RunConfig) -> bool:
    """True for parameters of a vision encoder that timm made."""
    if name.startswith("vision.second."):
        return config.arch.vision_model2 != SIZED
    return name.startswith("vision.") and name != "vision.project.weight" and bool(config.arch.vision_model)


def _std(name: str, parameter: nn.Parameter, config: RunConfig) -> float | None:
    """Standard deviation for a parameter; None means a gain of one."""
    if "norm" in name:
        return 0.0 if name.endswith("bias") else None
    if name in ("head.weight", "bridge_head.weight") or name.endswith("bias"):
        return 0.0
    if name == "embedding.weight":
        return 1 / math.sqrt(config.size.width) if config.block.tied_head else 0.1
    if name == "patch_position" or name.endswith("pos_embed"):
        return 0.3
    scale = (0.3 if name == "connector.weight" else 1.0) * mup.init_scale(name, config)
    if config.block.init == "depth" and _ends_a_branch(name):
        scale /= math.sqrt(2 * (config.size.vision_depth if name.startswith("vision.") else config.size.depth))
    return scale / math.sqrt(_fan_in(name, parameter))


def _ends_a_branch(name: str) -> bool:
    """True for matrices whose product is added to the residual stream: of the trunk, and of timm's ViT."""
    return name.removesuffix(".weight").endswith((".out", ".down", ".attn.proj", ".mlp.fc2"))


def _fan_in(name: str, parameter: Tensor) -> int:
    """Linear weights are (out, in), the patch convolution (out, C, h, w), stacked experts (E, in, out)."""
    if name.endswith((".up", ".down")):
        return parameter.shape[1]
    return parameter[0].numel()
