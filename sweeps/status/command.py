"""The command line of ``nmm sweep status`` and ``nmm sweep logs``."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from nmm.record import write_atomic, write_json
from sweeps.status.curves import Curves
from sweeps.status.logs import show_logs
from sweeps.status.page import page
from sweeps.status.report import Reader, Report
from sweeps.status.text import show
from sweeps.status.watch import watch

STATUS_HELP = """\
Counts by state, why runs stand still and the command that repairs it, FLOPs spent and time left, from files alone (and
SLURM's queue, where runs were handed to SLURM). The exit status is 0 only when all is done and nothing disagrees.
"""
LOGS_HELP = """\
How the attempts of one run began and ended: last lines of the log, traceback, the launcher's note, the end of the
worker's or SLURM task's log, and the command that goes on.
"""


def status_main(argv: Sequence[str]) -> int:
    """``nmm sweep status``. Raises ``ManifestError`` for a directory without a plan."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep status", description=STATUS_HELP, epilog="example: nmm sweep status outputs/demo/runs --watch"
    )
    parser.add_argument("dir", type=Path, help="the sweep's directory, e.g. outputs/demo/runs")
    parser.add_argument("--watch", action="store_true", help="show it again and again until nothing runs any more")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the loss curves of all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same as JSON")
    parser.add_argument("--seconds", type=float, default=3.0, help="between two looks of --watch (default 3)")
    chosen = parser.parse_args(argv)
    if chosen.seconds <= 0:
        raise ConfigError(f"--seconds {chosen.seconds} must be above 0")
    directory, console = chosen.dir.absolute(), Console()
    reader, curves = Reader(directory), Curves(directory)
    keep = functools.partial(_keep, chosen.html, chosen.json, curves, chosen.seconds if chosen.watch else None)
    if chosen.watch:
        return 0 if watch(reader, console, keep, seconds=chosen.seconds).all_done else 1
    report = reader.read()
    keep(report)
    show(report, console)
    for file in (chosen.html, chosen.json):
        if file is not None:
            console.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)
    return 0 if report.all_done else 1


def _keep(html: Path | None, json: Path | None, curves: Curves, seconds: float | None, report: Report) -> None:
    if html is not None:
        content = page(report, curves.read(report.states), seconds).encode()
        write_atomic(html.absolute(), lambda file: file.write(content))
    if json is not None:
        write_json(json.absolute(), report.as_json())


def logs_main(argv: Sequence[str]) -> int:
    """``nmm sweep logs``. Raises ``SweepError`` for a run that is not there, or a name that several runs share."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep logs", description=LOGS_HELP, epilog="example: nmm sweep logs early-d32 --dir outputs/demo/runs"
    )
    parser.add_argument("run", help="a run directory, a run id, or the beginning of one")
    parser.add_argument("--dir", type=Path, help="the sweep's directory (default: look below outputs/ and here)")
    parser.add_argument("--attempt", type=int, metavar="N", help="only this attempt (default: all, the newest in full)")
    parser.add_argument("--lines", type=int, default=20, help="last lines of each log (default 20)")
    chosen = parser.parse_args(argv)
    if chosen.lines < 1:
        raise ConfigError(f"--lines {chosen.lines} must be at least 1")
    return show_logs(chosen.run, chosen.dir, chosen.attempt, chosen.lines, Console())
