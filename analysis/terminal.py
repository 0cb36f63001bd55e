"""The fits as a table for the terminal, the verdicts under it, and what was left out."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.notation import parameter
from analysis.result import FitResult
from analysis.study import Study, entropy_verdict
from analysis.verdicts import verdict

_SHOWN_EXCLUSIONS = 8


def print_study(study: Study, console: Console) -> None:
    """Fits, verdicts, exclusions."""
    console.print(fit_table(study))
    for comparison in study.comparisons:
        label = f"{comparison.left} / {comparison.right}, {comparison.target}"
        console.print(f"[bold]{escape(label)}[/]: {escape(verdict(comparison))}")
    for skipped in study.skipped:
        console.print(f"[yellow]no {skipped.what}[/] {escape(f'{skipped.group} {skipped.target} {skipped.form}')}: "
                      f"{escape(skipped.reason)}")
    for exclusion in study.exclusions[:_SHOWN_EXCLUSIONS]:
        console.print(f"[yellow]left out[/] {escape(exclusion.run_id)} ({escape(exclusion.where)}): {escape(exclusion.reason)}")
    if (more := len(study.exclusions) - _SHOWN_EXCLUSIONS) > 0:
        console.print(f"[yellow]left out[/] {more} more, all listed in the JSON and the report")


def fit_table(study: Study) -> Table:
    """One line per fit: the parameters with intervals, the quality, the hold-out."""
    table = Table(title=f"{study.rows_used} of {study.rows_read} rows, 95 % intervals from {study.bootstrap_draws} resamples")
    for name in ("group", "target", "form", "E", "alpha", "beta", "R2 excess", "held-out size", "status"):
        table.add_column(name, overflow="fold")
    last = None
    for target in study.targets:
        for fit in (f for f in study.fits if f.target == target):
            table.add_row(*_line(fit), end_section=False)
        last = target
        table.add_section()
    assert last is not None or not study.fits
    return table


def _line(fit: FitResult) -> tuple[str, ...]:
    r2 = "-" if fit.r2_log_excess is None else f"{fit.r2_log_excess:.4f}"
    held = fit.holdouts.get("size")
    error = "-" if held is None else f"{held.mean_error:.1f} % (max {held.max_error:.1f} %)"
    offset = parameter(fit, "E") if "E" in fit.params else entropy_verdict(fit)
    return fit.group, fit.target, fit.form, offset, parameter(fit, "alpha"), parameter(fit, "beta"), r2, error, fit.status
