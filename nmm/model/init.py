"""All initial values, in one place, from one generator of their own.

| parameter | standard deviation | why |
|---|---|---|
| token embedding | 0.1 | large enough for RMS-normed blocks, small enough that patches are heard |
| early patch projection | 0.3 / sqrt(pixels) | patches enter at the scale of the embeddings' sum with positions |
| patch position | 0.3 | which patch it is must not have to be discovered |
| matrices of the trunk, router, experts, connector | 1 / sqrt(fan in) | no residual down-scaling: depth is small |
| vision encoder | 1 / sqrt(fan in), positions 0.3, biases 0 | as the trunk |
| head | 0 | the first loss is exactly log V |
| gains | 1 | |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nmm.model.fusion import NativeMultimodalModel


def init_weights(model: NativeMultimodalModel, seed: int) -> None:
    """Fill every parameter in place, in name order, from a generator seeded by ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        std = _std(name, parameter)
        with torch.no_grad():
            if std is None:
                parameter.fill_(1.0)
            elif std == 0.0:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _std(name: str, parameter: nn.Parameter) -> float | None:
    """Standard deviation for a parameter; None means a gain of one."""
    if "norm" in name:
        return 0.0 if name.endswith("bias") else None
    if name == "head.weight" or name.endswith("bias"):
        return 0.0
    if name == "embedding.weight":
        return 0.1
    if name == "patch_position" or name.endswith("pos_embed"):
        return 0.3
    scale = 0.3 if name == "connector.weight" else 1.0
    return scale / math.sqrt(_fan_in(name, parameter))


def _fan_in(name: str, parameter: Tensor) -> int:
    """Linear weights are (out, in), the patch convolution (out, C, h, w), stacked experts (E, in, out)."""
    if name.endswith((".up", ".down")):
        return parameter.shape[1]
    return parameter[0].numel()
