"""`nmm fit` and `nmm report`: arguments in, files out, errors as one readable line."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.bootstrap import METHODS
from analysis.fit import FORMS
from analysis.report import write_report
from analysis.study import Study, fit_study, load_study
from analysis.table import TARGETS, Columns, RunTable, load
from analysis.terminal import print_study

_FIT_EXAMPLES = """examples:
  nmm fit outputs/demo --out outputs/demo/fits.json
  nmm fit runs.csv --n params --d tokens --loss loss --group model --bootstrap 400 --delta chinchilla
"""
_FILE_WIDTH = 140
_REPORT_EXAMPLES = """example:
  nmm report outputs/demo --fits outputs/demo/fits.json --out outputs/demo/report
"""


def fit_main(argv: Sequence[str] | None = None) -> int:
    """Fit laws to a table of runs, write the JSON, print the table. Returns the exit status."""
    options = fit_parser().parse_args(argv)
    return _guarded(lambda console: _fit(options, console))


def report_main(argv: Sequence[str] | None = None) -> int:
    """Write the report page from a table and its fits. Returns the exit status."""
    options = report_parser().parse_args(argv)
    arguments = list(sys.argv[2:] if argv is None else argv)
    return _guarded(lambda console: _report(options, arguments, console))


def fit_parser() -> argparse.ArgumentParser:
    """The options of ``nmm fit``."""
    parser = _parser("nmm fit", "Fit L(N, D) for every group, data type and form of the law.", _FIT_EXAMPLES)
    column = Columns()
    parser.add_argument("table", help="sweep directory, or a .parquet, .csv or .jsonl table")
    parser.add_argument(
        "--out", type=Path, default=Path("fits.json"), help="where to write the fits (default %(default)s)"
    )
    parser.add_argument("--n", default=column.size, metavar="COL", help="column of parameters N (default %(default)s)")
    parser.add_argument("--d", default=column.tokens, metavar="COL", help="column of tokens D (default %(default)s)")
    parser.add_argument(
        "--c", default=column.compute, metavar="COL", help="column of FLOPs (default %(default)s, else 6ND)"
    )
    parser.add_argument(
        "--loss",
        default=",".join(TARGETS),
        metavar="TARGETS",
        help="comma-separated: X means column loss_X, or a column called X (default those present of %(default)s)",
    )
    parser.add_argument("--group", default=column.group, metavar="COL", help="one law per value (default %(default)s)")
    parser.add_argument(
        "--run",
        default=column.cluster,
        metavar="COL",
        help="rows that share noise, resampled together (default %(default)s, else every row by itself)",
    )
    parser.add_argument("--forms", default=",".join(FORMS), help="comma-separated (default %(default)s)")
    parser.add_argument(
        "--bootstrap", type=int, default=200, metavar="B", help="resamples, 0 for none (default %(default)s)"
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="what to resample (default %(default)s)")
    parser.add_argument(
        "--delta", default="auto", help="Huber delta: auto, chinchilla (1e-3), inf, or a number (default auto)"
    )
    parser.add_argument("--min-tokens", type=float, default=0.0, metavar="D", help="leave shorter runs out by design")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default %(default)s)")
    return parser


def report_parser() -> argparse.ArgumentParser:
    """The options of ``nmm report``."""
    parser = _parser("nmm report", "Write a self-contained report page: verdicts, plots, tables.", _REPORT_EXAMPLES)
    parser.add_argument("table", help="the sweep directory or table that was fitted")
    parser.add_argument("--fits", type=Path, default=Path("fits.json"), help="what nmm fit wrote (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="directory of index.html (default %(default)s)"
    )
    parser.add_argument("--title", default="Scaling laws", help="heading of the page (default %(default)s)")
    parser.add_argument("--date", default=None, help="date to print, YYYY-MM-DD (default today)")
    return parser


def _parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=program, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _guarded(work: Callable[[Console], None]) -> int:
    """Run ``work``; a mistake of the user (ValueError, a missing file) is one line on stderr and status 2."""
    try:
        console = Console()
        work(console if console.is_terminal else Console(width=_FILE_WIDTH))
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
        return 2
    return 0


def _fit(options: argparse.Namespace, console: Console) -> None:
    forms = _words(options.forms)
    if unknown := [form for form in forms if form not in FORMS]:
        raise ValueError(f"--forms has {unknown[0]!r}; allowed are {', '.join(FORMS)}")
    if options.bootstrap and options.bootstrap < 20:
        raise ValueError(f"--bootstrap is {options.bootstrap}; use 0 for no intervals, or at least 20 (200 is usual)")
    columns = Columns(options.n, options.d, options.c, options.group, options.run, _words(options.loss))
    table = load(options.table, columns, options.min_tokens)
    study = _with_progress(table, forms, options, console)
    if not study.fits:
        reasons = "\n".join(f"  {s.group} {s.target} {s.form}: {s.reason}" for s in study.skipped)
        raise ValueError(f"no law could be fitted to {table.source}:\n{reasons}")
    study.save(options.out)
    print_study(study, console)
    left_out = len({e.run_id for e in study.exclusions})
    console.print(
        f"{len(study.fits)} fits of {study.rows_used} rows ({left_out} with exclusions) written to {options.out}",
        highlight=False,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _with_progress(table: RunTable, forms: tuple[str, ...], options: argparse.Namespace, console: Console) -> Study:
    total = len(table.groups) * len(table.columns.targets) * len(forms)
    parts = (
        TextColumn("fitting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=console, transient=True) as progress:
        task = progress.add_task("fit", total=total, rate="")

        def on_fit(label: str) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{label} ({speed:.1f} fits/s)" if speed else label)

        return fit_study(table, forms, options.delta, options.bootstrap, options.seed, options.method, on_fit=on_fit)


def _report(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    study = load_study(options.fits)
    table = load(options.table, study.columns, study.min_tokens)
    date = options.date or datetime.date.today().isoformat()
    command = "nmm report " + shlex.join(arguments)
    parts = (
        TextColumn("drawing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_picture(name: str, total: int) -> None:
            progress.update(task, advance=1, total=total, description=name)

        path = write_report(table, study, options.out, date, command, options.title, on_picture)
    console.print(f"report written to {path}", highlight=False)
