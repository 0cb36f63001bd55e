"""The fits as a table for the terminal, the verdicts under it, and what was left out."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.notation import parameter
from analysis.result import FitResult
from analysis.study import Study
from analysis.verdicts import verdict

_SHOWN_EXCLUSIONS = 8
_WIDE = 112


def print_study(study: Study, console: Console) -> None:
    """Fits, verdicts, exclusions."""
    console.print(fit_table(study, wide=console.width >= _WIDE))
    for comparison in study.comparisons:
        label = f"{comparison.left} / {comparison.right}, {comparison.target}"
        console.print(f"[bold]{escape(label)}[/]: {escape(verdict(comparison))}", highlight=False)
    for skipped in study.skipped:
        console.print(
            f"[yellow]no {skipped.what}[/] {escape(f'{skipped.group} {skipped.target} {skipped.form}')}: "
            f"{escape(skipped.reason)}"
        )
    for exclusion in study.exclusions[:_SHOWN_EXCLUSIONS]:
        run, where, reason = map(escape, (exclusion.run_id, exclusion.where, exclusion.reason))
        console.print(f"[yellow]left out[/] {run} ({where}): {reason}", highlight=False)
    if (more := len(study.exclusions) - _SHOWN_EXCLUSIONS) > 0:
        console.print(f"[yellow]left out[/] {more} more, all listed in the JSON and the report")


def fit_table(study: Study, wide: bool) -> Table:
    """One line per fit, a section per target: parameters with intervals and, where there is room, the quality."""
    title = f"{study.rows_used} of {study.rows_read} rows, 95 % intervals from {study.bootstrap_draws} resamples"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("fit", "E", "alpha", "beta", *(("R2 of ln excess", "largest size held out") if wide else ())):
        table.add_column(name)
    for target in study.targets:
        table.add_row(f"[bold]{escape(target)}[/]{_known(study, target)}")
        for fit in (f for f in study.fits if f.target == target):
            table.add_row(*_line(fit)[: 6 if wide else 4])
        table.add_section()
    return table


def _known(study: Study, target: str) -> str:
    known = {f.known_entropy for f in study.fits if f.target == target and f.known_entropy is not None}
    return f" (known E {known.pop():.4f})" if len(known) == 1 else ""


def _line(fit: FitResult) -> tuple[str, ...]:
    values = (
        parameter(fit, name) if name not in fit.unidentified else "not identified" for name in ("E", "alpha", "beta")
    )
    offset, alpha, beta = values
    r2 = "-" if fit.r2_log_excess is None else f"{fit.r2_log_excess:.4f}"
    held = fit.holdouts.get("size")
    error = "-" if held is None else f"{held.mean_error:.1f} % (max {held.max_error:.1f} %)"
    status = "" if fit.status in ("converged", "not_identified") else f" [red]{fit.status}[/]"
    label = f"{escape(fit.group)} {fit.form}{status}"
    return label, "fixed" if "E" not in fit.params else offset, alpha, beta, r2, error
