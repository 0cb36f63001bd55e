"""Dropless mixture of experts: token-choice top-k routing and grouped matrix products.

Shape legend: B batch, T position, D width, E experts, F hidden, S = B * T * top_k routed slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.flops import ffn_hidden
from nmm.model.layers import Context


@dataclass(frozen=True)
class Routing:
    """Statistics of one layer on one batch.

    balance, router_z (B,): the row's balance loss and mean squared log-partition; load (E,): valid slots an expert.
    """

    balance: Tensor
    router_z: Tensor
    load: Tensor


class MoE(nn.Module):
    """``num_experts`` squared-ReLU FFNs of which each token uses ``top_k``, weighted by the router's probability.

    No token is dropped and no capacity is set. The weights of the chosen experts are not renormalised, so that with
    top-1 the router still gets a gradient (arXiv 2101.03961).
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        width, hidden = config.size.width, ffn_hidden(config)
        num_experts, top_k = config.arch.num_experts, config.arch.top_k
        self.num_experts, self.top_k = num_experts, top_k
        self.router = nn.Linear(width, num_experts, bias=False)
        self.up = nn.Parameter(torch.empty(num_experts, width, hidden))
        self.down = nn.Parameter(torch.empty(num_experts, hidden, width))

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Routing]:
        B, T, D = x_BTD.shape
        logits_BTE = self.router(x_BTD).float()
        probability_BTE = logits_BTE.softmax(dim=-1)
        gate_BTk, expert_BTk = probability_BTE.topk(self.top_k, dim=-1)
        expert_S = expert_BTk.reshape(-1)
        order_S = expert_S.argsort(stable=True)
        token_S = order_S // self.top_k
        counts_E = F.one_hot(expert_S, self.num_experts).sum(dim=0)
        y_SD = self._experts(x_BTD.reshape(-1, D)[token_S], counts_E)
        y_SD = y_SD * gate_BTk.reshape(-1)[order_S, None].to(y_SD.dtype)
        y_TD = torch.zeros_like(x_BTD).reshape(-1, D).index_add(0, token_S, y_SD)
        return y_TD.view(B, T, D), self._statistics(logits_BTE, probability_BTE, expert_BTk, context.valid)

    def _experts(self, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        """Slots sorted by expert through their experts; an expert without slots costs nothing."""
        ends_E = counts_E.cumsum(0).to(torch.int32)
        hidden_SF = F.grouped_mm(x_SD, self.up.to(x_SD.dtype), offs=ends_E)
        return F.grouped_mm(F.relu(hidden_SF).square(), self.down.to(x_SD.dtype), offs=ends_E)

    def _statistics(
        self, logits_BTE: Tensor, probability_BTE: Tensor, expert_BTk: Tensor, valid_BT: Tensor
    ) -> Routing:
        """Balance loss E * sum_e f_e P_e (arXiv 2101.03961, eq. 4), taken row by row.

        Rows are never split between micro-batches or ranks, so the sum over rows does not depend on either.
        """
        chosen_BTE = F.one_hot(expert_BTk, self.num_experts).sum(dim=2).to(valid_BT.dtype) * valid_BT[..., None]
        count_B1 = valid_BT.sum(dim=1, keepdim=True).clamp(min=1)
        share_BE = chosen_BTE.sum(dim=1) / (count_B1 * self.top_k)
        mean_BE = (probability_BTE * valid_BT[..., None]).sum(dim=1) / count_B1
        z_B = (logits_BTE.logsumexp(dim=-1).square() * valid_BT).sum(dim=1) / count_B1[:, 0]
        balance_B = self.num_experts * (share_BE * mean_BE).sum(dim=1)
        return Routing(balance_B, z_B, chosen_BTE.sum(dim=(0, 1)).detach())


def loop_over_experts(layer: MoE, x_BTD: Tensor) -> Tensor:
    """The same function as ``MoE.forward`` without grouped products, one expert after the other: the test's oracle."""
    B, T, D = x_BTD.shape
    x_TD = x_BTD.reshape(-1, D)
    probability_TE = layer.router(x_TD).float().softmax(dim=-1)
    gate_Tk, expert_Tk = probability_TE.topk(layer.top_k, dim=-1)
    y_TD = torch.zeros_like(x_TD)
    for e in range(layer.num_experts):
        weight_T1 = (gate_Tk * (expert_Tk == e)).sum(dim=-1, keepdim=True)
        y_TD = y_TD + weight_T1 * (F.relu(x_TD @ layer.up[e]).square() @ layer.down[e])
    return y_TD.view(B, T, D)
