"""`nmm simulate`: a table of runs drawn from a known law."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.commands.shared import guarded, numbers, pairs, parser, values
from analysis.simulation.simulator import Design, Noise, crossed, grid, isoflop, rows_design, simulate_rows
from analysis.simulation.surfaces import TRUTHS, paper_design

_EXAMPLES = """examples:
  nmm simulate --truth early --paper-design --run-noise 0.003 --out early.csv
  nmm simulate --law chinchilla --param E=1.8 --param A=480 --param alpha=.35 --param B=2100 --param beta=.37 \\
      --sizes 1e8,3e8,1e9,3e9 --tokens 1e9,1e10,1e11 --row-noise 0.004 --seed 1 --out runs.csv
  nmm fit runs.csv --law chinchilla --n N --d D --c C --run run --group group --loss loss
"""


def simulate_main(argv: Sequence[str] | None = None) -> int:
    """Write a simulated table. Returns the exit status."""
    found = parser("nmm simulate", "Draw a sweep from a law with known parameters.", _EXAMPLES)
    found.add_argument("--truth", choices=sorted(TRUTHS), default=None, help="a published surface, instead of --law")
    found.add_argument("--law", default="chinchilla", help="(default %(default)s)")
    found.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="natural parameter of the law"
    )
    found.add_argument("--paper-design", action="store_true", help="6 sizes x 12 token counts of arXiv 2504.07951")
    found.add_argument("--sizes", default=None, metavar="LIST", help="N of a grid")
    found.add_argument("--tokens", default=None, metavar="LIST", help="D of a grid")
    found.add_argument("--isoflop", default=None, metavar="LIST", help="budgets C, 7 sizes each, instead of a grid")
    found.add_argument("--column", action="append", default=[], metavar="SYMBOL=LIST", help="further columns, crossed")
    found.add_argument("--checkpoints", action="store_true", help="token counts of one size are one run")
    found.add_argument("--seeds", type=int, default=1, help="repetitions of the whole design (default %(default)s)")
    found.add_argument("--run-noise", type=float, default=0.0, help="standard deviation of ln L of a run")
    found.add_argument("--row-noise", type=float, default=0.0, help="standard deviation of ln L of a row")
    found.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    found.add_argument("--group", default=None, help="written into the column group (default: name of the law)")
    found.add_argument("--out", type=Path, required=True, help=".csv or .parquet")
    options = found.parse_args(argv)
    return guarded(lambda console: _simulate(options, console))


def _simulate(options: argparse.Namespace, console: Console) -> None:
    if options.out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out is {options.out}; it must end in .csv or .parquet")
    truth = TRUTHS[options.truth] if options.truth else None
    law = truth.law if truth else options.law
    params = {**(truth.params if truth else {}), **values("--param", options.param)}
    plan = _design(options)
    noise = Noise(options.run_noise, options.row_noise)
    group = options.group or options.truth or law
    frame = pd.DataFrame(simulate_rows(law, params, plan, noise, group=group, seed=options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.out.suffix == ".csv":
        frame.to_csv(options.out, index=False)
    else:
        frame.to_parquet(options.out, index=False)
    if truth and truth.caveat:
        console.print(f"[yellow]note[/] {truth.name}: {truth.caveat} ({truth.source})", highlight=False)
    console.print(f"{len(frame)} rows of {plan.num_runs} runs written to {options.out}", highlight=False)


def _design(options: argparse.Namespace) -> Design:
    if options.paper_design:
        plan = paper_design(late=options.truth == "late", seeds=options.seeds)
    elif options.isoflop:
        plan = isoflop(numbers("--isoflop", options.isoflop), seeds=options.seeds)
    elif options.sizes and options.tokens:
        plan = grid(
            numbers("--sizes", options.sizes), numbers("--tokens", options.tokens), options.seeds, options.checkpoints
        )
    elif options.column:
        plan = rows_design(options.seeds, **_columns(options.column))
        return plan
    else:
        raise ValueError("no design: give --sizes and --tokens, --isoflop, --paper-design, or --column SYMBOL=LIST")
    return crossed(plan, **_columns(options.column)) if options.column else plan


def _columns(given: Sequence[str]) -> dict[str, list[float]]:
    found = {}
    for symbol, text in pairs("--column", given).items():
        try:
            found[symbol] = [float(word) for word in text.split(",")]
        except ValueError:
            raise ValueError(f"--column {symbol} is {text!r}; give numbers separated by commas") from None
    return found
