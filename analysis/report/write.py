"""The report page: verdicts with interval and range first, then pictures, tables, what was left out, provenance."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy

from analysis.report import answers, gallery, page, tables
from analysis.report.evidence import Evidence, gather
from analysis.rows.table import RunTable, load
from analysis.study import Study

Rows: TypeAlias = RunTable | str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame


def write_report(
    rows: Rows,
    fits: Study,
    out_dir: Path | str,
    date: str = "",
    command: str = "",
    title: str = "Scaling laws",
    on_picture: Callable[[str, int], None] = lambda title, total: None,
) -> Path:
    """Write out_dir/index.html, one file without scripts or links to others, and return its path.

    rows: the table that was fitted. date, command: printed as given. on_picture: for a progress bar.
    Raises ``ValueError`` when the rows are not those of the fits.
    """
    table = rows if isinstance(rows, RunTable) else _loaded(rows, fits)
    check_same_rows(table, fits)
    evidence = gather(table, fits, fits.targets[0])
    sections = [
        f"<h1>{escape(title)}</h1>",
        page.paragraph(_subtitle(fits, date), "soft"),
        page.section("Verdicts", *answers.cards(table, fits, evidence)),
        page.section("Parameters, three kinds of intervals", *tables.intervals(evidence)) if len(evidence) == 1 else "",
        page.section("Pictures", *gallery.pictures(table, fits, evidence, on_picture)),
        page.section("Groups at equal compute", *tables.comparisons(fits)),
        page.section("The laws", *tables.laws(fits)),
        page.section("Three kinds of intervals", *tables.intervals(evidence)) if len(evidence) > 1 else "",
        page.section("E against the known entropy", tables.entropies(fits)),
        page.section("Best split of a budget", *tables.budgets(fits, evidence)),
        page.section("Left out", *tables.left_out(fits)),
        page.section("Notes", *map(page.paragraph, fits.notes)),
        page.section("How it was done", *_method(fits, evidence)),
        page.section("Provenance", _provenance(fits, date, command)),
    ]
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.html"
    staged = out / ".index.html.tmp"
    staged.write_text(page.document(title, "".join(sections)), encoding="utf-8")
    staged.replace(path)
    return path


def _loaded(rows: Any, study: Study) -> RunTable:
    return load(
        rows, study.columns, study.min_tokens, needed=study.needed, keep=study.keep, positive_loss=study.positive_loss
    )


def check_same_rows(table: RunTable, study: Study) -> None:
    """Raise ``ValueError`` when a fit was made from other rows than the table's."""
    for fit in study.fits:
        if not fit.excluded and table.sample(fit.group, fit.target)[0].digest() != fit.digest:
            raise ValueError(
                f"the rows of {table.source} are not those the fits were made from ({fit.group}/{fit.target} differs); "
                "run nmm fit again, then nmm report"
            )


def _subtitle(study: Study, date: str) -> str:
    rows = f"{study.rows_used} of {study.rows_read} rows from {study.source}"
    groups = "" if study.groups == ("all",) else f"; groups {', '.join(study.groups)}"
    return f"{rows}{groups}{f'; {date}' if date else ''}"


_METHOD = (
    "Not identified means that the interval or the profile runs into a bound, or spans a factor above 8: the number "
    "beside it is then where the optimiser stopped, not a result. With losses far above E a free E trades against "
    "the exponents, so where E is known the fits with E known are the ones to read exponents from.",
    "Three intervals: the bootstrap refits resampled rows (whole runs where a run gave several); the sandwich is the "
    "delta method with a covariance that does not assume the model to be right; the profile holds one parameter, "
    "refits the rest, and asks where the fit becomes too bad. Where the three differ much, read the widest.",
)
_COMPARED = (
    "Differences at equal compute carry a band that covers the whole curve at once, per pair and target, not over "
    "pairs. No verdict is given outside the compute both groups were run at. When some runs of a group sit on the "
    "vision plateau the comparison is refused, since those that escaped would be a selection by outcome."
)


def _method(study: Study, evidence: Evidence) -> list[str]:
    fit = study.fits[0]
    methods = sorted({f.ci_method for f in study.fits})
    names = sorted({f.objective for f in study.fits})
    delta = "" if fit.delta is None else f" Delta: {fit.delta_rule}, here {fit.delta:.2g} for the first fit."
    tilt = "" if fit.tilt == 1 else f" A fit above the observation is penalised {fit.tilt:g} times more."
    of_log = "of ln L" + (" (form known: of ln(L - E))" if any(f.entropy_is_added for f in study.fits) else "")
    response = {"log": of_log, "lin": "of L"}
    where = " and ".join(sorted({response[name.split("-")[0]] for name in names}))
    objective = (
        f"Objective: {', '.join(names)}, the sum over rows of the penalty of the residual {where}.{delta}{tilt} Global "
        "start by variable projection over centred logarithms, polished by Newton's method with exact derivatives."
    )
    worst = max(study.fits, key=lambda f: f.condition)
    several = sum(f.num_optima > 1 for f in study.fits)
    checked = (
        f"{several} of {len(study.fits)} fits have more than one optimum; the best is shown. The largest condition "
        f"number is {worst.condition:.2g} ({worst.group}, {worst.target}, {worst.form})."
    )
    if len(study.fits) == 1:
        other = f"{fit.num_optima} optima, the best is shown" if fit.num_optima > 1 else "one optimum"
        checked = (
            f"The search over the whole range of the parameters found {other}; condition number {fit.condition:.2g}."
        )
    intervals = f"Intervals ({study.bootstrap_draws} resamples): {'; '.join(methods)}."
    if not study.bootstrap_draws:
        intervals = "No resamples were drawn; intervals are those of the sandwich and the profiles."
    texts = [objective, checked, intervals, *_METHOD, *([_COMPARED] if len(evidence) > 1 else [])]
    return [page.paragraph(text) for text in texts]


def _provenance(study: Study, date: str, command: str) -> str:
    columns, seconds = study.columns, sum(f.seconds_fit + f.seconds_bootstrap for f in study.fits)
    further = "".join(f", {symbol} {name}" for symbol, name in columns.extra)
    runs = columns.cluster if any(f.n_clusters < f.n_rows for f in study.fits) else "every row by itself"
    usual = {"N": columns.size, "D": columns.tokens, "C": columns.compute}
    present = [f"{symbol} {name}" for symbol, name in usual.items() if symbol in study.fits[0].ranges]
    names = f"{', '.join(present)}{further}, runs {runs}".removeprefix(", ")
    conventions = [text for text in (columns.n_convention, columns.c_convention) if text]
    libraries = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    rows = [
        ("rows", f"{study.rows_used} of {study.rows_read} from {study.source}"),
        ("columns", names),
        ("conventions", ", ".join(conventions) or "columns as they are"),
        ("row filter", study.keep or "none"),
        ("digest of the first fit's rows", study.fits[0].digest),
        ("resamples, seed", f"{study.bootstrap_draws}, {study.seed}"),
        ("versions", f"{study.version}, {libraries}"),
        ("seconds to fit", f"{seconds:.2g} for {len(study.fits)} fit{'s' if len(study.fits) > 1 else ''}"),
        ("date", date or "-"),
        ("command", command or "-"),
    ]
    return page.table(("what", "value"), rows, wrap=("value",))
