"""The parts of a block: RMSNorm, rotary positions, QK-normed attention, ReLU-squared FFN.

Shape legend: B batch, T position, D width, H heads, K head dim, F hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention


@dataclass(frozen=True)
class Context:
    """What every block of a forward pass shares.

    mask: additive float (B, 1, T, T) for SDPA, or a BlockMask for FlexAttention. cos, sin: (B, 1, T, K / 2).
    valid: (B, T) float, 0 in padding.
    """

    mask: Tensor | BlockMask
    cos: Tensor
    sin: Tensor
    valid: Tensor


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain (arXiv 1910.07467), no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-5)


def rotary_angles(position_BT: Tensor, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles (arXiv 2104.09864), each (B, 1, T, K / 2)."""
    half = head_dim // 2
    frequency = theta ** (-torch.arange(half, device=position_BT.device, dtype=torch.float32) / half)
    angle = position_BT[:, None, :, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (first half, second half) of every head by the angles of its position."""
    first, second = x_BHTK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x_BHTK.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with RMS-normed queries and keys; the mask comes from outside."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(width // num_heads)
        self.key_norm = RMSNorm(width // num_heads)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        q = rotate(self.query_norm(q), context.cos, context.sin)
        k = rotate(self.key_norm(k), context.cos, context.sin)
        if isinstance(context.mask, BlockMask):
            y_BHTK = flex_attention(q, k, v, block_mask=context.mask)
        else:
            y_BHTK = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask.to(q.dtype))
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """Two matrices around a squared ReLU (arXiv 2109.08668); no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> tuple[Tensor, None]:
        return self.down(F.relu(self.up(x_BTD)).square()), None
