"""`nmm report`: a self-contained page from a table and its fits."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.commands.shared import bar, guarded, parser, text
from analysis.report.write import write_report
from analysis.study import load_study

_EXAMPLES = """example:
  nmm report outputs/demo --fits outputs/demo/fits.json --out outputs/demo/report
"""


def report_main(argv: Sequence[str] | None = None) -> int:
    """Write the report page from a table and its fits. Returns the exit status."""
    options = report_parser().parse_args(argv)
    arguments = list(sys.argv[2:] if argv is None else argv)
    return guarded(lambda console: _report(options, arguments, console))


def report_parser() -> argparse.ArgumentParser:
    """The options of ``nmm report``."""
    found = parser("nmm report", "Write a self-contained report page: verdicts, plots, tables.", _EXAMPLES)
    found.add_argument("table", help="the sweep directory or table that was fitted")
    found.add_argument("--fits", type=Path, default=Path("fits.json"), help="what nmm fit wrote (default %(default)s)")
    found.add_argument("--out", type=Path, default=Path("report"), help="directory of index.html (default %(default)s)")
    found.add_argument("--title", default="Scaling laws", help="heading of the page (default %(default)s)")
    found.add_argument("--date", default=None, help="date to print, YYYY-MM-DD (default today)")
    return found


def _report(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    study = load_study(options.fits)
    table = study.reload(options.table)
    date = options.date or datetime.date.today().isoformat()
    command = "nmm report " + shlex.join(arguments)
    with bar(console, text("drawing"), text("{task.description}")) as progress:
        task = progress.add_task("", total=None)

        def on_picture(name: str, total: int) -> None:
            progress.update(task, advance=1, total=total, description=name)

        path = write_report(table, study, options.out, date, command, options.title, on_picture)
    console.print(f"report written to {path}", highlight=False)
