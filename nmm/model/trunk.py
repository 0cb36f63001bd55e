"""The one trunk of every family: pre-norm blocks over (B, T, D).

Shape legend: B batch, T position, D width, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.flops import ffn_hidden
from nmm.model.layers import Attention, Context, FeedForward, RMSNorm
from nmm.model.moe import MoE, Routing


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); ``ffn`` is dense or a mixture of experts."""

    def __init__(self, width: int, num_heads: int, ffn: FeedForward | MoE) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, num_heads)
        self.ffn_norm = RMSNorm(width)
        self.ffn = ffn

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Routing | None]:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), context)
        y_BTD, routing = self.ffn(self.ffn_norm(x_BTD), context.valid)
        return x_BTD + y_BTD, routing


class Trunk(nn.Module):
    """``depth`` blocks and a final norm. Returns the features and one Routing a MoE layer."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        width, hidden = config.size.width, ffn_hidden(config)
        self.blocks = nn.ModuleList(
            Block(width, config.size.num_heads, _ffn(config, width, hidden)) for _ in range(config.size.depth)
        )
        self.norm = RMSNorm(width)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, list[Routing]]:
        routings = []
        for block in self.blocks:
            x_BTD, routing = block(x_BTD, context)
            if routing is not None:
                routings.append(routing)
        return self.norm(x_BTD), routings


def _ffn(config: RunConfig, width: int, hidden: int) -> FeedForward | MoE:
    if config.arch.num_experts:
        return MoE(width, hidden, config.arch.num_experts, config.arch.top_k)
    return FeedForward(width, hidden)
