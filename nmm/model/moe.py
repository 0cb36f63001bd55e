"""Dropless mixture of experts: token-choice top-k routing and grouped matrix products.

Shape legend: B batch, T position, D width, E experts, F hidden of one expert, N = B * T, k experts a position,
S = N * k slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmm.config import RunConfig
from nmm.flops import expert_hidden
from nmm.model.layers import Context, FeedForward, SwiGLU, activate


@dataclass(frozen=True)
class Routing:
    """How one layer routed one batch; what is computed from it is in ``nmm.model.balancing`` and ``specialisation``.

    logits (B, T, E): fp32, -inf for experts the position may not choose; probability (B, T, E): their softmax;
    expert (B, T, k): those chosen; ends (E,): where an expert's slots end among all slots that experts computed. valid
    (B, T): 0 in padding; is_image (B, T): bool. The first ``image_experts`` experts are for image positions, the others
    for text; 0 where all experts are for both.
    """

    logits: Tensor
    probability: Tensor
    expert: Tensor
    ends: Tensor
    valid: Tensor
    is_image: Tensor
    image_experts: int = 0


class MoE(nn.Module):
    """``num_experts`` FFNs of which each token uses ``top_k``, weighted by the router's probability.

    ``granularity`` g cuts each of them into g of hidden / g, of which a token uses top_k * g; ``shared_experts`` more
    of that hidden width take every token, with weight 1 (arXiv 2401.06066). No token is dropped and no capacity is set.
    The weights of the chosen experts are not renormalised, so that with top-1 the router still gets a gradient
    (arXiv 2101.03961). ``routing`` aware gives image and text positions experts of their own, among which the router
    chooses; with one each it has no choice and the weight is 1. ``balancing`` bias: ``bias`` (E,) is added to the
    probability where experts are chosen, not in the weight (arXiv 2408.15664); ``nmm.model.balancing`` moves it.

    The router computes in fp32, the experts in the dtype of autocast. Padding is routed like any other position.
    """

    bias: Tensor | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        arch, width, hidden = config.arch, config.size.width, expert_hidden(config)
        self.num_experts, self.top_k = arch.num_experts * arch.granularity, arch.top_k * arch.granularity
        self.image_experts = arch.image_experts * arch.granularity
        self.activation = config.block.ffn
        is_gated = self.activation == "swiglu"
        self.router = nn.Linear(width, self.num_experts, bias=False)
        self.up = nn.Parameter(torch.empty(self.num_experts, width, 2 * hidden if is_gated else hidden))
        self.down = nn.Parameter(torch.empty(self.num_experts, hidden, width))
        self.shared: nn.Module | None = None
        if arch.shared_experts:
            self.shared = (SwiGLU if is_gated else FeedForward)(width, arch.shared_experts * hidden)
        self.register_buffer("bias", torch.zeros(self.num_experts) if arch.balancing == "bias" else None)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Routing]:
        logits_BTE = self._logits(x_BTD, context)
        probability_BTE = logits_BTE.softmax(dim=-1)
        gate_BTk, expert_BTk = self._choose(logits_BTE, probability_BTE)
        y_BTD, ends_E = self._through_experts(x_BTD, gate_BTk, expert_BTk)
        if self.shared is not None:
            y_BTD = y_BTD + self.shared(x_BTD, context)[0]
        known = (context.valid, context.is_image, self.image_experts)
        return y_BTD, Routing(logits_BTE, probability_BTE, expert_BTk, ends_E, *known)

    def _logits(self, x_BTD: Tensor, context: Context) -> Tensor:
        """(B, T, E) in fp32, -inf where an expert is not for the position's modality."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            logits_BTE = F.linear(x_BTD.float(), self.router.weight.float())
        if not self.image_experts:
            return logits_BTE
        is_for_image_E = self._experts(x_BTD) < self.image_experts
        return logits_BTE.masked_fill(context.is_image[..., None] != is_for_image_E, float("-inf"))

    def _choose(self, logits_BTE: Tensor, probability_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of every position's experts, (B, T, k) each."""
        if self.bias is not None:
            score_BTE = (probability_BTE + self.bias).masked_fill(logits_BTE == float("-inf"), float("-inf"))
            expert_BTk = score_BTE.topk(self.top_k, dim=-1).indices
            return probability_BTE.gather(-1, expert_BTk), expert_BTk
        if self.top_k == 1:
            gate_BT1, expert_BT1 = probability_BTE.max(dim=-1, keepdim=True)
            return gate_BT1, expert_BT1
        gate_BTk, expert_BTk = probability_BTE.topk(self.top_k, dim=-1)
        return gate_BTk, expert_BTk

    def _through_experts(self, x_BTD: Tensor, gate_BTk: Tensor, expert_BTk: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum over every position's experts, and (E,) where each expert's slots end.

        Slots are sorted by expert, so that each expert's are one block; an expert without slots costs nothing.
        """
        (B, T, D), k = x_BTD.shape, self.top_k
        expert_S, order_S = expert_BTk.reshape(-1).sort(stable=True)
        ends_E = torch.searchsorted(expert_S, self._experts(x_BTD), right=True, out_int32=True)
        slot_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=x_BTD.device))
        position_S = order_S if k == 1 else order_S // k
        x_SD = _Rearrange.apply(x_BTD.reshape(-1, D).to(_compute_dtype(x_BTD)), position_S, slot_S, k)
        hidden_SF = F.grouped_mm(x_SD, self.up.to(x_SD.dtype), offs=ends_E)
        y_SD = F.grouped_mm(activate(hidden_SF, self.activation), self.down.to(x_SD.dtype), offs=ends_E)
        y_BTkD = _Rearrange.apply(y_SD, slot_S, order_S, 1).view(B, T, k, D) * gate_BTk[..., None]
        return (y_BTkD.squeeze(2) if k == 1 else y_BTkD.sum(dim=2)).to(y_SD.dtype), ends_E

    def _experts(self, like: Tensor) -> Tensor:
        """(E,) 0, 1, 2, ..."""
        return torch.arange(self.num_experts, device=like.device)


class _Rearrange(torch.autograd.Function):
    """Rows of a matrix in another order, each ``copies`` times: forward and backward are both plain gathers."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, row_S: Tensor, slot_S: Tensor, copies: int) -> Tensor:
        """Row s of the result is row ``row_S[s]``; copy c of row n is at ``slot_S[n * copies + c]``."""
        ctx.save_for_backward(slot_S)
        ctx.copies = copies
        return x_ND.index_select(0, row_S)

    @staticmethod
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None, None, None]:
        (slot_S,) = ctx.saved_tensors
        grad_SD = grad_SD.index_select(0, slot_S)
        if ctx.copies > 1:
            grad_SD = grad_SD.view(-1, ctx.copies, grad_SD.shape[-1]).sum(dim=1)
        return grad_SD, None, None, None


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype a Linear would compute in: that of autocast, which does not know grouped products."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def loop_over_experts(layer: MoE, x_BTD: Tensor, context: Context) -> Tensor:
    """What ``MoE.forward`` puts out, in plain products, one expert after the other: the oracle of the tests."""
    x_ND, is_image_N = x_BTD.reshape(-1, x_BTD.shape[-1]), context.is_image.reshape(-1)
    logits_NE = x_ND.float() @ layer.router.weight.float().T
    if layer.image_experts:
        logits_NE[is_image_N, layer.image_experts :] = float("-inf")
        logits_NE[~is_image_N, : layer.image_experts] = float("-inf")
    probability_NE = logits_NE.softmax(dim=-1)
    score_NE = probability_NE if layer.bias is None else probability_NE + layer.bias
    expert_Nk = score_NE.masked_fill(logits_NE.isinf(), float("-inf")).topk(layer.top_k, dim=-1).indices
    y_ND = torch.zeros_like(x_ND)
    for e in range(layer.num_experts):
        mine = (expert_Nk == e).any(dim=-1).nonzero().squeeze(1)
        out = activate(x_ND[mine] @ layer.up[e].to(x_ND.dtype), layer.activation) @ layer.down[e].to(x_ND.dtype)
        y_ND = y_ND.index_add(0, mine, out * probability_NE[mine, e, None].to(out.dtype))
    y_BTD = y_ND.view_as(x_BTD)
    return y_BTD if layer.shared is None else y_BTD + layer.shared(x_BTD, context)[0]
