"""Which runs are possible: optimiser, start, ranks, budget, lineage."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from nmm.validation.model import validate_mup
from nmm.validation.tables import ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig


def validate_optim(config: RunConfig) -> None:
    """Refuse rates and moments that cannot be."""
    optim = config.optim
    for name, value in (("optim.lr", optim.lr), ("size.lr", config.size.lr)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value!r} must be greater than 0, or null for the next rule (nmm/groups.py)")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optim, name) < 1:
            raise ConfigError(f"optim.{name}={getattr(optim, name)!r} must lie in [0, 1)")
    if 0 < optim.spike_factor <= 1:
        raise ConfigError(f"optim.spike_factor={optim.spike_factor} must be above 1 (e.g. 2), or 0 for no spikes")
    if optim.mup:
        validate_mup(config)


def validate_start(config: RunConfig) -> None:
    """Refuse a start that contradicts itself or the stage."""
    start = config.start
    if (start.kind == "scratch") == bool(start.path):
        raise ConfigError(f"start.kind={start.kind!r} with start.path={start.path!r}: hf and run need a directory, "
                          "scratch has none")  # fmt: skip
    if start.embeddings == "fresh" and start.kind == "scratch":
        raise ConfigError("start.embeddings=fresh: from scratch all weights are fresh; leave it at load")
    if config.stage.name == "rft" and start.kind != "run":
        raise ConfigError(f"stage=rft with start.kind={start.kind}: it goes on from a run of ours, `nmm rft run=RUN`")
    if config.stage.name == "sft" and start.kind == "scratch":
        raise ConfigError("stage=sft tunes a pretrained model: add start=run start.path=RUN_DIRECTORY (or start=hf)")


def validate_ranks(config: RunConfig) -> None:
    """Refuse rows that ranks cannot share."""
    trainer = config.trainer
    if trainer.rows_per_step % trainer.world_size:
        raise ConfigError(
            f"trainer.rows_per_step={trainer.rows_per_step} is not a multiple of the {trainer.world_size} ranks "
            f"(devices={trainer.devices} x num_nodes={trainer.num_nodes})"
        )
    if trainer.micro_batches > trainer.rows_per_step // trainer.world_size:
        raise ConfigError(
            f"trainer.micro_batches={trainer.micro_batches} exceeds the {trainer.rows_per_step // trainer.world_size} "
            "rows of a rank's step; rows are never split"
        )


def validate_budget(config: RunConfig) -> None:
    """Refuse anything but one budget."""
    given = {k: v for k, v in dataclasses.asdict(config.budget).items() if v is not None}
    if len(given) != 1:
        raise ConfigError(f"budget needs exactly one of tokens, flops, steps; got {given or 'none'}")
    name, value = next(iter(given.items()))
    if not value > 0:
        raise ConfigError(f"budget.{name}={value!r} must be greater than 0")
    if not 0 <= config.schedule.cooldown_fraction < 1:
        raise ConfigError(f"schedule.cooldown_fraction={config.schedule.cooldown_fraction} must lie in [0, 1)")


def validate_lineage(config: RunConfig) -> None:
    """Refuse a trunk or branch that contradicts its parent or steps."""
    if (config.role == "branch") != bool(config.parent.run_id):
        raise ConfigError(f"role={config.role!r} with parent.run_id={config.parent.run_id!r}: a branch, and only a "
                          "branch, names its trunk")  # fmt: skip
    if (config.role == "trunk") != bool(config.keep_steps):
        raise ConfigError(f"role={config.role!r} with keep_steps={config.keep_steps}: a trunk, and only a trunk, keeps "
                          "the checkpoints its branches start from")  # fmt: skip
    if config.role == "trunk" and config.schedule.cooldown_fraction != 0:
        raise ConfigError("a trunk has no cooldown: set schedule.cooldown_fraction=0")
    if config.budget.steps is None:
        return  # which steps there are is known once the budget is resolved; ``finalize`` comes here again
    if config.role == "branch" and not 1 <= config.parent.step <= config.branch_step:
        raise ConfigError(
            f"parent.step={config.parent.step} must lie in 1..{config.branch_step}: a branch of {config.total_steps} "
            f"steps with schedule.cooldown_fraction={config.schedule.cooldown_fraction} leaves its trunk before cooling"
        )
    if config.role == "trunk" and not all(1 <= step <= config.total_steps for step in config.keep_steps):
        raise ConfigError(f"keep_steps={config.keep_steps} must lie in 1..{config.total_steps}, the steps of the trunk")
