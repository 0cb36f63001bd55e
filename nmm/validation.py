"""Which configurations are possible: every refusal names the field, its value and the fix.

``nmm.config`` exports what others need from here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmm.config import RunConfig


class ConfigError(ValueError):
    """A configuration a person has to mend: the message names the field, its value and what is allowed."""


_CHOICES = {
    "role": ("run", "trunk", "branch"),
    "arch.fusion": ("early", "late"),
    "arch.pairing": ("flops", "params", "none"),
    "arch.connector": ("linear", "mlp"),
    "arch.image_attention": ("bidirectional", "causal"),
    "schedule.cooldown_shape": ("linear", "one_minus_sqrt"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.compile": ("auto", "on", "off"),
    "trainer.accelerator": ("cpu", "gpu"),
    "logger.name": ("none", "wandb_offline"),
}

_POSITIVE = {
    "size": ("width", "depth", "num_heads", "mlp_ratio", "vision_width", "vision_depth", "vision_heads"),
    "data": ("image_size", "patch_size", "channels", "context_length", "eval_rows"),
    "optim": ("lr_width", "vision_lr_scale", "eps", "grad_clip"),
    "trainer": ("rows_per_step", "micro_batches", "devices", "threads", "log_every_steps"),
}

_NOT_NEGATIVE = {
    "arch": ("balance_coef",),
    "optim": ("weight_decay",),
    "schedule": ("warmup_steps",),
    "trainer": ("num_workers", "checkpoint_every_seconds", "checkpoint_every_steps", "eval_every_steps"),
}


def _get(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def validate(config: RunConfig) -> RunConfig:
    """Return the config unchanged, or raise ``ConfigError`` naming the field, its value and the fix."""
    for name, allowed in _CHOICES.items():
        if _get(config, name) not in allowed:
            raise ConfigError(f"{name}={_get(config, name)!r} is not one of {', '.join(allowed)}")
    for table, bound in ((_POSITIVE, "greater than 0"), (_NOT_NEGATIVE, "0 or more")):
        for name in (f"{group}.{field}" for group, fields in table.items() for field in fields):
            value = _get(config, name)
            if not (value > 0 if table is _POSITIVE else value >= 0):
                raise ConfigError(f"{name}={value!r} must be {bound}")
    _validate_optim(config)
    _validate_shapes(config)
    _validate_budget(config)
    _validate_mixture(config.data.mixture)
    _validate_lineage(config)
    return config


def _validate_optim(config: RunConfig) -> None:
    optim = config.optim
    if optim.lr is not None and not optim.lr > 0:
        raise ConfigError(f"optim.lr={optim.lr!r} must be greater than 0, or null for optim.lr_width / size.width")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optim, name) < 1:
            raise ConfigError(f"optim.{name}={getattr(optim, name)!r} must lie in [0, 1)")


def _validate_shapes(config: RunConfig) -> None:
    arch, size, data, trainer = config.arch, config.size, config.data, config.trainer
    if size.width % size.num_heads or (size.width // size.num_heads) % 2:
        raise ConfigError(
            f"size.width={size.width} with size.num_heads={size.num_heads} gives no even head_dim (RoPE needs pairs)"
        )
    if arch.fusion == "late" and size.vision_width % size.vision_heads:
        raise ConfigError(
            f"size.vision_width={size.vision_width} is not a multiple of vision_heads={size.vision_heads}"
        )
    if data.image_size % data.patch_size:
        raise ConfigError(f"data.image_size={data.image_size} is not a multiple of data.patch_size={data.patch_size}")
    if config.tokens_per_image >= data.context_length:
        raise ConfigError(
            f"an image takes {config.tokens_per_image} tokens, data.context_length={data.context_length} leaves no "
            "room for text; raise context_length or patch_size"
        )
    if arch.num_experts < 0 or arch.num_experts == 1:
        raise ConfigError(f"arch.num_experts={arch.num_experts}: use 0 for a dense model or at least 2 experts")
    if arch.num_experts and not 1 <= arch.top_k <= arch.num_experts:
        raise ConfigError(f"arch.top_k={arch.top_k} must lie in 1..num_experts={arch.num_experts}")
    if arch.num_experts and arch.fusion == "late":
        raise ConfigError("arch.num_experts > 0 with arch.fusion=late is not supported; use arch.fusion=early")
    if trainer.rows_per_step % trainer.devices:
        raise ConfigError(
            f"trainer.rows_per_step={trainer.rows_per_step} is not a multiple of devices={trainer.devices}"
        )
    if trainer.micro_batches > trainer.rows_per_step // trainer.devices:
        raise ConfigError(
            f"trainer.micro_batches={trainer.micro_batches} exceeds the {trainer.rows_per_step // trainer.devices} "
            "rows of a rank's step; rows are never split"
        )


def _validate_budget(config: RunConfig) -> None:
    given = {k: v for k, v in dataclasses.asdict(config.budget).items() if v is not None}
    if len(given) != 1:
        raise ConfigError(f"budget needs exactly one of tokens, flops, steps; got {given or 'none'}")
    name, value = next(iter(given.items()))
    if not value > 0:
        raise ConfigError(f"budget.{name}={value!r} must be greater than 0")
    if not 0 <= config.schedule.cooldown_fraction < 1:
        raise ConfigError(f"schedule.cooldown_fraction={config.schedule.cooldown_fraction} must lie in [0, 1)")


def _validate_mixture(mixture: dict[str, float]) -> None:
    if not mixture or any(w < 0 for w in mixture.values()) or not sum(mixture.values()) > 0:
        raise ConfigError(f"data.mixture={mixture} needs non-negative weights with a positive sum")


def _validate_lineage(config: RunConfig) -> None:
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
