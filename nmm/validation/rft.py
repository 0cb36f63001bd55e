"""Which reinforcement is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmm.validation.tables import ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig

REWARDS = ("answer", "opposite", "coin")


def validate_rft(config: RunConfig) -> None:
    """Refuse numbers that cannot be, and a group without its stage or a stage without its group."""
    rft = config.rft
    if (rft is None) != (config.stage.name != "rft"):
        raise ConfigError(
            f"stage.name={config.stage.name} with rft={rft}: stage rft, and only it, has this group; use `nmm rft`"
        )
    if rft is None:
        return
    for name in ("pool", "prompts", "max_new_tokens", "temperature"):
        if not getattr(rft, name) > 0:
            raise ConfigError(f"rft.{name}={getattr(rft, name)} must be greater than 0")
    if rft.samples < 2:
        raise ConfigError(f"rft.samples={rft.samples}: answers to one question are compared, so at least 2 are needed")
    if rft.kl_coef < 0:
        raise ConfigError(f"rft.kl_coef={rft.kl_coef} must be 0 or more")
    if rft.reward not in REWARDS:
        raise ConfigError(f"rft.reward={rft.reward!r} is not one of {', '.join(REWARDS)}")
    if config.trainer.rows_per_step != rft.prompts * rft.samples:
        raise ConfigError(
            f"trainer.rows_per_step={config.trainer.rows_per_step}, but {rft.prompts} questions with {rft.samples} "
            "answers each make a step; `nmm rft` sets it"
        )
    if config.trainer.world_size > 1:
        raise ConfigError(f"{config.trainer.world_size} ranks: `nmm rft` runs on one device")
