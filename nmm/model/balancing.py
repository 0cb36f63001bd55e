"""What keeps experts evenly loaded and the router's logits small: two losses, and biases that need no loss.

Shape legend: L layers with experts, B rows, T position, E experts, k experts a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nmm.model.moe import MoE, Routing


def loads(routings: Sequence[Routing]) -> Tensor:
    """(L, B, E) slots of every expert, by row; those of padding are not counted. No gradient."""
    expert_LBTk = torch.stack([r.expert for r in routings])
    L, B, T, k = expert_LBTk.shape
    valid_BTk = routings[0].valid[..., None].expand(B, T, k)
    nothing = valid_BTk.new_zeros(L, B, routings[0].logits.shape[-1])
    return nothing.scatter_add_(2, expert_LBTk.view(L, B, T * k), valid_BTk.reshape(B, T * k).expand(L, B, T * k))


def balance_losses(routings: Sequence[Routing]) -> Tensor:
    """(L, B) balance loss of every row, E * sum_e f_e P_e (arXiv 2101.03961, eq. 4): 1 if balanced, E if collapsed.

    f_e is the expert's share of the row's slots, P_e its mean probability, both over the positions that could choose
    it. With modality-aware routing each modality has its own such loss over its own experts, and the row's is their
    mean by positions. Rows are never split between micro-batches or ranks, so the sum over rows depends on neither. A
    row of padding alone has 0.
    """
    first = routings[0]
    probability_LBTE = torch.stack([r.probability for r in routings])
    num_experts, top_k = probability_LBTE.shape[-1], first.expert.shape[-1]
    count_BE, weight_BE = _could_choose(first, num_experts)
    share_LBE = loads(routings) / (count_BE * top_k)
    mean_LBE = (probability_LBTE * first.valid[..., None]).sum(dim=2) / count_BE
    if first.image_experts:
        return (weight_BE * share_LBE * mean_LBE).sum(dim=2)
    return num_experts * (share_LBE * mean_LBE).sum(dim=2)


def _could_choose(routing: Routing, num_experts: int) -> tuple[Tensor, Tensor]:
    """Positions that could choose an expert, at least 1; and experts they had, times their share of the row.

    Both (B, E), or (B, 1) where every position can choose every expert.
    """
    all_B1 = routing.valid.sum(dim=1, keepdim=True).clamp(min=1)
    if not routing.image_experts:
        return all_B1, torch.full_like(all_B1, num_experts)
    image_B1 = (routing.valid * routing.is_image).sum(dim=1, keepdim=True)
    text_B1 = (routing.valid * ~routing.is_image).sum(dim=1, keepdim=True)
    sizes = (routing.image_experts, num_experts - routing.image_experts)
    both = ((image_B1, sizes[0]), (text_B1, sizes[1]))
    count_BE = torch.cat([count_B1.expand(-1, size) for count_B1, size in both], dim=1)
    weight_BE = torch.cat([(size * count_B1 / all_B1).expand(-1, size) for count_B1, size in both], dim=1)
    return count_BE.clamp(min=1), weight_BE


def router_z_losses(routings: Sequence[Routing]) -> Tensor:
    """(L, B) mean over a row's positions of the squared log-partition of the router (arXiv 2202.08906, eq. 5)."""
    valid_BT = routings[0].valid
    log_partition_LBT = torch.stack([r.logits for r in routings]).logsumexp(dim=-1)
    return (log_partition_LBT.square() * valid_BT).sum(dim=2) / valid_BT.sum(dim=1).clamp(min=1)


@torch.no_grad()
def update_biases(model: nn.Module, load_LE: Tensor, rate: float) -> None:
    """After an optimizer step: move every expert's bias by ``rate`` to an even load (arXiv 2408.15664, algorithm 1).

    ``load_LE`` counts the slots of the whole step, all micro-batches and ranks. An expert with less than the mean gets
    a higher bias, one with more a lower, one with exactly the mean keeps it; with modality-aware routing the mean is
    that of the experts of its modality. Counts are whole numbers: neither their order nor their split changes anything.
    """
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    for layer, load_E in zip(layers, load_LE.double(), strict=True):
        assert layer.bias is not None
        sides = (layer.image_experts, layer.num_experts - layer.image_experts)
        below_E = torch.cat([(part.sum() - len(part) * part).sign() for part in load_E.split(sides)])
        layer.bias += rate * below_E.to(layer.bias.dtype)
