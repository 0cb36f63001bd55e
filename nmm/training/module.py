"""One optimizer step per batch, with our own accumulation: Lightning's is wrong for unequal valid-token counts."""

from __future__ import annotations

import lightning
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.balancing import update_biases
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import loss_sums, objective
from nmm.training.exchange import reducing, same_parts
from nmm.training.numerics import Numerics
from nmm.training.optim import build_optimizer, set_lr
from nmm.training.schedule import lr_factor
from nmm.training.spikes import Guard, Verdict, judge


class TrainingModule(lightning.LightningModule):
    """Holds the model, its optimizer and ``step``, the number of steps since step 0 of the trunk.

    ``last``, ``grad_norm`` (before clipping), ``verdict`` and ``load`` (see ``nmm.model.loss``; None without experts)
    are those of the last step, over all its micro-batches and ranks.
    """

    def __init__(self, config: RunConfig, model: NativeMultimodalModel, numerics: Numerics) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.model, self.numerics = config, model, numerics
        self.optimizer = build_optimizer(model, config)
        self.step = 0
        self.guard, self.verdict = Guard(), Verdict()
        self.last: dict[str, float] = {}
        self.grad_norm = 0.0
        self.load: Tensor | None = None

    def configure_model(self) -> None:
        """Nothing: the model was sharded, if at all, before its optimizer was made. Lightning's FSDP2 asks for it."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sums of ``nmm.model.loss`` over a micro-batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.numerics.precision == "bf16"):
            output = self.model(batch, bridge=self.config.bridge is not None)
        return loss_sums(output, batch, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One update from one batch: the rows of this rank for one optimizer step."""
        config, world = self.config, self.trainer.world_size
        forward = self if world == 1 else self.trainer.model  # DDP's wrapper, if there is one
        assert forward is not None
        count = self._over_ranks(batch.weights.sum())
        total, loads = torch.zeros((), device=self.device), []
        parts = [same_parts(part, config) for part in batch.split(config.trainer.micro_batches)]
        for number, part in enumerate(parts, start=1):
            with reducing(forward, self.model, last=number == len(parts)):
                sums = forward(part)
                self.manual_backward(objective(sums, count, config) * world)  # ranks are averaged; the sum is wanted
            total += sums["ce"].detach()
            if "load" in sums:
                loads.append(sums["load"])
        self.load = self._over_ranks(torch.stack(loads).sum(dim=0)) if loads else None
        self._update(self._over_ranks(total) / count, count)

    def _over_ranks(self, value: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def learn(self, loss: Tensor, count: Tensor) -> None:
        """One update from gradients that were accumulated elsewhere (`nmm rft`)."""
        self._update(loss, count)

    def _update(self, loss: Tensor, count: Tensor) -> None:
        """Clip, judge, and update unless the verdict is against it; the step counts either way."""
        mean, targets, self.grad_norm = torch.stack((loss, count, self._clip())).tolist()  # one wait for the device
        self.last = {"loss": mean, "targets": targets}
        self.verdict, self.guard = judge(self.guard, mean, self.grad_norm, self.config.optim)
        if self.verdict.action == "update":
            set_lr(self.optimizer, lr_factor(self.config, self.step))
            self.optimizer.step()
            if self.load is not None and self.config.arch.balancing == "bias":
                update_biases(self.model, self.load, self.config.arch.bias_rate)
        self.optimizer.zero_grad()
        self.step += 1

    def _clip(self) -> Tensor:
        """Norm of the whole gradient before clipping, the same on every rank."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:  # a batch without images must still age the moments, on any number of ranks
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.grad_clip)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm
