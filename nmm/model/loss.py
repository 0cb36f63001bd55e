"""Token-sum losses. The caller divides by the global batch's count, so no split of the batch changes anything.

Shape legend: G text targets, V vocabulary, B rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nmm.batch import Batch
from nmm.model.fusion import Output


def target_losses(output: Output, batch: Batch) -> Tensor:
    """(G,) cross-entropy in nats of every text target, in fp32."""
    return F.cross_entropy(output.logits.float(), batch.targets.reshape(-1)[output.at], reduction="none")


def balance_loss(output: Output) -> Tensor:
    """Sum over rows of the mean over MoE layers of the row's balance loss; 0 for a dense model."""
    if not output.routings:
        return torch.zeros((), device=output.logits.device)
    return torch.stack([r.balance for r in output.routings]).mean(dim=0).sum()
