"""The vision encoder of late fusion, fed with our patches: a ViT built to size, or any net of timm; and the connector.

Shape legend: I images, M patches an image, P values a patch, W encoder width, D decoder width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed, RmsNorm, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.model.timm_nets import features_shape, load_pretrained, make_net, patch_features


class VisionEncoder(nn.Module):
    """(I, M, P) pixels -> (I, M, W) features. Our patches are put together again, so the net cuts them its own way.

    ``width`` is W. With ``arch.vision_frozen`` no parameter gets a gradient and the net stays in evaluation mode.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        data = config.data
        self.grid = data.image_size // data.patch_size
        self.patch, self.channels = data.patch_size, data.channels
        self.frozen = config.arch.vision_frozen
        if config.arch.vision_model:
            self.vit: nn.Module = make_net(config)
            self.width = features_shape(self.vit, config)[1]
        else:
            self.vit = sized_vit(config)
            self.width = config.size.vision_width
        self.requires_grad_(not self.frozen)
        self.train()

    def train(self, mode: bool = True) -> VisionEncoder:
        """As for any module, but a frozen encoder never trains."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels_IMP: Tensor) -> Tensor:
        g, p, c = self.grid, self.patch, self.channels
        image = pixels_IMP.view(-1, g, g, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, g * p, g * p)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return patch_features(self.vit, image)


def load_vision(encoder: nn.Module, config: RunConfig) -> None:
    """Fill the encoder from the file ``arch.vision_weights``; without one, and in early fusion, nothing changes."""
    if config.arch.vision_weights:
        assert isinstance(encoder, VisionEncoder)
        load_pretrained(encoder.vit, config)


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
