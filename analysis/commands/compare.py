"""`nmm compare`: two groups of a study, or two studies: verdict, exponents, compute multiplier, crossover."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.commands.shared import guarded, parser, values, words
from analysis.decisions.compare import compare
from analysis.decisions.verdicts import Comparison, with_interval_of_compute
from analysis.fit import form_of
from analysis.notation import compute_text, shown
from analysis.result import FitResult, write_json
from analysis.study import Study, load_study

_EXAMPLES = """examples:
  nmm compare outputs/demo/fits.json --groups early,late --target avg
  nmm compare control.json treated.json
"""
_SHOWN_BUDGETS = 6


def compare_main(argv: Sequence[str] | None = None) -> int:
    """Print (and write) comparisons. Returns the exit status."""
    found = parser("nmm compare", "Which of two groups needs less compute, where, and how sure that is.", _EXAMPLES)
    found.add_argument("fits", type=Path, help="what nmm fit wrote, with --bootstrap")
    found.add_argument("other", type=Path, nargs="?", help="a second study: its group is compared with the first's")
    found.add_argument("--groups", default="", metavar="A,B", help="default: every pair of the study")
    found.add_argument("--target", default="", metavar="LIST", help="default: every target that both have")
    found.add_argument("--law", default="", metavar="LIST", help="default: every law that both were fitted with")
    found.add_argument("--at", action="append", default=[], metavar="SYMBOL=VALUE", help="further columns of the law")
    found.add_argument("--json", type=Path, default=None, metavar="OUT", help="also write the comparisons there")
    options = found.parse_args(argv)
    return guarded(lambda console: _compare(options, console))


def _compare(options: argparse.Namespace, console: Console) -> None:
    first = load_study(options.fits)
    second = first if options.other is None else load_study(options.other)
    given, forms = values("--at", options.at), tuple(form_of(name) for name in words(options.law))
    found = []
    for left, right in _pairs(options, first, second):
        shared = [t for t in first.targets if t in second.targets]
        for target in words(options.target) or shared:
            sides = _fits(first, left, target, forms), _fits(second, right, target, forms)
            refused = [*first.refused.get(left, ()), *second.refused.get(right, ())]
            names = (left, right) if left != right else (f"{left} (first)", f"{right} (second)")
            one = compare(*sides, names, target, refused, given, interior=True)
            found.append(one)
            _print(one, console)
    if not found:
        raise ValueError("the two studies share no target; fit both with the same --loss")
    if options.json:
        write_json(options.json, [asdict(one) for one in found])
        console.print(f"{len(found)} comparisons written to {options.json}", highlight=False)


def _pairs(options: argparse.Namespace, first: Study, second: Study) -> list[tuple[str, str]]:
    named = words(options.groups)
    if named:
        if len(named) != 2:
            raise ValueError(f"--groups is {options.groups!r}; name two, as in early,late")
        for name, study in zip(named, (first, second), strict=True):
            if name not in study.groups:
                raise ValueError(f"--groups: {name!r} is not there; the groups are {', '.join(study.groups)}")
        return [(named[0], named[1])]
    if first is not second:
        if len(first.groups) > 1 or len(second.groups) > 1:
            raise ValueError("a study has several groups; name one of each with --groups A,B")
        return [(first.groups[0], second.groups[0])]
    if len(first.groups) < 2:
        raise ValueError(f"the study has the single group {first.groups[0]}; give a second study to compare with")
    return [(a, b) for i, a in enumerate(first.groups) for b in first.groups[i + 1 :]]


def _fits(study: Study, group: str, target: str, forms: Sequence[str]) -> Mapping[str, FitResult]:
    chosen = [f for f in study.fits if (f.group, f.target) == (group, target) and (not forms or f.form in forms)]
    return {fit.form: fit for fit in chosen}


def _print(c: Comparison, console: Console) -> None:
    console.print(f"[bold]{escape(f'{c.left} / {c.right}, {c.target}')}[/]: {escape(c.verdict)}", highlight=False)
    if c.exponents:
        table = Table(box=SIMPLE_HEAD)
        for name in ("exponent", c.left, c.right, "difference [95 %]", f"chance that {c.right} is larger"):
            table.add_column(name)
        for e in c.exponents:
            table.add_row(e.name, f"{e.left:.3f}", f"{e.right:.3f}", shown(e.difference, False), f"{e.probability:.2f}")
        console.print(table)
    if c.crosses_at is not None and c.crossing_probability is not None:
        console.print(
            f"the point fits cross at {with_interval_of_compute(c.crosses_at)} FLOPs; "
            f"{100 * c.crossing_probability:.0f} % of the draws cross in the tested range",
            highlight=False,
        )
    if c.multiplier_curve is not None:
        console.print(_multipliers(c))
    console.print()


def _multipliers(c: Comparison) -> Table:
    curve = c.multiplier_curve
    assert curve is not None
    table = Table(title=f"compute of {c.right} per compute of {c.left} at equal loss", box=SIMPLE_HEAD)
    for name in ("C", "multiplier", "95 % here", "95 % of the whole curve", ""):
        table.add_column(name)
    step = max(1, len(curve.compute) // _SHOWN_BUDGETS)
    for row in curve.rows()[::step]:
        table.add_row(
            compute_text(row["compute"]),
            f"{row['mark']} {row['value']:.3g}".strip(),
            f"[{'<= ' * row['open_low']}{row['low']:.3g}, {'>= ' * row['open_high']}{row['high']:.3g}]",
            f"[{row['band_low']:.3g}, {row['band_high']:.3g}]",
            "at the edge of the tests" if row["at_edge"] else "",
        )
    return table
