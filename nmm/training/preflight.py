"""Looked at before the first step, in milliseconds: is there room for what the run will write?"""

from __future__ import annotations

import os
from pathlib import Path

from nmm.config import RunConfig
from nmm.memory import checkpoint_bytes
from nmm.record import KEEP_CHECKPOINTS, DiskError, checkpoints


def check_room(config: RunConfig, directory: Path) -> None:
    """Raise ``DiskError`` unless ``directory`` (which exists) has room for two checkpoints and those that are kept for
    branches, or needs none any more.
    """
    step = max((step for step, _ in checkpoints(directory)), default=0)
    if step == config.total_steps:
        return
    count = KEEP_CHECKPOINTS + sum(step < kept < config.total_steps for kept in config.keep_steps)
    needed = count * checkpoint_bytes(config)
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise DiskError(
            f"{directory}: {free / 1e6:,.1f} MB are free on this disk, {count} checkpoints of this run "
            f"need {needed / 1e6:,.1f} MB; make room, or give the run another disk with out="
        )
