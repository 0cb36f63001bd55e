"""The learning rate as a pure function of (step, total, branch point): a branch needs no scheduler state."""

from __future__ import annotations

import math

from nmm.config import ConfigError, RunConfig


def factor(step: int, total: int, branch_step: int, warmup: int, shape: str) -> float:
    """Share of the peak learning rate used by the update numbered ``step`` (0-based).

    Linear warmup over ``warmup`` updates, constant until ``branch_step``, then a cooldown that would reach 0 at
    ``total``. Raises ``ValueError`` for an unknown ``shape``; ``cooldown`` has the shapes.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if step < branch_step:
        return rise
    return rise * cooldown((step - branch_step + 1) / (total - branch_step + 1), shape)


def cooldown(done: float, shape: str) -> float:
    """Share of the constant rate after ``done`` (0..1) of the cooldown: 1 at 0, falling, 0 at 1.

    ``linear``; ``one_minus_sqrt`` (arXiv 2405.18392); ``inverse_sqrt`` (the word of arXiv 2504.07951, which gives no
    formula): (1 + 3 x)^-1/2, which alone would end at 1/2, stretched so that it ends at 0. With the 3 its mean is 1/3,
    that of one_minus_sqrt, and it leaves the constant rate with a finite slope.
    """
    match shape:
        case "linear":
            return 1.0 - done
        case "one_minus_sqrt":
            return 1.0 - math.sqrt(done)
        case "inverse_sqrt":
            return 2.0 / math.sqrt(1.0 + 3.0 * done) - 1.0
        case _:
            raise ValueError(f"schedule.cooldown_shape={shape!r} is not one of linear, one_minus_sqrt, inverse_sqrt")


def lr_factor(config: RunConfig, step: int) -> float:
    """``factor`` with the numbers of ``config``. Raises ``ConfigError`` when its warmup is still a rule."""
    schedule = config.schedule
    if schedule.warmup_rule != "fixed":
        raise ConfigError(
            f"schedule.warmup_rule={schedule.warmup_rule} is not resolved yet; call nmm.resolve.finalize(config) first"
        )
    return factor(step, config.total_steps, config.branch_step, schedule.warmup_steps, schedule.cooldown_shape)
