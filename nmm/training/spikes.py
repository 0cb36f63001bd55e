"""Which updates are made: a state machine over loss and gradient norm, so that none is left out silently. No torch.

Every rank sees the same two numbers, so every rank decides alike. A step whose update is left out still counts: its
tokens were delivered, data order and schedule go on; weights and moments stay as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from nmm.config import Optim

WINDOW = 50  # updates the running mean looks back on, and how many it must have seen before it can call out a spike


@dataclass(frozen=True)
class Guard:
    """``mean`` loss in nats of the last updates made, ``seen`` updates made, ``skipped`` updates left out by cause."""

    mean: float = 0.0
    seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """``action``: update | skip | stop; ``cause``: nan_loss | nan_gradient | spike | too_many_skips, or empty."""

    action: str = "update"
    cause: str = ""


def judge(guard: Guard, loss: float, grad_norm: float, optim: Optim) -> tuple[Verdict, Guard]:
    """What to do with the gradient of a step, and the guard after it.

    ``loss``: mean over the step's targets on all ranks, in nats; ``grad_norm``: before clipping. The first ``WINDOW``
    updates are never spikes: their mean is still moving. More than ``optim.max_skips`` skips in a run stop it.
    """
    cause = find_cause(guard, loss, grad_norm, optim.spike_factor)
    if not cause:
        weight = 1.0 / min(guard.seen + 1, WINDOW)
        return Verdict(), replace(guard, mean=guard.mean + weight * (loss - guard.mean), seen=guard.seen + 1)
    if (optim.on_spike if cause == "spike" else optim.on_nonfinite) == "stop":
        return Verdict("stop", cause), guard
    guard = replace(guard, skipped={**guard.skipped, cause: guard.skipped.get(cause, 0) + 1})
    if sum(guard.skipped.values()) > optim.max_skips:
        return Verdict("stop", "too_many_skips"), guard
    return Verdict("skip", cause), guard


def find_cause(guard: Guard, loss: float, grad_norm: float, spike_factor: float) -> str:
    """Why this step must not move the weights; empty when nothing is wrong. ``spike_factor`` 0: no loss is a spike."""
    if not math.isfinite(loss):
        return "nan_loss"
    if not math.isfinite(grad_norm):
        return "nan_gradient"
    if spike_factor and guard.seen >= WINDOW and loss > spike_factor * guard.mean:
        return "spike"
    return ""
