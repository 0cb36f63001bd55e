"""`nmm predict`: the loss a law expects at given points, with bands, and how far that claim was tested."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.commands.chosen import add_fit_options, chosen_fit, sample_of
from analysis.commands.shared import guarded, numbers, pairs, parser
from analysis.engine.jet import Array
from analysis.notation import compute_text, with_interval
from analysis.result import FitResult, Interval, write_json
from analysis.study import Study
from analysis.uncertainty.prediction import Prediction, predict
from analysis.validation.holdout import rolled_for
from analysis.validation.rolling import Claim, Rolling, claims

_EXAMPLES = """examples:
  nmm predict fits.json --n 7e9 --d 2e12
  nmm predict fits.json --group early --n 1e9,3e9 --d 1e11,3e11 --json prediction.json
  nmm predict moe.json --n 1e9 --d 1e11 --at S=0.9
"""


def predict_main(argv: Sequence[str] | None = None) -> int:
    """Print (and write) predictions of one fit. Returns the exit status."""
    found = parser(
        "nmm predict", "Predict the loss of runs nobody has trained, and say how far that was tested.", _EXAMPLES
    )
    add_fit_options(found)
    for symbol, what in (("n", "parameters N"), ("d", "tokens D"), ("c", "FLOPs C")):
        found.add_argument(f"--{symbol}", default=None, metavar="LIST", help=f"{what}, comma-separated")
    found.add_argument("--at", action="append", default=[], metavar="SYMBOL=LIST", help="further columns of the law")
    found.add_argument("--level", type=float, default=0.95, help="of the bands (default %(default)s)")
    found.add_argument(
        "--tolerance", type=float, default=2.0, metavar="PERCENT",
        help="a hold-out error up to this counts as validated (default %(default)s)",
    )  # fmt: skip
    found.add_argument("--json", default=None, metavar="OUT", help="also write the predictions there")
    options = found.parse_args(argv)
    return guarded(lambda console: _predict(options, console))


def _predict(options: argparse.Namespace, console: Console) -> None:
    study, fit = chosen_fit(options)
    columns = _points(options)
    found = predict(fit, columns, options.level)
    rolled = _rolled(study, fit, options, console)
    verdicts = [
        claims(fit, rolled, {name: float(values[i]) for name, values in columns.items()}, options.tolerance)
        for i in range(len(found.fitted))
    ]
    table = Table(title=f"{fit.group} {fit.target}, law {fit.law}", box=SIMPLE_HEAD, title_justify="left")
    percent = f"{100 * options.level:g} %"
    for name in (*columns, f"loss [{percent} of the law]", f"{percent} of a new run", "tested?"):
        table.add_column(name)
    for i, value in enumerate(found.fitted):
        law, run = (
            with_interval(Interval(float(value), float(low[i]), float(high[i])))
            for low, high in ((found.low, found.high), (found.run_low, found.run_high))
        )
        place = [compute_text(float(values[i])) for values in columns.values()]
        tested = verdicts[i][0].text if verdicts[i] else "no column of the fit"
        table.add_row(*place, law, run[run.index("[") :], escape(tested))
    console.print(table)
    console.print(f"bands: {found.method}", highlight=False)
    if options.json:
        write_json(Path(options.json), _rows(fit, columns, found, verdicts))
        console.print(f"{len(found.fitted)} predictions written to {options.json}", highlight=False)


def _points(options: argparse.Namespace) -> dict[str, Array]:
    given = {symbol.upper(): text for symbol in "ndc" if (text := getattr(options, symbol)) is not None}
    lists = {symbol: numbers(f"--{symbol.lower()}", text) for symbol, text in given.items()}
    lists |= {symbol: [float(v) for v in text.split(",")] for symbol, text in pairs("--at", options.at).items()}
    if not lists:
        raise ValueError("no point given: name the law's columns, as in --n 7e9 --d 2e12")
    count = max(map(len, lists.values()))
    if wrong := [symbol for symbol, values in lists.items() if len(values) not in (1, count)]:
        raise ValueError(f"{wrong[0]} has {len(lists[wrong[0]])} values, another column {count}; give 1 or {count}")
    return {symbol: np.broadcast_to(np.array(values, dtype=float), (count,)) for symbol, values in lists.items()}


def _rolled(study: Study, fit: FitResult, options: argparse.Namespace, console: Console) -> Rolling | None:
    try:
        return rolled_for(sample_of(study, fit, options), fit)
    except ValueError as error:
        console.print(f"[yellow]no hold-outs[/], so extrapolations count as untested: {escape(str(error))}")
        return None


def _rows(
    fit: FitResult, columns: dict[str, Array], found: Prediction, verdicts: Sequence[Sequence[Claim]]
) -> list[dict[str, Any]]:
    """One dict a point."""
    bands = ("fitted", "low", "high", "run_low", "run_high")
    return [
        {"group": fit.group, "target": fit.target, "law": fit.law}
        | {name: values[i] for name, values in columns.items()}
        | {name: getattr(found, name)[i] for name in bands}
        | {"level": found.level, "claims": [asdict(claim) for claim in verdicts[i]]}
        for i in range(len(found.fitted))
    ]
