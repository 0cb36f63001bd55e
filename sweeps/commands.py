"""``nmm sweep ...``: read arguments, call the room, errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError
from sweeps.adaptive.command import next_main
from sweeps.chunk import chunk_main
from sweeps.consolidate import table_main
from sweeps.launch_command import launch_main
from sweeps.manifest import SweepError
from sweeps.plan import make_plan, show
from sweeps.slurm.cancel import cancel_main
from sweeps.spec import SPEC_KEYS, available, load_spec
from sweeps.status.command import logs_main, status_main

USAGE = """\
usage: nmm sweep COMMAND ...

  plan    sweep=demo out=DIR [key=value ...]   freeze every run into DIR/manifest.jsonl and show the cost
  launch  DIR [workers=N]                      run what is not done, on this machine
  launch  DIR launcher=slurm [slurm.time=...]  submit what is not done as job arrays, and return
  cancel  DIR                                  stop all that works on it; runs save first
  status  DIR [--watch] [--html page.html]     counts, causes and what to do, time left, loss curves
  logs    RUN [--dir DIR]                      how one run began, ended and goes on
  table   DIR... --out runs.parquet            one row a finished point (.parquet or .csv)
  next    DIR --budget F --goal GOAL           add the runs that tell most about one quantity
  chunk   DIR --submission 1 --index 0         what one task of such an array does

example, seconds long (the shards come first):
  nmm shards data=world out=outputs/shards
  nmm sweep plan sweep=tiny out=outputs/tiny data.path=outputs/shards
  nmm sweep launch outputs/tiny

`nmm sweep COMMAND --help` says more.
"""

PLAN_USAGE = """\
usage: nmm sweep plan sweep=NAME out=DIR [key=value ...]

Writes DIR/manifest.jsonl: every run, fully resolved. Editing conf/ later changes nothing that is planned. Planning the
same again is a no-op; more seeds, sizes, archs or arms add lines; anything else needs another directory.

  sweep=NAME        {sweeps}, or the path of a .yaml file
  out=DIR           the sweep's directory; runs will lie in DIR/<run_id>/
  sweep keys        {keys}
  any other key     goes to every run's config, as in `nmm train` (data.path=..., optim.lr_width=0.2, arch.top_k=2)

In a file also arms (the whole grid once for each, with its overrides) and trunks: off (every token count, or entry of
steps, a run of its own); {{arch}}, {{size}} and {{seed}} in an override are the run's own: docs/interventions.md.

example:
  nmm sweep plan sweep=demo out=outputs/demo/runs data.path=outputs/demo/shards 'sizes=[d16,d32]' 'seeds=[0,1]'
"""


def main(argv: Sequence[str]) -> int:
    """Dispatch ``nmm sweep ...``. Returns the exit status; a mistake in what was asked is 2 and one line on stderr."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "plan": plan_main,
        "launch": launch_main,
        "cancel": cancel_main,
        "status": status_main,
        "logs": logs_main,
        "table": table_main,
        "next": next_main,
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


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
