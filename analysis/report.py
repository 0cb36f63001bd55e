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

from analysis import answers, gallery, page
from analysis.allocate import best_splits
from analysis.notation import compute_text, parameter, scale_with_interval, with_interval
from analysis.result import FitResult
from analysis.study import Study, entropy_verdict
from analysis.table import RunTable, load
from analysis.verdicts import difference_text, forms_text, headline, multiplier_text, range_text

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
    table = rows if isinstance(rows, RunTable) else load(rows, fits.columns, fits.min_tokens)
    check_same_rows(table, fits)
    sections = [
        f"<h1>{escape(title)}</h1>",
        page.paragraph(_subtitle(fits, date), "soft"),
        page.section("Verdicts", *answers.cards(table, fits)),
        page.section("Pictures", *gallery.pictures(table, fits, on_picture)),
        page.section("Groups at equal compute", _comparison_table(fits)),
        page.section("The laws", *_fit_tables(fits)),
        page.section("E against the known entropy", _entropy_table(fits)),
        page.section("Best split of a budget", *_split_table(fits)),
        page.section("Left out", *_left_out(fits)),
        page.section("How it was done", *_method(fits)),
        page.section("Provenance", _provenance(fits, date, command)),
    ]
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.html"
    staged = out / ".index.html.tmp"
    staged.write_text(page.document(title, "".join(sections)), encoding="utf-8")
    staged.replace(path)
    return path


def check_same_rows(table: RunTable, study: Study) -> None:
    """Raise ``ValueError`` when a fit was made from other rows than the table's."""
    for fit in study.fits:
        if not fit.excluded and table.sample(fit.group, fit.target)[0].digest() != fit.digest:
            raise ValueError(
                f"the rows of {table.source} are not those the fits were made from ({fit.group}/{fit.target} differs); "
                "run nmm fit again, then nmm report"
            )


def _subtitle(study: Study, date: str) -> str:
    text = f"{study.rows_used} of {study.rows_read} runs from {study.source}; groups {', '.join(study.groups)}"
    return f"{text}; {date}" if date else text


def _comparison_table(study: Study) -> str:
    header = (
        "target",
        "pair",
        "verdict",
        "loss of the higher",
        "tested range",
        "compute for equal loss",
        "other forms",
    )
    rows = [
        (
            c.target,
            f"{c.left} / {c.right}",
            headline(c),
            difference_text(c)[1] if c.status == "ok" else "-",
            range_text(c),
            multiplier_text(c) or "-",
            forms_text(c) or ("agree" if c.status == "ok" else "-"),
        )
        for c in study.comparisons
    ]
    return page.table(header, rows) if rows else ""


_FIT_COLUMNS = (
    "group",
    "form",
    "E",
    "alpha",
    "beta",
    "gamma",
    "R2 of ln excess",
    "largest size held out",
    "A or K",
    "B",
    "a (N* ~ C^a)",
    "R2 of ln loss",
    "most tokens held out",
    "rows / trunks",
    "status",
)


def _fit_tables(study: Study) -> list[str]:
    formulas = {f.form: f"{f.form}: {f.shape.formula} ({f.shape.source})" for f in study.fits}
    parts = [page.paragraph(text, "soft") for text in formulas.values()]
    for target in study.targets:
        rows = [_fit_row(fit) for fit in study.fits if fit.target == target]
        parts += [f"<h3>{escape(target)}</h3>", page.table(_FIT_COLUMNS, rows)]
    return parts


def _fit_row(fit: FitResult) -> tuple[str, ...]:
    a = with_interval(fit.derived["a"]) if "a" in fit.derived else "-"
    excess = f"{fit.r2_log_excess:.4f}" if fit.r2_log_excess is not None else f"- ({fit.r2_note})"
    return (
        fit.group,
        fit.form,
        parameter(fit, "E") if "E" in fit.params else f"{fit.known_entropy:.4f} (known)",
        *(parameter(fit, name) for name in ("alpha", "beta", "gamma")),
        excess,
        _held(fit, "size"),
        parameter(fit, "A" if "A" in fit.params else "K"),
        parameter(fit, "B"),
        "not identified" if a != "-" and {"alpha", "beta"} & fit.unidentified.keys() else a,
        f"{fit.r2_log_loss:.4f}",
        _held(fit, "tokens"),
        f"{fit.n_rows} / {fit.n_clusters}",
        fit.status.replace("_", " "),
    )


def _entropy_table(study: Study) -> str:
    rows = [
        (f.target, f.group, f.form, parameter(f, "E"), f"{f.known_entropy:.4f}", entropy_verdict(f))
        for f in study.fits
        if "E" in f.params and f.known_entropy is not None
    ]
    header = ("target", "group", "form", "fitted E", "known entropy", "reading")
    return page.table(header, rows, wrap=("reading",)) if rows else ""


def _held(fit: FitResult, by: str) -> str:
    held = fit.holdouts.get(by)
    return "-" if held is None else f"{held.mean_error:.2f} % (max {held.max_error:.2f} %)"


def _split_table(study: Study) -> list[str]:
    target = study.targets[0]
    rows = []
    for group in study.groups:
        fit = study.main_form(group, target)
        if fit is None:
            continue
        for split in best_splits(fit, np.geomspace(*fit.compute_range, 5)[1:-1]):
            pair = (split.size, split.tokens)
            shown = [scale_with_interval(v) for v in pair]
            if split.at_edge:
                shown = [f"at the edge of the tests ({compute_text(v.value)})" for v in pair]
            rows.append((group, compute_text(split.compute), *shown, with_interval(split.loss)))
    header = ("group", "compute (FLOPs)", "parameters N*", "tokens D*", f"loss, {target}")
    note = "Inside the tested compute only; with the FLOPs of these runs, not 6ND."
    return [page.paragraph(note, "soft"), page.table(header, rows)] if rows else []


def _left_out(study: Study) -> list[str]:
    rows = [(e.run_id, e.group, e.where, e.reason) for e in study.exclusions]
    rows += [(f"{s.what}: {s.group} {s.target} {s.form}", s.group, s.target, s.reason) for s in study.skipped]
    if not rows:
        return [page.paragraph("Nothing: every row of the table is in every fit.")]
    listing = page.table(("run or fit", "group", "left out of", "reason"), rows, wrap=("reason",))
    return [
        page.paragraph(f"{len(rows)} entries, each with its reason."),
        f"<details><summary>list</summary>{listing}</details>",
    ]


_METHOD = (
    "Not identified means that the interval or the profile runs into a bound, or spans a factor above 8: the number "
    "beside it is then where the optimiser stopped, not a result. With losses far above E a free E trades against "
    "the exponents, so the fits with E known are the ones to read exponents from.",
    "Differences at equal compute carry a band that covers the whole curve at once, per pair and target, not over "
    "pairs. No verdict is given outside the compute both groups were run at. When some runs of a group sit on the "
    "vision plateau the comparison is refused, since those that escaped would be a selection by outcome.",
)


def _method(study: Study) -> list[str]:
    fit = study.fits[0]
    methods = sorted({f.ci_method for f in study.fits})
    delta = "squared error" if fit.delta is None else f"{fit.delta_rule}, here {fit.delta:.2g} for the first fit"
    objective = (
        f"Objective: the sum over rows of a Huber loss of ln L (form known: of ln(L - E)), delta {delta}. Global start "
        "by variable projection over centred logarithms, polished by Newton's method with exact derivatives."
    )
    intervals = f"Intervals ({study.bootstrap_draws} resamples): {'; '.join(methods)}."
    return [page.paragraph(text) for text in (objective, intervals, *_METHOD)]


def _provenance(study: Study, date: str, command: str) -> str:
    columns, seconds = study.columns, sum(f.seconds_fit + f.seconds_bootstrap for f in study.fits)
    names = f"N {columns.size}, D {columns.tokens}, C {columns.compute}, trunks {columns.cluster}"
    libraries = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    rows = [
        ("rows", f"{study.rows_used} of {study.rows_read} from {study.source}"),
        ("columns", names),
        ("digest of the first fit's rows", study.fits[0].digest),
        ("resamples, seed", f"{study.bootstrap_draws}, {study.seed}"),
        ("versions", f"{study.version}, {libraries}"),
        ("seconds to fit", f"{seconds:.1f} for {len(study.fits)} fits"),
        ("date", date or "-"),
        ("command", command or "-"),
    ]
    return page.table(("what", "value"), rows, wrap=("value",))
