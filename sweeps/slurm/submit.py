"""From an array to a job: the sbatch command line, and asking SLURM to take it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sweeps.manifest import SweepError
from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.packing import Array, Resources
from sweeps.slurm.queue import ask
from sweeps.slurm.submissions import FOLDER, Submission, new_submission, with_job

SCRIPT = Path(__file__).with_name("array.sbatch")
CODE = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Way:
    """How runs are run: what executes them, whether hopeless ones are too, and whether code may have changed."""

    runner: str
    retry_all: bool = False
    changed_code: str = "refuse"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one launch submits the same way for all its arrays; ``forgiven``: by run, attempts that do not count."""

    directory: Path
    sweep: str
    options: SlurmOptions
    way: Way
    forgiven: Mapping[str, int]


def max_array_size() -> int:
    """The most tasks one array may have here. Raises ``SweepError`` when SLURM does not answer or allows no arrays."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    if not found:
        raise SweepError("`scontrol show config` names no MaxArraySize; is this SLURM's own scontrol?")
    size = int(found[1])
    if size < 2:
        raise SweepError(f"this cluster allows no job arrays (MaxArraySize={size}); ask its administrators to")
    return size


def sbatch_command(
    asked: Asked, name: str, number: int, array: Array, parallel: int, after: Sequence[str]
) -> list[str]:
    """The whole command line. ``parallel``: tasks at a time, 0 for no limit. ``after``: arrays that must have ended."""
    options, logs = asked.options, str(asked.directory / FOLDER / f"{number:04d}-")
    limit = f"%{parallel}" if parallel else ""
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--array=0-{len(array.chunks) - 1}{limit}",
        f"--output={logs.replace('%', '%%')}%a.log",
        "--requeue",
        "--open-mode=append",  # a requeued task must not wipe out what it said before
        f"--signal=B:USR1@{options.signal_seconds}",
        *_resources(options, array.resources),
    ]
    wanted = {"partition": options.partition, "account": options.account, "time": options.time, "mem": options.mem}
    command += [f"--{key}={value}" for key, value in wanted.items() if value]
    if after:
        command += [f"--dependency=afterany:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    way = "step" if array.resources.ranks == 1 else "shell"
    arguments = [str(asked.directory), f"{number:04d}", way, str(options.requeues), sys.executable, str(CODE)]
    return [*command, *options.extra, str(SCRIPT), *arguments, options.env, str(options.signal_seconds)]


def _resources(options: SlurmOptions, resources: Resources) -> list[str]:
    cpus = options.cpus or resources.threads * (options.workers if resources.ranks == 1 else 1)
    gres = options.gres.replace("{devices}", str(resources.devices))
    shape = [f"--nodes={resources.nodes}", f"--ntasks-per-node={resources.devices}", f"--cpus-per-task={cpus}"]
    return [*shape, *([f"--gres={gres}"] if gres else [])]


def submit(asked: Asked, level: str, array: Array, parallel: int, after: Sequence[str], held: IO[Any]) -> Submission:
    """Write the submission, then ask sbatch. ``held``: the launcher's lock, which sbatch shares while it runs.

    Raises ``SweepError`` when sbatch fails; the submission stays, empty-handed, and its runs are missing at the next
    launch unless SLURM took the job all the same.
    """
    chunks = [[entry.run_id for entry in chunk] for chunk in array.chunks]
    runs = {run for chunk in chunks for run in chunk}
    options = dataclasses.asdict(asked.options) | {
        "runner": asked.way.runner,
        "changed_code": asked.way.changed_code,
        "forgiven": {run: number for run, number in asked.forgiven.items() if run in runs},
    }
    made = new_submission(asked.directory, asked.sweep, level, chunks, options)
    command = sbatch_command(asked, made.name, made.number, array, parallel, after)
    job = ask(command, held).strip().partition(";")[0]  # "id;cluster" where there are several clusters
    if not job.isdecimal():
        raise SweepError(f"sbatch answered {job!r}, not a job's id; look for {made.name} in squeue")
    return with_job(asked.directory, made, job)
