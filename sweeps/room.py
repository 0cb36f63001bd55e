"""Whether a sweep's disk has room for one more run: tried out, as quotas and read-only disks are in no statistics."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nmm.config import RunConfig
from nmm.flops import count_params

BYTES_PER_PARAM = 24  # two checkpoints of weights and two moments, all fp32
BESIDE_BYTES = 1 << 20


def lack_of_room(directory: Path, config: RunConfig) -> str:
    """Why a file of the size of this run's two checkpoints cannot be made under ``directory``; "" when it can."""
    place = directory / "launcher" / f".room.{os.getpid()}.tmp"
    try:
        with open(place, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, BYTES_PER_PARAM * count_params(config).total + BESIDE_BYTES)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
    return ""
