"""``nmm sweep next``: read arguments, choose, write, show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from sweeps import manifest
from sweeps.adaptive.goal import BEYOND, MAX_RUNS, QUANTITIES, Ask, parse_goal
from sweeps.adaptive.notes import only_planner
from sweeps.adaptive.planning import choose, fits_for, ready, workplace, write
from sweeps.adaptive.rounds import Rounds, run_rounds
from sweeps.adaptive.show import say, show_next

_DESCRIPTION = """\
Add to a finished sweep the runs that shrink one interval most for a budget: fits the finished points, offers to the
design what this sweep can really run (its sizes and neighbours of their family, its token counts, other seeds, branches
of finished trunks) at exact cost, and adds its choice to DIR/manifest.jsonl. Nothing is run unless --rounds is given.
"""
_EXAMPLES = f"""\
quantities: {QUANTITIES}

examples:
  nmm sweep next outputs/demo/runs --budget 5e12 --goal 'interval of alpha for early'
  nmm sweep next outputs/demo/runs --budget 5e12 --goal 'interval of N*(1e14) for moe' --sizes d24,d32 --dry-run
  nmm sweep next outputs/demo/runs --budget 2e13 --goal 'interval of beta for late' --rounds 3 --until 0.1 workers=2
"""


def next_main(argv: Sequence[str]) -> int:
    """``nmm sweep next``. Returns the exit status."""
    options = next_parser().parse_intermixed_args(argv)
    directory = options.dir.absolute()
    ask = ask_of(options, directory)
    rounds = _rounds(options)
    console = Console()
    if rounds is not None:
        with only_planner(directory):
            return run_rounds(directory, ask, rounds, console)
    if options.dry_run:
        return _once(directory, ask, console, keep=False)
    with only_planner(directory):
        return _once(directory, ask, console, keep=True)


def _once(directory: Path, ask: Ask, console: Console, keep: bool) -> int:
    entries, found = ready(directory)
    say(console, f"fitting {found.points} points and choosing among the runs on offer ...")
    with workplace(directory) as folder:
        fits = fits_for(directory, ask, found, Path(folder))
        chosen = choose(directory, ask, entries, found, fits, Path(folder))
        show_next(write(directory, chosen, fits, None) if keep else chosen, directory, console)
    return 0


def next_parser() -> argparse.ArgumentParser:
    """The options of ``nmm sweep next``."""
    found = argparse.ArgumentParser(
        prog="nmm sweep next",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("dir", type=Path, help="the sweep's directory, e.g. outputs/demo/runs")
    found.add_argument("launch", nargs="*", metavar="key=value", help="with --rounds: options of `nmm sweep launch`")
    found.add_argument("--budget", type=float, required=True, metavar="FLOPS", help="for all new runs together")
    found.add_argument("--goal", required=True, metavar="GOAL", help="'interval of QUANTITY for GROUP'")
    found.add_argument("--fits", type=Path, default=None, help="what `nmm fit DIR` wrote (default: fit now)")
    found.add_argument("--max-runs", type=int, default=MAX_RUNS, metavar="K", help="new lines (default %(default)s)")
    found.add_argument("--sizes", default="", metavar="NAMES", help="only these, as d24,d32")
    found.add_argument("--tokens", default="", metavar="COUNTS", help="token counts to offer as well, as 4e6,8e6")
    found.add_argument(
        "--beyond",
        type=float,
        default=BEYOND,
        metavar="X",
        help="sizes up to X times the tested N (default %(default)s)",
    )
    found.add_argument("--rounds", type=int, default=None, metavar="R", help="also run and fit, R rounds in all")
    found.add_argument("--until", type=float, default=None, metavar="WIDTH", help="with --rounds: stop at this width")
    found.add_argument("--dry-run", action="store_true", help="show the choice and write nothing")
    passed = found.add_argument_group("as in nmm fit and nmm design")
    for name in ("--target", "--law", "--table", "--run-noise", "--row-noise"):
        passed.add_argument(name, default=None)
    passed.add_argument("--at", action="append", default=[], metavar="SYMBOL=VALUE")
    passed.add_argument("--bootstrap", type=int, default=None, metavar="B")
    return found


def ask_of(options: argparse.Namespace, directory: Path) -> Ask:
    """The arguments, checked against the sweep. Raises ``ConfigError`` and ``ManifestError``."""
    for name, value in (("--budget", options.budget), ("--beyond", options.beyond)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value:g}; it must be a positive number")
    if options.max_runs < 1:
        raise ConfigError(f"--max-runs is {options.max_runs}; it must be at least 1 (a branch), or 2 (a new trunk)")
    if options.beyond < 1:
        raise ConfigError(f"--beyond is {options.beyond:g}; 1 keeps to the tested sizes, 4 goes four times beyond")
    if options.fits is not None and options.rounds is not None:
        raise ConfigError("--fits with --rounds: every round fits anew; leave --fits out")
    passed = [(f"--{name}", getattr(options, name.replace("-", "_"))) for name in ("target", "law", "table")]
    passed += [("--run-noise", options.run_noise), ("--row-noise", options.row_noise)]
    passed += [("--at", item) for item in options.at]
    fit = () if options.bootstrap is None else ("--bootstrap", str(options.bootstrap))
    return Ask(
        goal=parse_goal(options.goal, {entry.shape[0] for entry in manifest.read(directory)}),
        budget=options.budget,
        max_runs=options.max_runs,
        sizes=tuple(name.strip() for name in options.sizes.split(",") if name.strip()),
        tokens=_counts(options.tokens),
        beyond=options.beyond,
        fits=options.fits,
        design_options=tuple(word for name, value in passed if value is not None for word in (name, str(value))),
        fit_options=fit,
    )


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(float(word)) for word in text.split(",") if word.strip())
    except (ValueError, OverflowError):
        found = (0,)
    if any(count < 1 for count in found):
        raise ConfigError(f"--tokens is {text!r}; give whole numbers separated by commas, as in 4e6,8e6")
    return found


def _rounds(options: argparse.Namespace) -> Rounds | None:
    if options.rounds is None:
        for name, given in (("--until", options.until), ("launch options", options.launch)):
            if given:
                raise ConfigError(f"{name} without --rounds: nothing is run; add --rounds R, or leave it out")
        return None
    if options.rounds < 1 or options.dry_run:
        raise ConfigError(
            "--rounds must be at least 1" if options.rounds < 1 else "--dry-run with --rounds: give one of them"
        )
    if options.until is not None and not options.until > 0:
        raise ConfigError(f"--until is {options.until:g}; it is the width of the interval to stop at, above 0")
    if any(word.startswith("launcher=") and word != "launcher=local" for word in options.launch):
        raise ConfigError(
            "--rounds runs on this machine (launcher=local); on a cluster give `nmm sweep next`, `nmm sweep launch DIR "
            "launcher=slurm` and, when that is done, `nmm sweep next` again"
        )
    return Rounds(options.rounds, options.until, tuple(options.launch))
