"""Array tasks without a controller: submissions, the batch script's command line, stand-ins for SLURM's tools."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.submissions import Submission, new_submission
from sweeps.slurm.submit import CODE, SCRIPT

SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"'  # one task; signals reach it as srun would hand them on


def stand_in(folder: Path, name: str, body: str) -> None:
    """An executable shell script."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def submit_chunks(
    directory: Path, chunks: Sequence[Sequence[str]], runner: str, level: str = "trunk", **options: object
) -> Submission:
    """What the launcher leaves on disk before it calls sbatch."""
    values = dataclasses.asdict(dataclasses.replace(SlurmOptions(), **options))  # type: ignore[arg-type]
    return new_submission(directory, "fake", level, chunks, values | {"runner": runner, "forgiven": {}})


def task_command(
    directory: Path, number: int, way: str, requeues: int = 20, env: str = "", signal_seconds: int = 180
) -> list[str]:
    """The batch script with its arguments, as sbatch runs it."""
    task = [str(directory), f"{number:04d}", way, str(requeues)]
    return [str(SCRIPT), *task, sys.executable, str(CODE), env, str(signal_seconds)]
