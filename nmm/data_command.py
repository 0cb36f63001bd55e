"""`nmm data`: what a run's data is made of, and what it looks like to the model. Nothing is trained."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from nmm.compose import compose
from nmm.config import Budget, ConfigError, RunConfig
from nmm.resolve import finalize

HELP = """usage: nmm data stats|view [KEY=VALUE ...] [OPTIONS]        (nmm data stats --help explains one)

  stats   tokens, mixture, packing, lengths, bad samples and duplicates, from indexes alone
  view    a page of the first training rows as the model sees them: patches, tokens, mask, loss

Both take the KEY=VALUE of `nmm train`, so they see exactly the rows that training would.
"""

STATS_EPILOG = """example:
  nmm data stats data=shards data.path=/data '+data.sources={caption: cc12m, text: "dclm/*.tar"}' \\
    budget.tokens=3e9 --json stats.json
"""

VIEW_EPILOG = """example:
  nmm data view data.path=outputs/shards/world --rows 8 --out outputs/rows.html
"""


def data_main(argv: Sequence[str]) -> int:
    """Dispatch `nmm data stats` and `nmm data view`."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {"stats": _stats_main, "view": _view_main}
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if argv[0] not in commands:
        raise ConfigError(f"unknown command {argv[0]!r}; there are stats and view\n\n{HELP}")
    return commands[argv[0]](argv[1:])


def _stats_main(argv: Sequence[str]) -> int:
    parser = _parser("stats", "Count what a run's data is made of, from indexes and lengths alone.", STATS_EPILOG)
    parser.add_argument("--rows", type=int, default=1024, metavar="N",
                        help="pack and count the first N rows of training (default 1024)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the facts there too, with stable keys")
    options = parser.parse_intermixed_args(list(argv))
    config, has_budget = _config(options.overrides)
    from nmm.data.opening import open_data, row_source
    from nmm.data.stats import data_stats
    from nmm.data_tables import show
    from nmm.record import write_atomic

    opened = open_data(config.data)
    rows = row_source(opened, config.row_data, config.seed, stage=config.stage.name, bridge=config.bridge)
    budget = config.total_steps * config.tokens_per_step if has_budget else None
    facts = data_stats(opened, rows, config.row_data, options.rows, budget)
    show(facts)
    if options.json is not None:
        write_atomic(options.json, lambda out: out.write(json.dumps(facts, indent=1).encode()))
    return 0


def _view_main(argv: Sequence[str]) -> int:
    parser = _parser("view", "Write a page of training rows as the model sees them, for the eye.", VIEW_EPILOG)
    parser.add_argument("--out", type=Path, default=Path("rows.html"), metavar="FILE", help="default: rows.html")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="how many (default 8)")
    parser.add_argument("--first", type=int, default=0, metavar="ROW", help="number of the first one (default 0)")
    options = parser.parse_intermixed_args(list(argv))
    if options.rows < 1 or options.first < 0:
        raise ConfigError(f"--rows {options.rows} must be 1 or more, --first {options.first} must be 0 or more")
    config, _ = _config(options.overrides)
    from nmm.data.view_rows import rows_page
    from nmm.record import write_atomic

    page = rows_page(config, options.first, options.rows)
    write_atomic(options.out, lambda out: out.write(page.encode()))
    print(f"{options.rows} row{'s' * (options.rows > 1)}: {options.out} ({len(page) / 2**20:.1f} MiB)")
    return 0


def _parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"nmm data {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for `nmm train`: data, mixture, seed ...")
    return parser


def _config(overrides: Sequence[str]) -> tuple[RunConfig, bool]:
    """The finalized config of the run, and whether it was given a budget, which rows do not need."""
    config = compose(overrides)
    has_budget = any(value is not None for value in dataclasses.asdict(config.budget).values())
    if not has_budget:
        config = dataclasses.replace(config, budget=Budget(steps=1))
    return finalize(config), has_budget
