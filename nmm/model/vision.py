"""The vision encoder of late fusion, fed with our patches: a ViT built to size, or any net of timm; and the connector.

Shape legend: I images, M positions an image, P pixel values a position, N patches an image as the net cuts them (M, or
with pixel shuffle s s M), C channels, W features of a position (s s times the width of the net), D decoder width.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed, RmsNorm, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.model.timm_nets import features_shape, load_pretrained, make_net, patch_features
from nmm.params import encoder_configs


def make_encoder(config: RunConfig) -> VisionEncoder | MixedEncoder:
    """What late fusion puts before its connector: one encoder, or two."""
    return MixedEncoder(config) if config.arch.vision_model2 else VisionEncoder(config)


class VisionEncoder(nn.Module):
    """(I, M, P) pixels -> (I, M, W) features. Our patches are put together again, so the net cuts them its own way.

    ``width`` is W. With ``arch.vision_frozen`` no parameter gets a gradient and the net stays in evaluation mode.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        data = config.data
        self.grid = data.image_size // config.position_size
        self.side, self.channels = config.position_size, data.channels
        self.shuffle = config.arch.pixel_shuffle
        self.frozen = config.arch.vision_frozen
        if config.arch.vision_model:
            self.vit: nn.Module = make_net(config)
            self.width = features_shape(self.vit, config)[1] * self.shuffle**2
        else:
            self.vit = sized_vit(config)
            self.width = config.size.vision_width * self.shuffle**2
        self.requires_grad_(not self.frozen)
        self.train()

    def train(self, mode: bool = True) -> VisionEncoder:
        """As for any module, but a frozen encoder never trains."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels_IMP: Tensor) -> Tensor:
        g, p, c = self.grid, self.side, self.channels
        image = pixels_IMP.view(-1, g, g, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, g * p, g * p)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return pixel_shuffled(patch_features(self.vit, image), self.shuffle)


def pixel_shuffled(features_INC: Tensor, factor: int) -> Tensor:
    """(I, N, C) features of a square grid -> (I, N / s s, s s C): s x s neighbours side by side in one position.

    s = ``factor``; the features of a position are those of its upper row from left to right, then of the next row
    (arXiv 2409.04828, section 2.1, has s = 2).
    """
    if factor == 1:
        return features_INC
    images, number, width = features_INC.shape
    grid = math.isqrt(number) // factor
    blocks = features_INC.reshape(images, grid, factor, grid, factor, width).transpose(2, 3)
    return blocks.reshape(images, grid * grid, factor * factor * width)


class MixedEncoder(nn.Module):
    """Two encoders of the same pixels: w times the features of the first and 1 - w times those of the second.

    w is ``arch.vision_mix``, fixed (arXiv 2409.04828, section 2.1). Where the second one has another number of features
    a position, one matrix brings them to the ``width`` of the first.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        of_first, of_second = encoder_configs(config)
        self.first = VisionEncoder(of_first)
        self.second = VisionEncoder(of_second)
        self.width, self.weight = self.first.width, config.arch.vision_mix
        same = self.second.width == self.width
        self.project: nn.Module = nn.Identity() if same else nn.Linear(self.second.width, self.width, bias=False)

    def forward(self, pixels_IMP: Tensor) -> Tensor:
        return self.weight * self.first(pixels_IMP) + (1 - self.weight) * self.project(self.second(pixels_IMP))


def load_vision(encoder: nn.Module, config: RunConfig) -> None:
    """Fill each encoder from its file of pretrained weights; without one, and in early fusion, nothing changes."""
    parts = (encoder.first, encoder.second) if isinstance(encoder, MixedEncoder) else (encoder,)
    for part, own in zip(parts, encoder_configs(config), strict=True):
        if own.arch.vision_weights:
            assert isinstance(part, VisionEncoder)
            load_pretrained(part.vit, own)


def sized_vit(config: RunConfig) -> VisionTransformer:
    """timm's ViT of size.vision_width, vision_depth and vision_heads: learned positions, no class token."""
    size, data = config.size, config.data
    return VisionTransformer(
        img_size=data.image_size,
        patch_size=data.patch_size,
        in_chans=data.channels,
        num_classes=0,
        global_pool="",
        embed_dim=size.vision_width,
        depth=size.vision_depth,
        num_heads=size.vision_heads,
        class_token=False,
        **({"mlp_ratio": 4.0} if config.block.vision == "vit" else _swiglu_blocks(config)),
    )


def _swiglu_blocks(config: RunConfig) -> dict[str, Any]:
    """The trunk's kind of block: RMSNorm, QK-norm per head, SwiGLU, no bias anywhere."""
    return {
        "norm_layer": partial(RmsNorm, eps=config.block.norm_eps),
        "qk_norm": True,
        "qkv_bias": False,
        "proj_bias": False,
        # timm passes a hidden width of its own and a bias for the patches
        "mlp_layer": lambda in_features, **_: SwiGLU(in_features, config.vision_hidden, bias=False),
        "embed_layer": lambda **options: PatchEmbed(**options | {"bias": False}),
    }


class Connector(nn.Module):
    """(I, M, W) -> (I, M, D): one matrix, or two around a GELU."""

    def __init__(self, kind: str, vision_width: int, width: int) -> None:
        super().__init__()
        first = nn.Linear(vision_width, width, bias=False)
        match kind:
            case "linear":
                self.net: nn.Module = first
            case "mlp":
                self.net = nn.Sequential(first, nn.GELU(), nn.Linear(width, width, bias=False))
            case _:
                raise ValueError(f"arch.connector={kind!r} is not one of linear, mlp")

    def forward(self, features_IMW: Tensor) -> Tensor:
        return self.net(features_IMW)
