"""Token-sum losses. The caller divides by the global batch's count, so no split of the batch changes anything.

Shape legend: G text targets, V vocabulary, B rows, L layers with experts, E experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.balancing import balance_losses, loads, router_z_losses
from nmm.model.fusion import Output, pixels


def target_losses(output: Output, batch: Batch) -> Tensor:
    """(G,) cross-entropy in nats of every text target, in fp32."""
    return F.cross_entropy(output.logits.float(), batch.targets.reshape(-1)[output.at], reduction="none")


def patch_losses(output: Output, batch: Batch, config: RunConfig) -> Tensor:
    """(G,) mean squared error, over the pixels of a patch, of every patch that is predicted from those before it."""
    following = pixels(batch.patches, config.data)[:, 1:].flatten(0, 1)
    return (output.logits.float() - following).square().mean(dim=-1)


def balance_loss(output: Output) -> Tensor:
    """Sum over rows of the mean over MoE layers of the row's balance loss; 0 for a dense model."""
    if not output.routings:
        return torch.zeros((), device=output.logits.device)
    return balance_losses(output.routings).mean(dim=0).sum()


def loss_sums(output: Output, batch: Batch, config: RunConfig) -> dict[str, Tensor]:
    """Sums over a micro-batch: ``ce`` and ``z`` over its targets, ``balance`` and ``router_z`` over its rows.

    ``ce`` is the squared error of pixels where stage.objective=next_patch. Losses that are not asked for are left out.
    Those of the router are means over the layers with experts; ``load`` (L, E) counts slots and has no gradient.
    """
    is_pixels = config.bridge is not None and config.stage.objective == "next_patch"
    losses = patch_losses(output, batch, config) if is_pixels else target_losses(output, batch)
    sums = {"ce": losses.sum()}
    if config.optim.z_loss_coef:
        sums["z"] = output.logits.float().logsumexp(dim=-1).square().sum()  # arXiv 2204.02311, section 5
    if output.routings:
        if config.arch.balancing == "loss":
            sums["balance"] = balance_loss(output)
        if config.arch.router_z_coef:
            sums["router_z"] = router_z_losses(output.routings).mean(dim=0).sum()
        sums["load"] = loads(output.routings).sum(dim=1)
    return sums


def objective(sums: dict[str, Tensor], targets: Tensor, config: RunConfig) -> Tensor:
    """What is minimised: its sum over all micro-batches and ranks of a step is the step's loss.

    ``targets`` is the step's count over all micro-batches and ranks.
    """
    arch, rows = config.arch, config.trainer.rows_per_step
    loss = sums["ce"] / targets
    if "z" in sums:
        loss = loss + config.optim.z_loss_coef * sums["z"] / targets
    if "balance" in sums:
        loss = loss + arch.balance_coef * sums["balance"] / rows
    if "router_z" in sums:
        loss = loss + arch.router_z_coef * sums["router_z"] / rows
    return loss
