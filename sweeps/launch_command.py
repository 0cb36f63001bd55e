"""``nmm sweep launch``: its help and its arguments, for this machine and for SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from sweeps.launch import Options, launch
from sweeps.slurm.options import parse_options, whole
from sweeps.slurm.reconcile import launch_slurm
from sweeps.slurm.remembered import recall, remember
from sweeps.slurm.submit import Way
from sweeps.worker import DEFAULT_RUNNER

USAGE = """\
usage: nmm sweep launch DIR [key=value ...]

launcher=local (the default) runs what is not done in DIR, trunks before branches, in worker processes that stay up
between runs. Stop it whenever you like; run it again to go on. Exit status 0 means that everything is done; 128 + n
that signal n stopped it.

  workers=N         worker processes (default: as many as the cores allow)
  retries=1         how often a crashed run is tried again in this launch
  pin=on|off        keep each worker on its own cores (default on)
  runner=MOD:FUNC   what executes a run (default nmm.training.run:execute)
  changed_code=accept  go on with runs whose checkpoints other code made, and say so in their records (default refuse)

launcher=slurm submits what is not done as job arrays, trunks before branches, and returns. Launch again at any time:
what is done, running, waiting in the queue or has failed too often is not submitted again. The slurm.* options
of the last launch are remembered; slurm.mem= forgets one. Exit status 0 means that every run is done or in the queue;
1 that some are neither, as the last line says.

  slurm.partition= slurm.account= slurm.time= slurm.gres= slurm.mem=    as sbatch takes them; {devices} in slurm.gres is
                            replaced by the devices that each node's part of a run has
  slurm.cpus=N              cores a process (default: the run's trainer.threads, times slurm.workers)
  slurm.extra='--qos=x -C a100'    more options of sbatch
  slurm.env=FILE            sourced by each task first (default: slurm/env.sh, where there is one)
  slurm.max_parallel=K      about so many tasks at once, shared out over the arrays of a level
  slurm.chunk=30min         runs are packed into tasks of so much estimated work (s, min, h, d)
  slurm.workers=1           runs at a time in a task
  slurm.attempts=3          a run that failed so often is not submitted again; stops by a signal do not count
  slurm.requeues=20         how often a stopped task asks for itself again
  slurm.signal_seconds=180  how long before its end a task is told to save
  slurm.dry_run=yes         print the sbatch commands and submit nothing
  retry=all                 also what failed too often, or would fail the same way (oom, config, data, disk)
  runner=, changed_code=    as above

examples:
  nmm sweep launch outputs/demo/runs workers=2
  nmm sweep launch outputs/demo/runs launcher=slurm slurm.partition=gpu slurm.gres=gpu:1 slurm.time=4:00:00
"""
LOCAL_KEYS = ("launcher", "workers", "retries", "pin", "runner", "changed_code")
SLURM_KEYS = ("launcher", "retry", "runner", "changed_code")


def launch_main(argv: Sequence[str]) -> int:
    """``nmm sweep launch``."""
    if not argv or "-h" in argv or "--help" in argv:
        print(USAGE, end="")
        return 0 if argv else 2
    if "=" in argv[0]:
        raise ConfigError(f"the sweep's directory comes first: nmm sweep launch DIR {' '.join(argv)}")
    directory, given = Path(argv[0]), pairs(argv[1:])
    match given.get("launcher", "local"):
        case "local":
            return launch(directory, local_options(given), Console())
        case "slurm":
            return _launch_slurm(directory, given)
        case other:
            raise ConfigError(f"launcher={other} is not one of local, slurm")


def pairs(argv: Sequence[str]) -> dict[str, str]:
    """``key=value`` arguments. Raises ``ConfigError`` for one that is not."""
    for argument in argv:
        if "=" not in argument:
            raise ConfigError(f"{argument!r} is not key=value; see --help")
    return {key: value for key, _, value in (argument.partition("=") for argument in argv)}


def local_options(given: Mapping[str, str]) -> Options:
    """Options of launcher=local. Raises ``ConfigError`` for an unknown key or a bad value."""
    _check_keys(given, LOCAL_KEYS, "local")
    if given.get("pin", "on") not in ("on", "off"):
        raise ConfigError(f"pin={given['pin']!r} is not one of on, off")
    return Options(
        workers=whole("workers", given["workers"], 1) if "workers" in given else None,
        retries=whole("retries", given.get("retries", "1"), 0),
        runner=given.get("runner", DEFAULT_RUNNER),
        pin=given.get("pin", "on") == "on",
        changed_code=_changed_code(given),
    )


def _changed_code(given: Mapping[str, str]) -> str:
    found = given.get("changed_code", "refuse")
    if found not in ("refuse", "accept"):
        raise ConfigError(f"changed_code={found} is not one of refuse, accept")
    return found


def _launch_slurm(directory: Path, given: Mapping[str, str]) -> int:
    ours = {key.removeprefix("slurm."): value for key, value in given.items() if key.startswith("slurm.")}
    _check_keys([key for key in given if not key.startswith("slurm.")], SLURM_KEYS, "slurm")
    if given.get("retry", "all") != "all":
        raise ConfigError(f"retry={given['retry']} is not all (leave it out to respect slurm.attempts)")
    directory, console = directory.absolute(), Console()
    kept = {key: value for key, value in recall(directory).items() if key not in ours}
    if kept:
        said = " ".join(f"slurm.{key}={shlex.quote(value)}" for key, value in kept.items())
        console.print(f"as last time: {said}", highlight=False, markup=False, soft_wrap=True)
    asked = {key: value for key, value in {**kept, **ours}.items() if value}
    options = parse_options(asked, Path.cwd())
    way = Way(given.get("runner", DEFAULT_RUNNER), "retry" in given, _changed_code(given))
    status = launch_slurm(directory, options, way, console)
    if not options.dry_run:
        remember(directory, asked | ({"env": options.env} if options.env else {}))
    return status


def _check_keys(given: Mapping[str, str] | Sequence[str], known: Sequence[str], launcher: str) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        also = " and slurm.* (see --help)" if launcher == "slurm" else "; slurm.* goes with launcher=slurm"
        raise ConfigError(
            f"unknown option {', '.join(unknown)} for launcher={launcher}; allowed: {', '.join(known)}{also}"
        )
