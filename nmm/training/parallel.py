"""Several ranks: starting and joining them, what they agree on, and Lightning's strategy for them.

Nothing of it is known to the model; sharding it is in ``nmm.training.sharding``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from nmm.config import ConfigError, RunConfig
from nmm.groups import Trainer
from nmm.params import SIZED
from nmm.training.callbacks import StepBoundary
from nmm.training.exchange import has_images
from nmm.training.progress import ProgressBar
from nmm.training.ranks import check_ranks, is_main, place

Made = TypeVar("Made")


class RankZeroFailed(SystemExit):
    """Rank 0 has failed and says why; the other ranks leave without a word and without an error of their own."""

    def __init__(self) -> None:
        super().__init__(0)


class _NoSignals(_SignalConnector):
    """Lightning reacts to no signal: its own handlers end a preempted process with exit status 0, nothing saved."""

    def register_signal_handlers(self) -> None:
        """Nothing: ``nmm.training.stopping`` has installed ours."""


class _Srun(SLURMEnvironment):
    """Without Lightning's requeueing (it would save inside the handler and load a stale checkpoint of its own)."""

    def __init__(self, trainer: Trainer) -> None:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(trainer.devices))  # which `srun --ntasks` leaves out
        if trainer.num_nodes == 1:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        super().__init__(auto_requeue=False)
        try:
            socket.getaddrinfo(self.main_address, None)
        except OSError as error:  # ranks would wait for it without a word
            raise ConfigError(
                f"the ranks of this run are to meet at {self.main_address}, a name that {socket.gethostname()} cannot "
                f"look up ({error}); export MASTER_ADDR=ADDRESS of the job's first node, e.g. in slurm/env.sh"
            ) from error

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: ``check_ranks`` did it, from the numbers of the step and not of the whole job."""


def environment(config: RunConfig) -> LightningEnvironment | SLURMEnvironment | TorchElasticEnvironment:
    """How Lightning learns of ranks and addresses. Raises ``ConfigError`` when they are not those of the config."""
    check_ranks(config)
    match place().starter:
        case "srun":
            return _Srun(config.trainer)
        case "torchrun":
            return TorchElasticEnvironment()
        case _:
            return LightningEnvironment()


def join(config: RunConfig) -> None:
    """Connect all ranks of the run; started by hand, a process first starts the others of its node. Idempotent.

    Raises ``ConfigError`` when the ranks that were started, or the GPUs of this node, are not those of the config.
    """
    plugin, trainer = environment(config), config.trainer
    if trainer.accelerator == "gpu" and torch.cuda.device_count() < trainer.devices:
        raise ConfigError(
            f"trainer.accelerator=gpu with trainer.devices={trainer.devices}, but this process sees "
            f"{torch.cuda.device_count()} GPUs; give fewer devices, or trainer.accelerator=cpu"
        )
    if trainer.world_size == 1 or dist.is_initialized():
        return
    lightning.Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy="ddp",  # only processes and their connection are made here; nothing is wrapped
        plugins=[plugin],
    ).launch()


def on_main(make: Callable[[], Made]) -> Made | None:
    """What ``make()`` returns on rank 0; None on the others, which wait for it.

    An error it raises is rank 0's; the other ranks get ``RankZeroFailed``.
    """
    made, succeeded = None, [False]
    try:
        if is_main():
            made = make()
            succeeded = [True]
    finally:
        if dist.is_initialized():
            dist.broadcast_object_list(succeeded, src=0)
    if not succeeded[0]:
        raise RankZeroFailed
    return made


def from_main(make: Callable[[], Made]) -> Made:
    """As ``on_main``, but every rank gets what rank 0 has made."""
    box: list[Any] = [on_main(make)]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def describe_ranks(config: RunConfig) -> str:
    """How many ranks, how they share the work and who started them, for a log."""
    trainer = config.trainer
    if trainer.world_size == 1:
        return "1 rank"
    return f"{trainer.world_size} ranks on {trainer.num_nodes} nodes, {trainer.strategy}, started by {place().starter}"


def make_trainer(config: RunConfig, steps: int, boundary: StepBoundary) -> lightning.Trainer:
    """A Trainer that only runs the loop: metrics, checkpoints, evaluation and signals are ours."""
    trainer = config.trainer
    watched = trainer.progress and is_main() and sys.stderr.isatty()
    made = lightning.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=_strategy(config) if trainer.world_size > 1 else "auto",
        plugins=[environment(config)],
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[boundary, ProgressBar(config)] if watched else [boundary],
    )
    made._signal_connector = _NoSignals(made)
    return made


def _strategy(config: RunConfig) -> DDPStrategy | ModelParallelStrategy:
    trainer = config.trainer
    if trainer.strategy == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=trainer.world_size, tensor_parallel_size=1)
    nets = {config.arch.vision_model, config.arch.vision_model2}
    foreign = bool(nets - {"", SIZED})  # may have parameters that its features do not use, and running statistics
    return DDPStrategy(
        find_unused_parameters=foreign or not has_images(config),  # else all are used in every batch: ``with_image``
        broadcast_buffers=foreign,  # our own, biases of experts, move alike on every rank
        gradient_as_bucket_view=True,  # one copy of the gradients, not two
    )


def device_of(config: RunConfig) -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", place().local_rank) if config.trainer.accelerator == "gpu" else torch.device("cpu")
