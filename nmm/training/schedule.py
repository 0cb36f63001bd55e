"""The learning rate as a pure function of (step, total, branch point): a branch needs no scheduler state."""

from __future__ import annotations

import math

from nmm.config import RunConfig


def factor(step: int, total: int, branch_step: int, warmup: int, shape: str) -> float:
    """Share of the peak learning rate used by the update numbered ``step`` (0-based).

    Linear warmup over ``warmup`` updates, constant until ``branch_step``, then a cooldown that would reach 0 at
    ``total``: ``linear``, or ``one_minus_sqrt`` (arXiv 2405.18392).
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if step < branch_step:
        return rise
    done = (step - branch_step + 1) / (total - branch_step + 1)
    match shape:
        case "linear":
            return rise * (1.0 - done)
        case "one_minus_sqrt":
            return rise * (1.0 - math.sqrt(done))
        case _:
            raise ValueError(f"schedule.cooldown_shape={shape!r} is not one of linear, one_minus_sqrt")


def lr_factor(config: RunConfig, step: int) -> float:
    """``factor`` with the numbers of ``config``."""
    schedule = config.schedule
    return factor(step, config.total_steps, config.branch_step, schedule.warmup_steps, schedule.cooldown_shape)
