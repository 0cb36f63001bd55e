"""One optimizer step per batch, with our own accumulation: Lightning's is wrong for unequal valid-token counts."""

from __future__ import annotations

import lightning
import torch
import torch.distributed as dist
from torch import Tensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import balance_loss, target_losses
from nmm.training.numerics import Numerics
from nmm.training.optim import build_optimizer, set_lr
from nmm.training.schedule import lr_factor


class TrainingModule(lightning.LightningModule):
    """Holds the model, its optimizer and ``step``, the number of updates made since step 0 of the trunk."""

    def __init__(self, config: RunConfig, model: NativeMultimodalModel, numerics: Numerics) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.model, self.numerics = config, model, numerics
        self.optimizer = build_optimizer(model, config)
        self.step = 0
        self.last: dict[str, float] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over a micro-batch: cross-entropy of its text targets, balance loss of its rows."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.numerics.precision == "bf16"):
            output = self.model(batch)
        return target_losses(output, batch).sum(), balance_loss(output)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One update from one batch: the rows of this rank for one optimizer step."""
        config, world = self.config, self.trainer.world_size
        forward = self if world == 1 else self.trainer.model  # DDP's wrapper, which sums gradients over ranks
        assert forward is not None
        count = self._over_ranks(batch.weights.sum())
        total = torch.zeros((), device=self.device)
        for part in batch.split(config.trainer.micro_batches):
            ce, balance = forward(part)
            loss = ce / count + config.arch.balance_coef * balance / config.trainer.rows_per_step
            self.manual_backward(loss * world)  # DDP averages over ranks; the sum is wanted
            total += ce.detach()
        self._update()
        self.last = {"loss": (self._over_ranks(total) / count).item(), "targets": count.item()}

    def _over_ranks(self, value: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def _update(self) -> None:
        parameters = list(self.model.parameters())
        for parameter in parameters:  # a batch without images must still age the moments, on any number of ranks
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.grad_clip)
        if torch.isfinite(norm):
            set_lr(self.optimizer, lr_factor(self.config, self.step))
            self.optimizer.step()
        self.grad_norm = norm.item()
        self.optimizer.zero_grad()
        self.step += 1
