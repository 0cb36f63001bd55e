"""A native multimodal model: patches enter the trunk early (one projection) or late (encoder and connector).

Shape legend: B batch, T position, D width, I images, M positions an image (its patches; with pixel shuffle fewer),
P pixel values of such a position, V vocabulary, C classes, G targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmm.batch import Batch
from nmm.config import Data, RunConfig
from nmm.model.layers import Context, LayerCache, rotary_angles
from nmm.model.masks import block_mask, dense_mask, lookups
from nmm.model.moe import Routing
from nmm.model.trunk import Trunk
from nmm.model.vision import Connector, make_encoder
from nmm.params import bridge_outputs, pixels_per_position


@dataclass(frozen=True)
class Output:
    """logits (G, V) at the G positions whose next token is text; at (G,) their flat positions b * T + t."""

    logits: Tensor
    at: Tensor
    routings: list[Routing]


def pixels(patches_u8: Tensor, data: Data) -> Tensor:
    """(I, M, P) uint8 -> float32 (x / 255 - mean) / std, channel by channel (P is channel-major)."""
    mean, std = data.pixel_mean, data.pixel_std
    if len(set(mean)) == len(set(std)) == 1:
        return patches_u8.float().mul_(1 / std[0] / 255.0).sub_(mean[0] / std[0])
    x = patches_u8.float().unflatten(-1, (data.channels, -1))
    scale = x.new_tensor([1 / s / 255.0 for s in std])[:, None]
    shift = x.new_tensor([m / s for m, s in zip(mean, std, strict=True)])[:, None]
    return (x * scale - shift).flatten(-2)


class NativeMultimodalModel(nn.Module):
    """Early fusion, late fusion and MoE, by config. ``forward`` takes a ``Batch`` and scores text targets only."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        size, data, arch = config.size, config.data, config.arch
        self.config = config
        self.embedding = nn.Embedding(data.vocab_size, size.width)
        if config.block.patch_position:
            self.patch_position = nn.Parameter(torch.empty(config.tokens_per_image, size.width))
        if arch.fusion == "late":
            self.vision: nn.Module = make_encoder(config)
            self.connector: nn.Module = Connector(arch.connector, self.vision.width, size.width)
        else:
            self.vision = nn.Identity()
            self.connector = nn.Linear(pixels_per_position(config), size.width, bias=False)
        self.trunk = Trunk(config)
        self.head = nn.Linear(size.width, data.vocab_size, bias=False)
        if config.block.tied_head:
            self.head.weight = self.embedding.weight
        if config.bridge is not None:
            self.bridge_head = nn.Linear(size.width, bridge_outputs(config), bias=False)

    def embed(self, batch: Batch) -> Tensor:
        """(B, T) tokens and (I, M, P) patches -> (B, T, D) inputs of the trunk."""
        x_BTD = self.embedding(batch.tokens)
        if not len(batch.patches):
            return x_BTD
        image_IMD = self.connector(self.vision(pixels(batch.patches, self.config.data)))
        if self.config.block.patch_position:
            image_IMD = image_IMD + self.patch_position
        B, T, D = x_BTD.shape
        flat = x_BTD.view(B * T, D).index_copy(0, batch.patch_at.reshape(-1), image_IMD.reshape(-1, D).to(x_BTD.dtype))
        return flat.view(B, T, D)

    def context(self, batch: Batch) -> Context:
        """Mask, rotary angles, validity and modality, once for all blocks."""
        arch = self.config.arch
        document, image = lookups(batch.document, batch.image, arch.image_attention, arch.document_mask)
        cos, sin = self.angles(batch)
        valid, is_image = (batch.document >= 0).float(), batch.image >= 0
        if document.is_cuda:
            return Context(block_mask(document, image), cos, sin, valid, is_image)
        hidden = torch.zeros((), device=document.device).masked_fill(~dense_mask(document, image), float("-inf"))
        return Context(hidden, cos, sin, valid, is_image)

    def angles(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rotary cos and sin of a batch, (B, 1, T, K / 2) each."""
        is_apart = self.config.arch.document_mask
        position = batch.position if is_apart else row_positions(batch.position, batch.document)
        if self.config.block.rope == "2d":
            position = grid_positions(position, batch.patch_at)
        return rotary_angles(position, self.config.head_dim, self.config.block.rope_theta)

    def features(
        self, batch: Batch, context: Context | None = None, caches: Sequence[LayerCache] | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """(B, T, D) outputs of the trunk, and one Routing a MoE layer."""
        return self.trunk(self.embed(batch), self.context(batch) if context is None else context, caches)

    def forward(self, batch: Batch, bridge: bool = False) -> Output:
        """With ``bridge`` through the head of stage=bridge: logits are those of labels, or pixels, (G, C) or (G, P)."""
        x_BTD, routings = self.features(batch)
        at = batch.weights.reshape(-1).nonzero().squeeze(1)
        head = self.bridge_head if bridge else self.head
        return Output(head(x_BTD.reshape(-1, x_BTD.shape[-1]).index_select(0, at)), at, routings)


def row_positions(position_BT: Tensor, document_BT: Tensor) -> Tensor:
    """(B, T) positions that run on from one document of a row to the next, for attention across documents.

    They count from the row's first document, wherever it stands and whatever position it begins with.
    """
    first_B1 = (document_BT >= 0).int().argmax(dim=1, keepdim=True)
    at_T = torch.arange(position_BT.shape[1], device=position_BT.device)
    return position_BT.gather(1, first_B1) + at_T - first_B1


def grid_positions(position_BT: Tensor, patch_at_IM: Tensor) -> Tensor:
    """(B, T, 2) row and column coordinates: text has its position twice, a patch (start + row, start + column).

    ``start`` is the position of the image's first patch; images are square. The text after an image goes on with its
    own position, so no two positions of a document share both coordinates.
    """
    grid_BT2 = position_BT[..., None].repeat(1, 1, 2)
    if not len(patch_at_IM):
        return grid_BT2
    M = patch_at_IM.shape[1]
    at = torch.arange(M, device=patch_at_IM.device)
    inside_M2 = torch.stack((at // math.isqrt(M), at % math.isqrt(M)), dim=-1)
    start_I = position_BT.reshape(-1)[patch_at_IM[:, 0]]
    flat = grid_BT2.view(-1, 2)
    flat[patch_at_IM.reshape(-1)] = (start_I[:, None, None] + inside_M2).reshape(-1, 2).to(flat.dtype)
    return grid_BT2
