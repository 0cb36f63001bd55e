"""``nmm sweep plan | launch | status | table | chunk``: read arguments, call the room, errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError
from sweeps import manifest
from sweeps.chunk import LEVELS, chunks, run_chunk
from sweeps.launch import Options, launch
from sweeps.manifest import SweepError
from sweeps.plan import make_plan, show
from sweeps.spec import SPEC_KEYS, available, load_spec
from sweeps.status import show_status, write_table
from sweeps.worker import DEFAULT_RUNNER

USAGE = """\
usage: nmm sweep COMMAND ...

  plan    sweep=demo out=DIR [key=value ...]   freeze every run into DIR/manifest.jsonl and show the cost
  launch  DIR [workers=N] [retries=1]          run what is not done, on this machine
  status  DIR                                  counts, failures, time left
  table   DIR --out runs.parquet               one row a finished point (.parquet or .csv)
  chunk   DIR --index 0 --size 4 --role trunk  one task of a job array (see slurm/README.md)

example, seconds long (the shards come first):
  nmm shards data=world out=outputs/shards
  nmm sweep plan sweep=tiny out=outputs/tiny data.path=outputs/shards
  nmm sweep launch outputs/tiny

`nmm sweep COMMAND --help` says more.
"""

PLAN_USAGE = """\
usage: nmm sweep plan sweep=NAME out=DIR [key=value ...]

Writes DIR/manifest.jsonl: every run, fully resolved. Editing conf/ later changes nothing that is planned. Planning the
same again is a no-op; more seeds, sizes or archs add lines; anything else needs another directory.

  sweep=NAME        {sweeps}, or the path of a .yaml file
  out=DIR           the sweep's directory; runs will lie in DIR/<run_id>/
  sweep keys        {keys}
  any other key     goes to every run's config, as in `nmm train` (data.path=..., optim.lr_width=0.2, arch.top_k=2)

example:
  nmm sweep plan sweep=demo out=outputs/demo/runs data.path=outputs/demo/shards 'sizes=[d16,d32]' 'seeds=[0,1]'
"""

LAUNCH_USAGE = """\
usage: nmm sweep launch DIR [key=value ...]

Runs what is not done in DIR, trunks before branches, in worker processes that stay up between runs. Stop it whenever
you like; run it again to go on. Exit status 0 means that everything is done.

  launcher=local    the only one so far; for a cluster see slurm/README.md
  workers=N         worker processes (default: as many as the cores allow)
  retries=1         how often a crashed run is tried again in this launch
  pin=on|off        keep each worker on its own cores (default on)
  runner=MOD:FUNC   what executes a run (default nmm.training.run:execute)

example:
  nmm sweep launch outputs/demo/runs workers=2
"""


def main(argv: Sequence[str]) -> int:
    """Dispatch ``nmm sweep ...``. Returns the exit status; a mistake in what was asked is 2 and one line on stderr."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "plan": plan_main,
        "launch": launch_main,
        "status": status_main,
        "table": table_main,
        "chunk": chunk_main,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        print(f"error: nmm sweep {argv[0]}: unknown; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        return commands[argv[0]](argv[1:])
    except (ConfigError, SweepError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    for argument in argv:
        if "=" not in argument and not argument.startswith("~"):
            raise ConfigError(f"{argument!r} is not key=value; see --help")
    return [(key, value) for key, _, value in (argument.partition("=") for argument in argv)]


def plan_main(argv: Sequence[str]) -> int:
    """``nmm sweep plan``."""
    if not argv or "-h" in argv or "--help" in argv:
        print(PLAN_USAGE.format(sweeps=", ".join(available()), keys=", ".join(SPEC_KEYS)), end="")
        return 0 if argv else 2
    named = dict(_pairs(argv))
    for key in ("sweep", "out"):
        if not named.get(key):
            raise ConfigError(f"{key}= is missing; e.g. nmm sweep plan sweep=demo out=outputs/demo/runs")
    overrides = [argument for argument in argv if argument.partition("=")[0] not in ("sweep", "out")]
    plan = make_plan(load_spec(named["sweep"], overrides), Path(named["out"]))
    show(plan, Console())
    return 0


def launch_main(argv: Sequence[str]) -> int:
    """``nmm sweep launch``."""
    if not argv or "-h" in argv or "--help" in argv:
        print(LAUNCH_USAGE, end="")
        return 0 if argv else 2
    if "=" in argv[0]:
        raise ConfigError(f"the sweep's directory comes first: nmm sweep launch DIR {' '.join(argv)}")
    return launch(Path(argv[0]), launch_options(argv[1:]), Console())


def launch_options(argv: Sequence[str]) -> Options:
    """``key=value`` arguments of launch. Raises ``ConfigError`` for an unknown key or a bad value."""
    given = dict(_pairs(argv))
    known = ("launcher", "workers", "retries", "pin", "runner")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ConfigError(f"unknown option {', '.join(unknown)}; allowed: {', '.join(known)}")
    if given.get("launcher", "local") != "local":
        raise ConfigError(f"launcher={given['launcher']}: only local is built in; for SLURM see slurm/README.md")
    if given.get("pin", "on") not in ("on", "off"):
        raise ConfigError(f"pin={given['pin']!r} is not one of on, off")
    return Options(
        workers=_whole("workers", given["workers"], 1) if "workers" in given else None,
        retries=_whole("retries", given.get("retries", "1"), 0),
        runner=given.get("runner", DEFAULT_RUNNER),
        pin=given.get("pin", "on") == "on",
    )


def _whole(key: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{key}={text} must be a whole number of at least {least}")
    return int(text)


def status_main(argv: Sequence[str]) -> int:
    """``nmm sweep status``."""
    parser = argparse.ArgumentParser(prog="nmm sweep status", description="Counts by state, failures, time left.")
    parser.add_argument("dir", type=Path, help="the sweep's directory, e.g. outputs/demo/runs")
    return show_status(parser.parse_args(argv).dir, Console())


def table_main(argv: Sequence[str]) -> int:
    """``nmm sweep table``."""
    parser = argparse.ArgumentParser(prog="nmm sweep table", description="One row for every finished point of a sweep.")
    parser.add_argument("dir", type=Path, help="the sweep's directory, e.g. outputs/demo/runs")
    parser.add_argument("--out", type=Path, required=True, help="runs.parquet or runs.csv")
    arguments = parser.parse_args(argv)
    print(write_table(arguments.dir, arguments.out))
    return 0


def chunk_main(argv: Sequence[str]) -> int:
    """``nmm sweep chunk``."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep chunk", description="Run one piece of a manifest (a job-array task)."
    )
    parser.add_argument("dir", type=Path, help="the sweep's directory")
    parser.add_argument("--size", type=int, required=True, help="lines of the manifest a chunk")
    parser.add_argument("--role", choices=LEVELS, required=True, help="trunks first, branches when they have ended")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--index", type=int, help="which chunk, from 0")
    which.add_argument("--count", action="store_true", help="print how many chunks there are, and stop")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--retries", type=int, default=1, help="how often a crashed run is tried again (default 1)")
    parser.add_argument("--runner", default=DEFAULT_RUNNER, help="module:function that executes a run")
    a = parser.parse_args(argv)
    if a.count:
        print(len(chunks(manifest.read(a.dir), a.role, a.size)))
        return 0
    options = Options(
        _whole("--workers", str(a.workers), 1),
        _whole("--retries", str(a.retries), 0),
        runner=a.runner,
        pin=False,  # the scheduler gave this task its cores; two tasks on one node must not pick the same ones
        stop_seconds=150.0,  # of the 180 s between array.sbatch's signal and the end: a large model saves in minutes
        log_name=f"{a.role}-chunk-{a.index}",
    )
    return run_chunk(a.dir, a.index, a.size, a.role, options, Console())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
