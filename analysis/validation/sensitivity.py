"""One sample, every defensible way to fit it: objective x delta x row filter x convention of N, in one table.

Analysts choose these four, papers report one, and the choice often moves an exponent more than its interval is wide.
Row filters are row weights, so the fits of one objective, delta and convention are one batch (``validation.folds``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.engine.jet import Array
from analysis.engine.objective import OBJECTIVES
from analysis.fit import FitError, Setup, fit_law, prepare
from analysis.notation import half_width, number, shown
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.uncertainty.draws import interval_from, spread_of
from analysis.validation.choices import (
    ALL_ROWS,
    AXES,
    GIVEN,
    Choice,
    Sensitivity,
    Spread,
    convention_samples,
    row_filters,
)
from analysis.validation.folds import Keep, fit_folds, flat_folds
from analysis.validation.influence import enough, influence

__all__ = ["Choice", "Sensitivity", "Spread", "convention_samples", "print_sensitivity", "row_filters", "sensitivity"]

DELTAS: tuple[float | str, ...] = ("auto", 1e-2, 1e-3, 1e-4)
_MOVERS_SHOWN = 5
_SIZES_SHOWN = 3
_BEYOND = 1.0


def sensitivity(
    sample: Sample,
    base: FitResult | str,
    objective: str = "log-huber",
    delta: float | str = "auto",
    objectives: Sequence[str] = OBJECTIVES,
    deltas: Sequence[float | str] = DELTAS,
    filters: Mapping[str, Keep] | None = None,
    conventions: Mapping[str, Sample] | None = None,
    with_influence: bool = True,
) -> Sensitivity:
    """Fit ``sample`` under every combination of the choices and compare with ``base``.

    base: a fit of ``sample`` (its objective, fixed parameters and bootstrap then hold), or a form or law, which is
    fitted with ``objective`` and ``delta``; without a bootstrap the cluster-robust covariance gives the intervals.
    filters: label -> (n,) rows kept (default: ``row_filters``). conventions: label -> the same runs with another N
    (``convention_samples``), filtered by the default rules on their own columns. Raises ``FitError`` and
    ``ValueError`` as ``fit_law`` does for the base.
    """
    began = time.perf_counter()
    fit = fit_law(sample, base, delta, objective=objective) if isinstance(base, str) else base
    chosen = (fit.objective, _rule(fit.objective, delta if isinstance(base, str) else _asked(fit)))
    choices: list[Choice] = []
    skipped: list[str] = []
    for label, each in {GIVEN: sample, **(conventions or {})}.items():
        try:
            setup, _ = prepare(each, fit.form, fit.fixed, fit.domains)
        except FitError as error:
            skipped.append(f"{label}: {error}")
            continue
        every = {ALL_ROWS: np.ones(len(setup.sample), dtype=bool)}
        masks = row_filters(setup.sample) if filters is None or label != GIVEN else every | dict(filters)
        usable = {name: keep for name, keep in masks.items() if enough(setup, keep)}
        skipped += [
            f"{label}, {name}: {keep.sum()} rows are left" for name, keep in masks.items() if name not in usable
        ]
        for one, rule in _penalties(objectives, deltas, chosen):
            choices += _fitted(setup, usable, one, rule, fit.tilt, label)
    choices.sort(key=lambda c: (c.objective, c.delta_rule, c.rows, c.convention) != (*chosen, ALL_ROWS, GIVEN))
    method, spreads = _spreads(fit, choices)
    moved = influence(sample, fit) if with_influence else None
    return Sensitivity(
        fit.law, sample.group, sample.target, tuple(choices), spreads, method, moved, tuple(skipped),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _asked(result: FitResult) -> float | str:
    """The delta that a fit was asked for."""
    return "auto" if result.delta is None or result.delta_rule.startswith("auto") else result.delta


def _rule(objective: str, delta: float | str) -> str:
    if not objective.endswith("huber"):
        return "-"
    return "auto" if delta == "auto" else f"{1e-3 if delta == 'chinchilla' else float(delta):g}"


def _penalties(
    objectives: Sequence[str], deltas: Sequence[float | str], base: tuple[str, str]
) -> list[tuple[str, str]]:
    """(objective, delta rule) of every penalty, the base among them, each once."""
    found = [base]
    for objective in objectives:
        found += [(objective, _rule(objective, delta)) for delta in deltas]
    return list(dict.fromkeys(found))


def _fitted(
    setup: Setup, masks: Mapping[str, Keep], objective: str, rule: str, tilt: float, convention: str
) -> list[Choice]:
    """One batch: all row filters under one penalty and convention."""
    delta = float(rule) if rule not in ("auto", "-") else "auto"
    folds = fit_folds(setup, np.array(list(masks.values())), objective, delta, tilt)
    law = setup.law
    free = np.array([name not in setup.fixed for name in law.names])
    natural = law.to_natural(folds.theta, setup.centre)
    derived = law.derived({n: natural[:, i] for i, n in enumerate(law.names)}) if law.derived else {}
    statuses, flat = folds.status(free), flat_folds(setup, folds)
    return [
        Choice(
            objective=objective,
            delta_rule=rule,
            rows=label,
            convention=convention,
            n_rows=int(folds.keep[r].sum()),
            params=dict(zip(law.names, map(float, natural[r]), strict=True)),
            derived={name: float(values[r]) for name, values in derived.items()},
            status="not_identified" if flat[r] and statuses[r] != "failed" else statuses[r],
            unidentified=tuple(flat[r]),
            delta=None if folds.delta is None else float(folds.delta[r]),
            objective_value=float(folds.value[r]),
        )
        for r, label in enumerate(masks)
    ]


def _spreads(base: FitResult, choices: list[Choice]) -> tuple[str, tuple[Spread, ...]]:
    law, drawn = base.shape, spread_of(base)
    natural = law.to_natural(drawn.theta, base.centre)
    columns: dict[str, Array] = {name: natural[:, i] for i, name in enumerate(law.names) if name not in base.fixed}
    if law.derived:
        columns |= law.derived({name: natural[:, i] for i, name in enumerate(law.names)})
    found = []
    for name, values in columns.items():
        scale = name in law.log_names or (name not in law.names and bool((values > 0).all()))
        item = interval_from(values, drawn.widening, log=scale)
        if name in base.unidentified:
            item = replace(item, known=False, why=base.unidentified[name])
        found.append(_spread(name, item, scale, choices))
    return drawn.method or "none", tuple(found)


def _spread(name: str, item: Interval, scale: bool, choices: list[Choice]) -> Spread:
    values = {i: v for i, choice in enumerate(choices) if (v := choice.value(name)) is not None}
    by_axis = {}
    for axis in AXES:
        alone = [v for i, v in values.items() if choices[i].differs_in(choices[0]) in ((), (axis,))]
        if len(alone) > 1:
            by_axis[axis] = (min(alone), max(alone))
    low, high = (min(values.values()), max(values.values())) if values else (np.nan, np.nan)
    ends = np.array([low, high, item.low, item.high])
    with np.errstate(all="ignore"):
        moved = np.log(ends) if scale else ends
        ratio = float((moved[1] - moved[0]) / (moved[3] - moved[2]))
    known = item.known and np.isfinite(ratio)
    return Spread(name, item, low, high, ratio if known else None, by_axis, len(values), len(choices) - len(values))


def print_sensitivity(found: Sensitivity, console: Console) -> None:
    """How much the choices move every quantity beside its interval, the choices one at a time, and the movers."""
    console.print(_spread_table(found))
    wide = [f"{s.name} ({s.ratio:.1f})" for s in found.spreads if s.ratio is not None and s.ratio > _BEYOND]
    if wide:
        text = (
            f"the choices move {', '.join(wide)} further than the 95 % interval is wide (times its width in brackets)"
        )
        console.print(f"[yellow]{escape(text)}[/]", highlight=False)
    else:
        console.print("no choice moves a quantity further than its 95 % interval is wide", highlight=False)
    console.print(f"intervals: {escape(found.interval_method)}", highlight=False)
    console.print(_choice_table(found))
    if found.influence is not None:
        console.print(_mover_table(found))
    for reason in found.skipped:
        console.print(f"[yellow]not fitted[/] {escape(reason)}", highlight=False)


def _spread_table(found: Sensitivity) -> Table:
    title = f"{found.group} {found.target}: {found.law}, {len(found.choices)} ways to fit it"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    for name in ("quantity", "base [95 % interval]", "over all choices", "range / interval", "moved most by"):
        table.add_column(name)
    for spread in found.spreads:
        error = half_width(spread.interval)
        span = "-" if spread.counted == 0 else f"{_rounded(spread.low, error)} to {_rounded(spread.high, error)}"
        lost = f" ({spread.left_out} do not identify it)" if spread.left_out else ""
        ratio = "-" if spread.ratio is None else f"{spread.ratio:.2f}"
        scale = spread.name in found.base.params and spread.interval.low > 0 and spread.interval.high > 100
        table.add_row(spread.name, escape(shown(spread.interval, scale)), span + lost, ratio, spread.main_axis)
    return table


def _choice_table(found: Sensitivity) -> Table:
    alone = found.one_at_a_time()
    title = f"one choice at a time ({len(found.choices) - len(alone)} combinations more are in the JSON)"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    for name in ("change", "rows", *(spread.name for spread in found.spreads), "status"):
        table.add_column(name)
    for choice in alone:
        changed = choice.differs_in(found.base)
        label = _described(choice, changed[0]) if changed else f"base: {choice.objective}, delta {choice.delta_rule}"
        cells = []
        for spread in found.spreads:
            value = choice.value(spread.name)
            cells.append("not identified" if value is None else _rounded(value, half_width(spread.interval) / 10))
        table.add_row(escape(label), str(choice.n_rows), *cells, choice.status)
    return table


def _rounded(value: float, error: float) -> str:
    """To the digits of ``error``, at most four."""
    return number(value, max(error, abs(value) / 3e3))


def _described(choice: Choice, axis: str) -> str:
    match axis:
        case "objective":
            return choice.objective
        case "delta":
            return f"delta {choice.delta_rule}"
        case "rows":
            return choice.rows
    return f"N: {choice.convention}"


def _mover_table(found: Sensitivity) -> Table:
    assert found.influence is not None
    names = list(found.influence.standard_error)
    table = Table(title="without", box=SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    for name in ("left out", "rows", *(f"{name}, in standard errors" for name in names)):
        table.add_column(name)
    movers = found.influence.movers
    single = [m for m in movers if m.what in ("row", "run")][:_MOVERS_SHOWN]
    sizes = [m for m in movers if m.what == "size"][:_SIZES_SHOWN]
    for mover in (*single, *sizes, *(m for m in movers if m.what == "together")):
        moved = (f"{mover.shift[name]:+.2f}" for name in names)
        table.add_row(escape(f"{mover.what}: {mover.label}"), str(mover.num_rows), *moved)
    for label in found.influence.failed:
        table.add_row(escape(label), "", *("no fit" for _ in names))
    return table
