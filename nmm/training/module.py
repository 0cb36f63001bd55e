"""One optimizer step per batch, with our own accumulation: Lightning's is wrong for unequal valid-token counts."""

from __future__ import annotations

import lightning
import torch
import torch.distributed as dist
from torch import Tensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import loss_sums, objective
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

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sums of ``nmm.model.loss`` over a micro-batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.numerics.precision == "bf16"):
            output = self.model(batch)
        return loss_sums(output, batch, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One update from one batch: the rows of this rank for one optimizer step."""
        config, world = self.config, self.trainer.world_size
        forward = self if world == 1 else self.trainer.model  # DDP's wrapper, which sums gradients over ranks
        assert forward is not None
        count = self._over_ranks(batch.weights.sum())
        total = torch.zeros((), device=self.device)
        for part in batch.split(config.trainer.micro_batches):
            sums = forward(part)
            self.manual_backward(objective(sums, count, config) * world)  # DDP averages over ranks; the sum is wanted
            total += sums["ce"].detach()
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
