"""`nmm design`: which runs to add next, for a budget, to know one quantity best."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.commands.chosen import add_fit_options, chosen_fit, sample_of
from analysis.commands.shared import guarded, parser, values
from analysis.decisions.candidates import read_candidates
from analysis.decisions.design import MAX_RUNS, Plan, design
from analysis.notation import compute_text, shown
from analysis.result import write_json
from analysis.simulation.simulator import Noise

_EXAMPLES = """examples:
  nmm design fits.json --quantity beta --budget 1e21
  nmm design fits.json --quantity 'loss(1e23)' --budget 5e21 --json plan.json
  nmm design fits.json --quantity alpha --budget 1e15 --candidates runs.csv   # only runs that can really be made
"""


def design_main(argv: Sequence[str] | None = None) -> int:
    """Print (and write) the runs to add. Returns the exit status."""
    found = parser("nmm design", "Choose the runs that shrink the interval of one quantity most per FLOP.", _EXAMPLES)
    add_fit_options(found)
    found.add_argument(
        "--quantity",
        required=True,
        metavar="NAME",
        help="a parameter, a, b, 'N*(C)', 'D*(C)', 'loss(C)' or 'loss(N=..., D=...)'",
    )
    found.add_argument("--budget", required=True, type=float, metavar="FLOPS", help="for all new runs together")
    found.add_argument("--max-runs", type=int, default=MAX_RUNS, help="(default %(default)s)")
    found.add_argument(
        "--beyond", type=float, default=4.0, metavar="X", help="as far outside the tests (default %(default)s)"
    )
    found.add_argument(
        "--candidates", type=Path, default=None, metavar="FILE",
        help="the runs to choose from: .json or .csv with N, D (one or several), flops, and where wanted name, runs "
        "(how many it counts as) and beside (id of a fitted row whose run it continues); default: around the tests",
    )  # fmt: skip
    found.add_argument("--run-noise", type=float, default=None, help="standard deviation of ln L of a run")
    found.add_argument(
        "--row-noise", type=float, default=None, help="of a row within its run (both default: residuals)"
    )
    found.add_argument("--at", action="append", default=[], metavar="SYMBOL=VALUE", help="further columns of the law")
    found.add_argument("--json", type=Path, default=None, metavar="OUT", help="also write the plan there")
    options = found.parse_args(argv)
    return guarded(lambda console: _design(options, console))


def _design(options: argparse.Namespace, console: Console) -> None:
    study, fit = chosen_fit(options)
    noise = None
    if options.run_noise is not None or options.row_noise is not None:
        noise = Noise(options.run_noise or 0.0, options.row_noise or 0.0)
    plan = design(
        fit, sample_of(study, fit, options), options.quantity, options.budget, noise=noise,
        candidates=read_candidates(options.candidates) if options.candidates else None,
        max_runs=options.max_runs, beyond=options.beyond, given=values("--at", options.at),
    )  # fmt: skip
    console.print(_table(plan))
    console.print(_closing(plan), highlight=False)
    for note in plan.notes:
        console.print(f"[yellow]note[/] {note}", highlight=False)
    if options.json:
        write_json(options.json, asdict(plan))
        console.print(f"plan of {len(plan.steps)} runs written to {options.json}", highlight=False)


def _table(plan: Plan) -> Table:
    table = Table(title=f"runs to add for {plan.quantity}, now {shown(plan.before, False)}", box=SIMPLE_HEAD)
    named = any(step.run.name for step in plan.steps)
    for name in (*(["run"] if named else []), "N", "D", "FLOPs", "spent so far", f"expected {plan.quantity}", "width"):
        table.add_column(name)
    for step, row in zip(plan.steps, plan.rows(), strict=True):
        table.add_row(
            *([step.run.name] if named else []),
            f"{step.run.size:.3g}", str(row["D"]), compute_text(step.run.flops), compute_text(step.cumulative),
            shown(step.after, False), f"x {step.ratio:.2f}",
        )  # fmt: skip
    return table


def _closing(plan: Plan) -> str:
    repeat = "nothing" if plan.repeat_ratio is None else f"x {plan.repeat_ratio:.2f}"
    return (
        f"{len(plan.steps)} runs, {compute_text(plan.spent)} of {compute_text(plan.budget)} FLOPs: the interval of "
        f"{plan.quantity} is expected to shrink to x {plan.ratio:.2f}; repeating existing runs gives {repeat}, a blind "
        f"choice x {plan.blind_ratio:.2f} (median). Noise assumed: {plan.noise.run:.2g} a run, "
        f"{plan.noise.row:.2g} a row."
    )
