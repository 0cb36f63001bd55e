"""A native multimodal model: patches enter the trunk early (one projection) or late (encoder and connector).

Shape legend: B batch, T position, D width, I images, M patches an image, P values a patch, V vocabulary, G targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.layers import Context, rotary_angles
from nmm.model.masks import block_mask, dense_mask, lookups
from nmm.model.moe import Routing
from nmm.model.trunk import Trunk
from nmm.model.vision import Connector, VisionEncoder


@dataclass(frozen=True)
class Output:
    """logits (G, V) at the G positions whose next token is text; at (G,) their flat positions b * T + t."""

    logits: Tensor
    at: Tensor
    routings: list[Routing]


def pixels(patches_u8: Tensor) -> Tensor:
    """uint8 -> float32 centred on the world's background: (x / 255 - 0.2) * 3."""
    return patches_u8.float().mul_(3.0 / 255.0).sub_(0.6)


class NativeMultimodalModel(nn.Module):
    """Early fusion, late fusion and MoE, by config. ``forward`` takes a ``Batch`` and scores text targets only."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        size, data, arch = config.size, config.data, config.arch
        self.config = config
        self.embedding = nn.Embedding(data.vocab_size, size.width)
        self.patch_position = nn.Parameter(torch.empty(config.tokens_per_image, size.width))
        if arch.fusion == "late":
            self.vision: nn.Module = VisionEncoder(config)
            self.connector: nn.Module = Connector(arch.connector, size.vision_width, size.width)
        else:
            self.vision = nn.Identity()
            self.connector = nn.Linear(data.channels * data.patch_size**2, size.width, bias=False)
        self.trunk = Trunk(config)
        self.head = nn.Linear(size.width, data.vocab_size, bias=False)

    def embed(self, batch: Batch) -> Tensor:
        """(B, T) tokens and (I, M, P) patches -> (B, T, D) inputs of the trunk."""
        x_BTD = self.embedding(batch.tokens)
        if not len(batch.patches):
            return x_BTD
        image_IMD = self.connector(self.vision(pixels(batch.patches))) + self.patch_position
        B, T, D = x_BTD.shape
        flat = x_BTD.view(B * T, D).index_copy(0, batch.patch_at.reshape(-1), image_IMD.reshape(-1, D).to(x_BTD.dtype))
        return flat.view(B, T, D)

    def context(self, batch: Batch) -> Context:
        """Mask, rotary angles and validity, once for all blocks."""
        arch = self.config.arch
        document, image = lookups(batch.document, batch.image, arch.image_attention, arch.document_mask)
        cos, sin = rotary_angles(batch.position, self.config.size.width // self.config.size.num_heads)
        valid = (batch.document >= 0).float()
        if document.is_cuda:
            return Context(block_mask(document, image), cos, sin, valid)
        hidden = torch.zeros((), device=document.device).masked_fill(~dense_mask(document, image), float("-inf"))
        return Context(hidden, cos, sin, valid)

    def forward(self, batch: Batch) -> Output:
        x_BTD, routings = self.trunk(self.embed(batch), self.context(batch))
        at = batch.weights.reshape(-1).nonzero().squeeze(1)
        return Output(self.head(x_BTD.reshape(-1, x_BTD.shape[-1]).index_select(0, at)), at, routings)
