"""What happens at a step boundary: order hash, metrics, checkpoint, stop flag. And the optional wandb mirror."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch import Tensor

from nmm.batch import Batch, Skipped
from nmm.config import RunConfig, run_id
from nmm.data.order import OrderHash
from nmm.evaluate import routing_row
from nmm.record import Attempt
from nmm.training.checkpoint import TrainingState, save
from nmm.training.module import TrainingModule
from nmm.training.schedule import lr_factor
from nmm.training.skipped import add_skipped, check_skipped, of_all_ranks
from nmm.training.stopping import Diverged, Interrupted, StopFlag


class StepBoundary(lightning.Callback):
    """Everything a run does between two optimizer steps. Rank 0 writes; every rank keeps the same state."""

    def __init__(
        self,
        config: RunConfig,
        attempt: Attempt | None,
        state: TrainingState,
        flag: StopFlag,
        evaluate: Callable[[], dict[str, Any]],
        mirror: Callable[[dict[str, Any]], None],
        position: Callable[[int], dict[str, Any]],
        planned_samples: Callable[[], int],
    ) -> None:
        self.position, self.planned_samples = position, planned_samples
        self.config, self.attempt, self.state, self.flag = config, attempt, state, flag
        self.evaluate, self.mirror = evaluate, mirror
        self.order = OrderHash(state.order_hash)
        self.saved_at = self.logged_at = 0.0
        self.logged_step = state.step

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._check_flag(trainer)
        if self.state.owes_evaluation:
            self._evaluate()
            self._check_flag(trainer)
        self.saved_at = self.logged_at = time.monotonic()  # joining the ranks takes seconds that are no step's

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, TrainingModule)
        self._advance(trainer, module, batch)
        step, trainer_config = module.step, self.config.trainer
        if step % trainer_config.log_every_steps == 0 or step == self.last_step:
            self._log(module)
        if trainer_config.eval_every_steps and step % trainer_config.eval_every_steps == 0 and step != self.last_step:
            self._evaluate()
        stop, due, num_skipped = self._of_ranks(trainer, self.flag.signum, self._is_due(step), len(batch.skipped))
        skipped = of_all_ranks(batch.skipped, trainer.world_size) if num_skipped else []
        self.state.skipped = add_skipped(self.state.skipped, skipped)
        if stop or due:
            self.state.loader = self.position(step * trainer_config.rows_per_step)
            save(self.attempt, self.config, module, self.state)
            self.saved_at = time.monotonic()
        self._check(skipped)
        if stop and step != self.last_step:
            raise Interrupted(stop, step)

    def _check_flag(self, trainer: lightning.Trainer) -> None:
        stop, *_ = self._of_ranks(trainer, self.flag.signum, False, 0)
        if stop:
            raise Interrupted(stop, self.state.step)

    def _evaluate(self) -> None:
        """One row of held-out losses. Cut short by a signal, it is made before the next step of whoever goes on."""
        self.state.owes_evaluation = True
        with contextlib.suppress(Interrupted):  # the step is over: it is saved first
            row = {"step": self.state.step, **flat(self.evaluate())}
            self.state.owes_evaluation = False
            self._write(row)

    @property
    def last_step(self) -> int:
        """Total updates of the run."""
        return self.config.total_steps

    def _advance(self, trainer: lightning.Trainer, module: TrainingModule, batch: Batch) -> None:
        last, verdict = module.last, module.verdict
        if verdict.action == "stop":
            raise Diverged(verdict.cause, module.step, last["loss"], module.grad_norm)
        self.order.update(_global_rows(trainer, batch.row_ids))
        self.state.step = module.step
        self.state.order_hash = self.order.hexdigest()
        self.state.guard = dataclasses.asdict(module.guard)
        if verdict.action == "update":
            self.state.window_loss += last["loss"] * last["targets"]
            self.state.window_targets += last["targets"]
        elif self.attempt is not None:
            what = f"loss {last['loss']}, gradient norm {module.grad_norm}"
            self.attempt.log(f"step {module.step}: update left out, {verdict.cause}: {what}")

    def _check(self, skipped: list[Skipped]) -> None:
        """Log what could not be read, and stop when it is too much."""
        for one in skipped:
            if self.attempt is not None:
                self.attempt.log(f"step {self.state.step}: {one.source} sample left out, {one.reason}: {one.sample}")
        if skipped:
            check_skipped(self.config, self.state.skipped, self.planned_samples(), skipped[-1])

    def _log(self, module: TrainingModule) -> None:
        """One row; ``train_loss`` is the mean over the targets of the updates made since the last row, if any."""
        now, steps, state = time.monotonic(), module.step - self.logged_step, self.state
        skipped = module.guard.skipped
        self._write(
            {
                "step": module.step,
                "tokens": module.step * self.config.tokens_per_step,
                "train_loss": state.window_loss / state.window_targets if state.window_targets else None,
                "grad_norm": module.grad_norm if math.isfinite(module.grad_norm) else None,
                "lr": self.config.learning_rate * lr_factor(self.config, module.step - 1),
                **load_shares(module.load),
                "skipped_steps": sum(skipped.values()),
                **{f"skipped_{cause}": count for cause, count in skipped.items()},
                "tokens_per_second": steps * self.config.tokens_per_step / max(now - self.logged_at, 1e-9),
            }
        )
        if module.step % self.config.trainer.log_every_steps == 0:  # a trunk's last row must not cut its branches' next
            state.window_loss = state.window_targets = 0.0
        self.logged_at, self.logged_step = now, module.step

    def _write(self, values: dict[str, Any]) -> None:
        if self.attempt is not None:
            self.attempt.log_metrics(values)
            self.mirror(values)

    def _is_due(self, step: int) -> bool:
        trainer = self.config.trainer
        if step in self.config.keep_steps or step == self.last_step:
            return True
        if trainer.checkpoint_every_steps and step % trainer.checkpoint_every_steps == 0:
            return True
        return time.monotonic() - self.saved_at >= trainer.checkpoint_every_seconds > 0

    @staticmethod
    def _of_ranks(trainer: lightning.Trainer, signum: int, due: bool, num_skipped: int) -> tuple[int, bool, int]:
        """A signal that any rank got, whether any rank's clock asks for a checkpoint, and the most samples a rank could
        not read: all of them act alike.
        """
        if trainer.world_size == 1:
            return signum, due, num_skipped
        values = torch.tensor([signum, due, num_skipped], device=trainer.strategy.root_device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        signum, due, num_skipped = values.tolist()
        return signum, bool(due), num_skipped


def flat(evaluation: dict[str, Any]) -> dict[str, Any]:
    """{"loss": {"text": 1.0}} -> {"loss_text": 1.0}, to any depth; of ``routing`` what ``routing_row`` picks."""
    row: dict[str, Any] = {}
    for name, value in evaluation.items():
        if name == "routing":
            row |= routing_row(value)
        else:
            row |= {f"{name}_{key}": v for key, v in flat(value).items()} if isinstance(value, dict) else {name: value}
    return row


def load_shares(load_LE: Tensor | None) -> dict[str, float]:
    """Largest and smallest share of a layer's slots that one expert had in the last step; nothing for a dense model."""
    if load_LE is None:
        return {}
    share_LE = load_LE.double() / load_LE.double().sum(dim=1, keepdim=True)
    return {"expert_load_max": share_LE.max().item(), "expert_load_min": share_LE.min().item()}


def _global_rows(trainer: lightning.Trainer, row_ids: Tensor) -> Tensor:
    """Row ids of the whole step in global order: row r came to rank r mod world."""
    if trainer.world_size == 1:
        return row_ids.cpu()
    parts = [torch.empty_like(row_ids) for _ in range(trainer.world_size)]
    dist.all_gather(parts, row_ids)
    return torch.stack(parts, dim=1).reshape(-1).cpu()


@contextlib.contextmanager
def wandb_mirror(config: RunConfig, directory: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that mirrors metrics to an offline wandb run, or one that does nothing.

    Grouped by sweep and named by run id, all its files in ``directory`` (None on ranks above 0, which mirror nothing).
    Nothing reads it back: metrics.jsonl and record.json are the truth.
    """
    if config.logger.name == "none" or directory is None:
        yield lambda values: None
        return
    # In the environment, as wandb reads its settings twice: a mode given to ``init`` alone leaves its own telemetry on.
    os.environ |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    os.environ.setdefault("WANDB_CACHE_DIR", str(directory / "wandb" / "cache"))
    import wandb

    name = run_id(config)
    settings = wandb.Settings(
        mode="offline", console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False
    )
    run = wandb.init(
        project=config.logger.project, group=config.sweep, name=name, id=name, dir=directory, settings=settings
    )
    try:
        yield lambda values: run.log(values, step=values["step"])
    finally:
        run.finish()
