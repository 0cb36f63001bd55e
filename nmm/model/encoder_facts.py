"""What a vision encoder costs, counted on the meta device: for timm models, whose size no formula of ours knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nmm.config import RunConfig
from nmm.model.vision import VisionEncoder
from nmm.params import pixels_per_position


def encoder_facts(config: RunConfig) -> dict[str, float]:
    """``arch.vision_facts``: width, params, matrices, blocks; FLOPs forward and backward, floats saved, of one image.

    Nothing is allocated. ``matrices`` are the weights of linear and convolution layers but the one that meets pixels,
    which alone needs no gradient of its input. (torch's counter ignores groups in the backward pass of a convolution.)
    """
    with torch.device("meta"):
        encoder = VisionEncoder(config)
        pixels = torch.empty(1, config.tokens_per_image, pixels_per_position(config))
    layers = [m for m in encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    entry: list[float] = []

    def count_entry(layer: Any, inputs: Any, output: Tensor) -> None:
        entry.append(2.0 * layer.weight[0].numel() * output.numel())

    layers[0].register_forward_hook(count_entry)
    saved = _Saved(encoder)
    hooks = saved_tensors_hooks(saved.keep, lambda tensor: tensor)
    with sdpa_kernel(SDPBackend.MATH), hooks, FlopCounterMode(display=False) as counter:
        encoder(pixels)
    forward = float(counter.get_total_flops())
    return {
        "width": float(encoder.width),
        "params": float(sum(p.numel() for p in encoder.parameters())),
        "matrices": float(sum(layer.weight.numel() for layer in layers[1:])),
        "blocks": float(len(getattr(encoder.vit, "blocks", ()))),
        "forward": forward,
        "backward": 0.0 if encoder.frozen else 2 * forward - sum(entry),
        "saved": saved.floats,
    }


class _Saved:
    """Floats that autograd keeps: every storage once, without parameters, and without the scores of attention, which
    only its plain form keeps.
    """

    def __init__(self, module: nn.Module) -> None:
        self.seen = {p.untyped_storage()._cdata for p in module.parameters()}
        self.floats = 0.0

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        are_scores = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2]
        if storage._cdata not in self.seen and not are_scores:
            self.seen.add(storage._cdata)
            self.floats += storage.nbytes() / tensor.element_size()
        return tensor
