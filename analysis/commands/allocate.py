"""`nmm allocate`: what a compute budget should buy, by a fitted law, and how far that lies outside the tests."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.commands.chosen import add_fit_options, chosen_fit, table_of
from analysis.commands.shared import guarded, numbers, parser, values
from analysis.decisions.allocate import Allocation, allocate
from analysis.decisions.concrete import sizes_of
from analysis.decisions.optimum import SIX_ND
from analysis.notation import compute_text, shown
from analysis.result import write_json

_EXAMPLES = """examples:
  nmm allocate fits.json --c 1e21,1e22,1e23
  nmm allocate outputs/demo/fits.json --group early --target avg --c 5e12 --sizes --step 2048
"""


def allocate_main(argv: Sequence[str] | None = None) -> int:
    """Print (and write) the best use of budgets. Returns the exit status."""
    found = parser("nmm allocate", "The best N and D for a compute budget, with intervals.", _EXAMPLES)
    add_fit_options(found)
    found.add_argument("--c", required=True, metavar="LIST", help="budgets in FLOPs, comma-separated")
    found.add_argument("--sizes", action="store_true", help="also the nearest named size of the table (column size)")
    found.add_argument("--step", type=float, default=None, metavar="TOKENS", help="of one optimizer step")
    found.add_argument("--six-nd", action="store_true", help="take C = 6 N D instead of the cost seen in the table")
    found.add_argument("--at", action="append", default=[], metavar="SYMBOL=VALUE", help="further columns of the law")
    found.add_argument("--json", type=Path, default=None, metavar="OUT", help="also write the allocations there")
    options = found.parse_args(argv)
    return guarded(lambda console: _allocate(options, console))


def _allocate(options: argparse.Namespace, console: Console) -> None:
    study, fit = chosen_fit(options)
    sizes = sizes_of(table_of(study, options), group=fit.group) if options.sizes else []
    found = allocate(
        fit,
        numbers("--c", options.c),
        sizes=sizes,
        step=options.step,
        cost=SIX_ND if options.six_nd else None,
        given=values("--at", options.at),
    )
    table = Table(title=f"{fit.group} {fit.target}, law {fit.law}", box=SIMPLE_HEAD, title_justify="left")
    for name in ("C", "N*", "D*", "D*/N*", "loss", "N within 1 % of the loss", "outside what was fitted"):
        table.add_column(name)
    for one in found:
        table.add_row(*_line(one))
    console.print(table)
    for one in found:
        if one.config is not None:
            c = one.config
            console.print(
                f"at {compute_text(one.compute)} FLOPs: size {c.name} (N {c.size:.3g}) for {c.tokens:.3g} tokens"
                + (f" = {c.steps} steps" if c.steps is not None else "")
                + f", {c.penalty.value:+.2f} % loss against the best split",
                highlight=False,
            )
    console.print(f"{found[0].method}; intervals: {found[0].ci_method}", highlight=False)
    if options.json:
        write_json(options.json, [asdict(one) for one in found])
        console.print(f"{len(found)} allocations written to {options.json}", highlight=False)


def _line(one: Allocation) -> tuple[str, ...]:
    near = one.near[-1]
    outside = ", ".join(f"{name} {factor:.3g}x" for name, factor in one.beyond.items() if factor > 1.0)
    pairs = (shown(item, scale=True) for item in (one.size, one.tokens, one.tokens_per_parameter))
    return (
        compute_text(one.compute),
        *pairs,
        shown(one.loss, scale=False),
        f"{near.low:.2g} to {near.high:.2g}",
        f"extrapolates: {outside}" if outside else "inside",
    )
