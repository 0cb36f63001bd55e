"""The parts of a block: norms, rotary positions, QK-normed attention with grouped heads, feed-forward nets.

Shape legend: B batch, T position, S positions seen (T, or all of a cache), D width, H heads, G heads of keys and
values, K head dim, F hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nmm.config import RunConfig
from nmm.model import mup


@dataclass(frozen=True)
class Context:
    """What every block of a forward pass shares.

    mask: additive float (B, 1, T, S) for SDPA, or a BlockMask for FlexAttention. cos, sin: (B, 1, T, K / 2).
    valid: (B, T) float, 0 in padding. is_image: (B, T) bool, True where a patch stands.
    """

    mask: Tensor | BlockMask
    cos: Tensor
    sin: Tensor
    valid: Tensor
    is_image: Tensor


class LayerCache:
    """Keys and values of one layer, (B, G, S, K) each, grown in place from the left up to ``capacity`` positions."""

    def __init__(self, rows: int, heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_zeros(rows, heads, capacity, head_dim)
        self.values = like.new_zeros(rows, heads, capacity, head_dim)
        self.length = 0

    def extend(self, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; returns all keys and values so far."""
        stop = self.length + k_BGTK.shape[2]
        self.keys[:, :, self.length : stop] = k_BGTK
        self.values[:, :, self.length : stop] = v_BGTK
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (rows kept,) int64."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain (arXiv 1910.07467), no bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """Mean and variance norm with a learned gain (arXiv 1607.06450), no bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight.to(x.dtype), None, self.eps)


def make_norm(config: RunConfig, width: int) -> nn.Module:
    """The norm of ``block.norm``."""
    kind = RMSNorm if config.block.norm == "rms" else LayerNorm
    return kind(width, config.block.norm_eps)


def rotary_angles(position: Tensor, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles (arXiv 2104.09864), each (B, 1, T, K / 2).

    ``position`` is (B, T), or (B, T, 2) with a row and a column coordinate: even frequencies then turn with the row,
    odd ones with the column. Text has the same coordinate twice, so for it both forms agree.
    """
    half = head_dim // 2
    frequency = theta ** (-torch.arange(half, device=position.device, dtype=torch.float32) / half)
    if position.ndim == 2:
        angle = position[:, None, :, None].float() * frequency
    else:
        axis = torch.arange(half, device=position.device) % 2
        angle = position[:, None].float()[..., axis] * frequency
    return angle.cos(), angle.sin()


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (first half, second half) of every head by the angles of its position."""
    first, second = x_BHTK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x_BHTK.dtype)


class Attention(nn.Module):
    """Self-attention with normed queries and keys; the mask comes from outside.

    ``num_kv_heads`` G < H: each head of keys and values serves H / G heads of queries (arXiv 2305.13245).
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        width, block = config.size.width, config.block
        self.num_heads, self.num_kv_heads, self.head_dim = config.size.num_heads, config.num_kv_heads, config.head_dim
        inner, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.qkv = nn.Linear(width, inner + 2 * kv_width, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.norm_all_heads = block.qk_norm == "width"
        self.scale = mup.attention_scale(config)
        match block.qk_norm:
            case "head":
                self.query_norm, self.key_norm = make_norm(config, self.head_dim), make_norm(config, self.head_dim)
            case "width":
                self.query_norm, self.key_norm = make_norm(config, inner), make_norm(config, kv_width)
            case _:
                self.query_norm, self.key_norm = nn.Identity(), nn.Identity()

    def forward(self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = self._queries_keys_values(x_BTD)
        q, k = rotate(q, context.cos, context.sin), rotate(k, context.cos, context.sin)
        if cache is not None:
            k, v = cache.extend(k, v)
        is_grouped = self.num_kv_heads != self.num_heads
        if isinstance(context.mask, BlockMask):
            y_BHTK = flex_attention(q, k, v, block_mask=context.mask, scale=self.scale, enable_gqa=is_grouped)
        else:
            mask = context.mask.to(q.dtype)
            y_BHTK = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale, enable_gqa=is_grouped)
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, self.num_heads * self.head_dim))

    def _queries_keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, T, K), (B, G, T, K), (B, G, T, K), queries and keys normed."""
        B, T, _ = x_BTD.shape
        H, G, K = self.num_heads, self.num_kv_heads, self.head_dim
        mixed = self.qkv(x_BTD)
        if self.norm_all_heads:
            q, k, v = mixed.split((H * K, G * K, G * K), dim=-1)
            mixed = torch.cat((self.query_norm(q), self.key_norm(k), v), dim=-1)
        q, k, v = mixed.view(B, T, H + 2 * G, K).transpose(1, 2).split((H, G, G), dim=1)
        if self.norm_all_heads:
            return q, k, v
        return self.query_norm(q), self.key_norm(k), v


class FeedForward(nn.Module):
    """Two matrices around a squared ReLU (arXiv 2109.08668); no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, None]:
        return self.down(activate(self.up(x_BTD), "relu2")), None


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (arXiv 2002.05202); gate and up are the halves of one matrix (2F, D), no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, None]:
        return self.down(activate(self.up(x_BTD), "swiglu")), None


def activate(x: Tensor, ffn: str) -> Tensor:
    """The nonlinearity of ``block.ffn`` between two matrices: (..., F) -> (..., F), or (..., 2F) -> (..., F)."""
    if ffn == "relu2":
        return F.relu(x).square()
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
