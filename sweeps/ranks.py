"""A run on several ranks, in processes of its own: a worker, which lives on for other runs, cannot be one of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmm.config import RunConfig, identity, run_id, to_dict
from nmm.frozen import changes_from
from nmm.record import attempts, ended, read_record, write_config
from sweeps.manifest import SweepError

# Exit statuses of ranks that saved and left, or that the signal met before they could listen (srun too says 128 + n).
ASKED_TO_STOP = {
    code for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) for code in (128 + s, -s)
}


class RanksLost(SweepError):
    """The ranks were killed, or one of them was and took the others along."""


def execute(config: RunConfig, directory: Path) -> dict[str, Any]:
    """Execute the run as its ranks and return its record; the contract of every runner (``sweeps.worker``).

    A ``SystemExit`` in this process stops the ranks at their next step and goes on up once they have saved; ranks that
    a signal stopped make one. Raises ``RanksLost`` when they were killed, ``SweepError`` when they end without a record
    otherwise.
    """
    write_config(directory, {"run_id": run_id(config), "identity": identity(config), "settings": to_dict(config)})
    ranks = subprocess.Popen(
        command(config, directory, os.environ),
        stdin=subprocess.DEVNULL,
        env={"MASTER_PORT": str(port_of(config))} | os.environ if "SLURM_JOB_ID" in os.environ else None,
    )
    try:
        status = ranks.wait()
    except SystemExit:
        ranks.send_signal(signal.SIGUSR1)  # srun hands it on to every rank; told TERM, it kills them at once
        ranks.wait()
        raise
    record = read_record(directory)
    if record is None and status in ASKED_TO_STOP:
        raise SystemExit(status)  # the signal came to the ranks themselves, as a preempted job's does
    if record is None and (status < 0 or status > 128):
        raise RanksLost(f"the ranks of {directory.name} were ended by signal {abs(status) % 128}")
    if record is None:
        said = _last_words(directory)
        raise SweepError(
            f"the ranks of {directory.name} ended with status {status} and without a record{said and f': {said}'}"
        )
    return record


def _last_words(directory: Path) -> str:
    """The error that the newest attempt ended with; "" when it did not say."""
    made = attempts(directory)
    end = ended(made[-1]) if made else None
    return end["detail"].strip().splitlines()[-1] if end is not None and end["detail"].strip() else ""


def command(config: RunConfig, directory: Path, environ: Mapping[str, str]) -> list[str]:
    """What starts all ranks: one process, which starts the others, or srun where SLURM has room for several tasks."""
    trainer = config.trainer
    train = [sys.executable, "-m", "nmm.train", "--from", str(directory), *changes_from(directory, config)]
    if "SLURM_JOB_ID" not in environ or int(environ.get("SLURM_NTASKS", "1")) == 1:
        return train
    options = [
        f"--nodes={trainer.num_nodes}",
        f"--ntasks={trainer.world_size}",
        f"--ntasks-per-node={trainer.devices}",
        "--kill-on-bad-exit=1",  # the others would wait for a lost rank until their connection times out
    ]
    if "SLURM_CPUS_PER_TASK" in environ:  # which a step does not inherit since SLURM 22.05
        options.append(f"--cpus-per-task={environ['SLURM_CPUS_PER_TASK']}")
    return ["srun", *options, *shlex.split(environ.get("NMM_SRUN_ARGS", "")), *train]


def port_of(config: RunConfig) -> int:
    """Where the ranks of a SLURM step meet: runs that share a node must not share it."""
    return 10_000 + zlib.crc32(run_id(config).encode()) % 20_000
