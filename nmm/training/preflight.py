"""Looked at before the first step, in milliseconds: is there room for what the run will write?"""

from __future__ import annotations

import os
from pathlib import Path

from nmm.config import RunConfig
from nmm.flops import count_params
from nmm.record import KEEP_CHECKPOINTS, DiskError, checkpoints

BESIDE_TENSORS = 1 << 18  # bytes of names, numbers and padding in one checkpoint; for a tiny model, most of it


def checkpoint_bytes(config: RunConfig) -> int:
    """About how large one checkpoint is: fp32 weights, and two moments of those that are trained."""
    params = count_params(config)
    trained = params.total - (params.vision if config.arch.vision_frozen else 0)
    return 4 * params.total + 8 * trained + BESIDE_TENSORS


def check_room(config: RunConfig, directory: Path) -> None:
    """Raise ``DiskError`` unless ``directory`` (which exists) has room for two checkpoints, or needs none any more."""
    if any(step == config.total_steps for step, _ in checkpoints(directory)):
        return
    needed = KEEP_CHECKPOINTS * checkpoint_bytes(config)
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise DiskError(
            f"{directory}: {free / 1e6:,.1f} MB are free on this disk, {KEEP_CHECKPOINTS} checkpoints of this run "
            f"need {needed / 1e6:,.1f} MB; make room, or give the run another disk with out="
        )
