"""Whose an attempt is: the process, its machine and its SLURM task, in owner.json."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmm.record.files import RecordError, read_json

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> dict[str, Any]:
    """{"host", "pid", "boot", "slurm", "started"}; ``boot`` tells two starts of a machine apart, "" where unknown."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": _boot(),
        "slurm": slurm_task(os.environ),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),  # for people: nothing is ordered by it
    }


def slurm_task(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """{"task": "4000_3" (or "4000" outside an array), "restart": requeues so far, "job": "4003"}; None elsewhere."""
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    array, index = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    task = f"{array}_{index}" if array and index else job
    return {"task": task, "restart": int(environ.get("SLURM_RESTART_COUNT") or 0), "job": job}


def owner(attempt: Path) -> dict[str, Any] | None:
    """owner.json of an attempt directory; None for one that is only being made, or older than owners.

    Raises ``RecordError`` when the file is damaged.
    """
    path = attempt / "owner.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not {"host", "pid", "boot", "slurm"} <= found.keys():
        raise RecordError(f"{path} does not say whose the attempt is; move it away and run again")
    return found


def _boot() -> str:
    with contextlib.suppress(OSError):
        return BOOT_ID.read_text(encoding="utf-8").strip()
    return ""
