"""Whether a sweep's disk has room for one more run: tried out, as quotas and read-only disks are in no statistics."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nmm.config import RunConfig
from nmm.memory import checkpoint_bytes
from nmm.record import KEEP_CHECKPOINTS


def lack_of_room(directory: Path, config: RunConfig) -> str:
    """Why a file of the size of this run's two checkpoints cannot be made under ``directory``; "" when it can."""
    place = directory / "launcher" / f".room.{os.getpid()}.tmp"
    try:
        with open(place, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, KEEP_CHECKPOINTS * checkpoint_bytes(config))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
    return ""
