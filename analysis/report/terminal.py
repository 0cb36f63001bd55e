"""The fits as a table for the terminal, the verdicts under it, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.decisions.verdicts import verdict
from analysis.fit import FORMS
from analysis.laws.catalogue import describe
from analysis.notation import parameter, shown
from analysis.result import FitResult, Interval
from analysis.rows.table import Exclusion
from analysis.study import Study, by_kind

_SHOWN_EXCLUSIONS = 8
_WIDE = 112


def print_study(study: Study, console: Console) -> None:
    """Fits, verdicts, exclusions."""
    if len(study.fits) > 1 and all(fit.form in FORMS for fit in study.fits):
        console.print(fit_table(study, wide=console.width >= _WIDE))
    else:
        for fit in study.fits:
            print_fit(fit, console)
    for note in study.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    for comparison in study.comparisons:
        label = f"{comparison.left} / {comparison.right}, {comparison.target}"
        console.print(f"[bold]{escape(label)}[/]: {escape(verdict(comparison))}", highlight=False)
    for skipped in study.skipped:
        console.print(
            f"[yellow]no {skipped.what}[/] {escape(f'{skipped.group} {skipped.target} {skipped.form}')}: "
            f"{escape(skipped.reason)}"
        )
    _print_exclusions(study.exclusions, console)


def _print_exclusions(exclusions: Sequence[Exclusion], console: Console) -> None:
    """Every exclusion while they are few; beyond that a line a kind, with its count and one example."""
    few = len(exclusions) <= _SHOWN_EXCLUSIONS
    for items in [[item] for item in exclusions] if few else by_kind(exclusions).values():
        run, where, reason = map(escape, (items[0].run_id, items[0].where, items[0].reason))
        count = "" if few else f" {len(items)} by {items[0].kind}, such as"
        console.print(f"[yellow]left out[/]{count} {run} ({where}): {reason}", highlight=False)
    if not few:
        console.print(f"[yellow]left out[/] {len(exclusions)} in all, listed in the JSON and the report")


def print_fit(fit: FitResult, console: Console) -> None:
    """One fit in full: the formula with its numbers, every parameter with its interval, how it was found."""
    law = fit.shape
    title = f"{fit.group} {fit.target}: {fit.law}, {fit.n_rows} rows of {fit.n_clusters} independent runs"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    for name in ("parameter", "value [95 % interval]", "sandwich", "profile"):
        table.add_column(name)
    for name in law.names:
        table.add_row(name, *_three_intervals(fit, name))
    for name, item in fit.derived.items():
        table.add_row(f"[dim]{escape(name)}[/]", *_three_intervals(fit, name, item))
    console.print(table)
    console.print(escape(f"{law.formula}   ({law.source})"), highlight=False)
    if not fit.unidentified:
        console.print(escape(describe(law, fit.params)), highlight=False)
    delta = "" if fit.delta is None else f", delta {fit.delta:.3g} ({fit.delta_rule})"
    console.print(
        f"{fit.objective}{delta}: sum {fit.objective_value:.8g}; {fit.status}; {fit.num_optima} optima reached"
        + ("" if fit.gap is None else f", the second {100 * fit.gap:.2g} % higher")
        + f"; condition {fit.condition:.2g}; R2 {fit.r2_log_loss:.5f}; {1e3 * fit.seconds_fit:.0f} ms",
        highlight=False,
    )
    console.print(f"intervals: {fit.ci_method}; {fit.seconds_bootstrap:.2f} s", highlight=False)


def _three_intervals(fit: FitResult, name: str, derived: Interval | None = None) -> tuple[str, str, str]:
    """Bootstrap, sandwich and profile interval of one parameter or derived quantity, "-" where there is none."""
    if name in fit.fixed:
        return f"{fit.fixed[name]:g} (fixed)", "-", "-"
    scale = name in fit.shape.log_names
    first = parameter(fit, name) if derived is None else shown(derived, scale)
    others = (shown(found[name], scale) if name in found else "-" for found in (fit.sandwich_ci, fit.profile_ci))
    return first, *others  # type: ignore[return-value]


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
