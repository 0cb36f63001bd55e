"""Ranks: which strategy Lightning uses and which process writes."""

from __future__ import annotations

import os
import sys
from typing import Any

import lightning
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from nmm.config import RunConfig
from nmm.training.callbacks import StepBoundary
from nmm.training.progress import ProgressBar


def rank() -> int:
    """This process among the ranks of the run (one machine)."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """True in the process that owns the run directory (rank 0)."""
    return rank() == 0


def make_trainer(config: RunConfig, steps: int, boundary: StepBoundary) -> lightning.Trainer:
    """A Trainer that only runs the loop: metrics, checkpoints, evaluation and signals are ours.

    ``LightningEnvironment`` keeps Lightning from reacting to SLURM by itself (it would save inside the signal handler
    and load a stale checkpoint of its own).
    """
    trainer = config.trainer
    plugins: list[Any] = [LightningEnvironment()]
    watched = trainer.progress and is_main() and sys.stderr.isatty()
    return lightning.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=DDPStrategy(find_unused_parameters=True) if trainer.devices > 1 else "auto",
        plugins=plugins,
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
