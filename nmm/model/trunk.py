"""The one trunk of every family: pre-norm blocks over (B, T, D).

Shape legend: B batch, T position, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.flops import ffn_hidden, has_experts
from nmm.model.layers import Attention, Context, FeedForward, LayerCache, SwiGLU, make_norm
from nmm.model.moe import MoE, Routing


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); ``ffn`` is dense or a mixture of experts."""

    def __init__(self, config: RunConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.size.width)
        self.attention = Attention(config)
        self.ffn_norm = make_norm(config, config.size.width)
        self.ffn = _ffn(config, layer)

    def forward(
        self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None
    ) -> tuple[Tensor, Routing | None]:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), context, cache)
        y_BTD, routing = self.ffn(self.ffn_norm(x_BTD), context)
        return x_BTD + y_BTD, routing


class Trunk(nn.Module):
    """``depth`` blocks and a final norm. Returns the features and one Routing a MoE layer."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.size.depth))
        self.norm = make_norm(config, config.size.width)

    def forward(
        self, x_BTD: Tensor, context: Context, caches: Sequence[LayerCache] | None = None
    ) -> tuple[Tensor, list[Routing]]:
        routings = []
        for layer, block in enumerate(self.blocks):
            x_BTD, routing = block(x_BTD, context, caches[layer] if caches else None)
            if routing is not None:
                routings.append(routing)
        return self.norm(x_BTD), routings


def _ffn(config: RunConfig, layer: int) -> FeedForward | SwiGLU | MoE:
    if has_experts(config, layer):
        return MoE(config)
    dense = SwiGLU if config.block.ffn == "swiglu" else FeedForward
    return dense(config.size.width, ffn_hidden(config))
