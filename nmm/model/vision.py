"""The vision encoder of late fusion: a timm VisionTransformer built from scratch, fed with our patches.

Shape legend: I images, M patches an image, P values a patch, W encoder width, D decoder width.
"""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nmm.config import RunConfig


class VisionEncoder(nn.Module):
    """(I, M, P) pixels -> (I, M, W) features. Our patches are put together again, so timm's own embedding cuts them."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        size, data = config.size, config.data
        self.width = size.vision_width
        self.grid = data.image_size // data.patch_size
        self.patch, self.channels = data.patch_size, data.channels
        self.vit = VisionTransformer(
            img_size=data.image_size,
            patch_size=data.patch_size,
            in_chans=data.channels,
            num_classes=0,
            global_pool="",
            embed_dim=size.vision_width,
            depth=size.vision_depth,
            num_heads=size.vision_heads,
            mlp_ratio=4.0,
            class_token=False,
        )

    def forward(self, pixels_IMP: Tensor) -> Tensor:
        g, p, c = self.grid, self.patch, self.channels
        image = pixels_IMP.view(-1, g, g, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, g * p, g * p)
        return self.vit.forward_features(image)


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
