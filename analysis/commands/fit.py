"""`nmm fit`: laws with intervals for every group and target of a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from analysis.commands.shared import bar, guarded, parser, text, values, words
from analysis.commands.shared import pairs as named
from analysis.engine.objective import OBJECTIVES
from analysis.fit import FORMS, form_of, law_of
from analysis.laws.catalogue import LAW_NAMES, MIXTURES, law_named
from analysis.report.terminal import print_study
from analysis.result import LAW_OF_FORM
from analysis.rows.columns import USUAL_GROUP
from analysis.rows.table import TARGETS, Columns, RunTable, load
from analysis.study import Options, Study, fit_study
from analysis.uncertainty.bootstrap import METHODS
from analysis.validation.choices import Sensitivity, convention_samples
from analysis.validation.sensitivity import print_sensitivity, sensitivity

USUAL_LAWS = ",".join(LAW_OF_FORM.get(form, form) for form in FORMS)
_EXAMPLES = """examples:
  nmm fit outputs/demo/runs --json outputs/demo/fits.json
  nmm fit runs.csv --law chinchilla --n params --d tokens --loss loss --delta 1e-3 --bootstrap 4000
  nmm fit moe.csv --law sparsity --n N --d D --column S=sparsity --loss loss --keep 'loss < 5.0'
  nmm fit repeats.csv --law data_constrained --n N --d D --column U=unique --loss loss --fix E=1.87 --sensitivity

The laws: nmm fit --laws. A law of your own: --law my_law.py:function (see CONTRIBUTING.md).
"""


def fit_main(argv: Sequence[str] | None = None) -> int:
    """Fit laws to a table of runs, write the JSON, print the results. Returns the exit status."""
    options = fit_parser().parse_args(argv)
    if options.laws:
        return guarded(_list_laws)
    return guarded(lambda console: _fit(options, console))


def fit_parser() -> argparse.ArgumentParser:
    """The options of ``nmm fit``."""
    found = parser("nmm fit", "Fit scaling laws, with intervals, to every group and target of a table.", _EXAMPLES)
    found.add_argument("table", nargs="?", help="sweep directory, or a .parquet, .csv, .json or .jsonl table")
    found.add_argument(
        "--json", "--out", dest="out", type=Path, default=Path("fits.json"), metavar="OUT",
        help="where to write the fits (default %(default)s)",
    )  # fmt: skip
    _add_law_options(found)
    _add_column_options(found)
    _add_uncertainty_options(found)
    return found


def _add_law_options(found: argparse.ArgumentParser) -> None:
    law = found.add_argument_group("the law and what is minimised")
    law.add_argument("--law", default=USUAL_LAWS, metavar="LAWS", help="comma-separated names (default %(default)s)")
    law.add_argument("--laws", action="store_true", help="list every law with its formula and source, then stop")
    law.add_argument("--objective", choices=OBJECTIVES, default="log-huber", help="(default %(default)s)")
    law.add_argument(
        "--delta", default="auto",
        help="of huber: auto (1.345 robust sigma), chinchilla (1e-3), or a number (default %(default)s)",
    )  # fmt: skip
    law.add_argument(
        "--tilt", type=float, default=1.0, metavar="T",
        help="penalise a fit above the observation T times more: the lower envelope (default 1, no tilt)",
    )  # fmt: skip
    law.add_argument(
        "--fix", action="append", default=[], metavar="NAME=VALUE", help="hold a parameter; may be repeated"
    )
    law.add_argument(
        "--domains", default="", metavar="COLS", help="mixture laws: the columns of the sources' shares, in order"
    )


def _add_column_options(found: argparse.ArgumentParser) -> None:
    column, rows = Columns(), found.add_argument_group("columns and rows")
    rows.add_argument("--n", default=column.size, metavar="COL", help="parameters N (default %(default)s)")
    rows.add_argument("--d", default=column.tokens, metavar="COL", help="tokens D (default %(default)s)")
    rows.add_argument("--c", default=column.compute, metavar="COL", help="FLOPs C (default %(default)s, else 6ND)")
    rows.add_argument(
        "--n-convention", default=None, metavar="NAME",
        help="of our own records: total, non_embedding, active, active_non_embedding, decoder, decoder_encoder",
    )  # fmt: skip
    rows.add_argument("--c-convention", default=None, metavar="NAME", help="6nd, exact, or late: 6 (N_v D_v + N D)")
    rows.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="SYMBOL=COL",
        help="a further column a law needs, as S=sparsity",
    )
    rows.add_argument(
        "--loss", default=",".join(TARGETS), metavar="TARGETS",
        help="comma-separated: X means column loss_X, or a column called X (default those present of %(default)s)",
    )  # fmt: skip
    rows.add_argument(
        "--group",
        default=USUAL_GROUP,
        metavar="COL",
        help="one law per value (default: arm where there are any, else arch)",
    )
    rows.add_argument(
        "--run", default=column.cluster, metavar="COL",
        help="rows that share noise, resampled together (default %(default)s, else every row by itself)",
    )  # fmt: skip
    rows.add_argument("--keep", default=None, metavar="EXPR", help="row filter, as 'loss < 5.0' or 'rank(loss) > 5'")
    rows.add_argument(
        "--warmup", type=float, default=None, metavar="STEPS",
        help="laws of learning-rate curves: steps of warm-up before the first recorded row",
    )  # fmt: skip
    rows.add_argument("--min-tokens", type=float, default=0.0, metavar="D", help="leave shorter runs out by design")


def _add_uncertainty_options(found: argparse.ArgumentParser) -> None:
    more = found.add_argument_group("uncertainty")
    more.add_argument(
        "--bootstrap", type=int, default=400, metavar="B", help="resamples, 0 for none (default %(default)s)"
    )
    more.add_argument("--method", choices=METHODS, default="auto", help="what to resample (default %(default)s)")
    more.add_argument("--seed", type=int, default=0, help="of the resampling (default %(default)s)")
    more.add_argument("--profile", action="store_true", help="also profile intervals of every parameter, a and b")
    more.add_argument(
        "--sensitivity", action="store_true", help="also refit under every objective, delta, row filter and N"
    )


def _list_laws(console: Console) -> None:
    for name in LAW_NAMES:
        law = law_named(name, 2 if name in MIXTURES else None)
        domains = ", one column a source (--domains)" if name in MIXTURES else ""
        console.print(f"[bold]{name}[/]: ", end="", highlight=False)
        console.print(f"{law.formula}", markup=False, highlight=False)
        console.print(f"    columns {', '.join(law.columns)}{domains}; {law.source}", markup=False, highlight=False)


def _fit(options: argparse.Namespace, console: Console) -> None:
    if options.table is None:
        raise ValueError("no table given: nmm fit TABLE (a sweep directory, or a .parquet, .csv, .json or .jsonl file)")
    if options.bootstrap and options.bootstrap < 20:
        raise ValueError(f"--bootstrap is {options.bootstrap}; use 0 for no intervals, or at least 20 (400 is usual)")
    how = study_options(options)
    table = read_table(options, how)
    study = _with_progress(table, how, console)
    if not study.fits:
        reasons = "\n".join(f"  {s.group} {s.target} {s.form}: {s.reason}" for s in study.skipped)
        raise ValueError(f"no law could be fitted to {table.source}:\n{reasons}")
    found = _sensitivities(options, table, study) if options.sensitivity else []
    study.save(options.out, {"sensitivity": [asdict(one) for one in found]} if found else None)
    print_study(study, console)
    for one in found:
        print_sensitivity(one, console)
    left_out = len({e.run_id for e in study.exclusions})
    console.print(
        f"{len(study.fits)} fits of {study.rows_used} rows ({left_out} with exclusions) written to {options.out}",
        highlight=False,
    )


def study_options(options: argparse.Namespace) -> Options:
    """The arguments as ``Options``. Raises ``ValueError`` for an unknown law or a malformed pair."""
    domains = words(options.domains)
    forms = tuple(form_of(name) for name in words(options.law))
    if not forms:
        raise ValueError(f"--law is {options.law!r}; name at least one law (nmm fit --laws lists them)")
    for form in forms:
        law_of(form, domains)
    return Options(
        forms=forms,
        delta=options.delta,
        objective=options.objective,
        fixed=values("--fix", options.fix),
        tilt=options.tilt,
        domains=domains,
        draws=options.bootstrap,
        seed=options.seed,
        method=options.method,
        profile=options.profile,
    )


def read_table(options: argparse.Namespace, how: Options) -> RunTable:
    """The table with every column that the laws need."""
    laws = [law_of(form, how.domains) for form in how.forms]
    needed = tuple(dict.fromkeys(symbol for law in laws for symbol in law.columns))
    columns = Columns(
        size=options.n,
        tokens=options.d,
        compute=options.c,
        group=options.group,
        cluster=options.run,
        targets=words(options.loss),
        extra=tuple(named("--column", options.column).items()),
        n_convention=options.n_convention,
        c_convention=options.c_convention,
        warmup=options.warmup,
    )
    positive = all(law.positive for law in laws)
    return load(options.table, columns, options.min_tokens, needed=needed, keep=options.keep, positive_loss=positive)


def _with_progress(table: RunTable, how: Options, console: Console) -> Study:
    total = len(table.groups) * len(table.columns.targets) * len(how.forms)
    with bar(console, text("fitting"), text("{task.fields[rate]}")) as progress:
        task = progress.add_task("fit", total=total, rate="")

        def on_fit(label: str) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{label} ({speed:.1f} fits/s)" if speed else label)

        return fit_study(table, how, on_fit)


def _sensitivities(options: argparse.Namespace, table: RunTable, study: Study) -> list[Sensitivity]:
    """Every fit under other objectives, deltas and row filters, and for our own records under every count of N."""
    found = []
    for fit in study.fits:
        conventions = None
        if options.n_convention is not None or Path(options.table).is_dir():
            conventions = convention_samples(options.table, study.columns, fit.group, fit.target)[0]
        sample = table.sample(fit.group, fit.target)[0]
        found.append(sensitivity(sample, fit, conventions=conventions))
    return found
