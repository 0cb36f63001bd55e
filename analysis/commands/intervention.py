"""`nmm intervention page`: the page of a finished study from its two files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console

from analysis.commands.shared import bar, guarded, parser, text
from analysis.interventions.blocks import Block
from analysis.interventions.page import write_page
from analysis.interventions.rows import Data, RowsError, load

METHODS = ("filter", "soup", "pieces", "bridge", "guide")
_EXAMPLES = """example:
  nmm intervention page outputs/interventions/filter
"""


def page_main(argv: Sequence[str]) -> int:
    """``nmm intervention page DIR [--out FOLDER]``: redraw the page of a study. Returns the exit status."""
    found = parser("nmm intervention page", "Draw the page of a finished study again from its two files.", _EXAMPLES)
    found.add_argument("study", type=Path, help="directory with study.json and results.jsonl")
    found.add_argument("--out", type=Path, default=None, help="folder of index.html and README.md (default DIR/page)")
    options = found.parse_args(argv)
    return guarded(lambda console: _page(options.study, options.out or options.study / "page", console))


def _page(folder: Path, out: Path, console: Console) -> None:
    data = load(folder)
    with bar(console, text("page"), text("{task.description}")) as progress:
        task = progress.add_task("fitting and resampling", total=None)
        blocks = blocks_of(data)

        def on_picture(name: str, total: int) -> None:
            progress.update(task, advance=1, total=total, description=name)

        path = write_page(data.study.title, blocks, out, on_picture)
    what = f"{data.study.method}: {len(data.rows)} rows of {len(data.arms)} arms"
    console.print(f"page of {what} written to {path} and {out / 'README.md'}", highlight=False, soft_wrap=True)


def blocks_of(data: Data) -> list[Block]:
    """The page of a study, composed by its method. Raises ``RowsError`` for a method without a page."""
    if data.study.method not in METHODS:
        raise RowsError(f"study.json: method is {data.study.method!r}; pages exist for {', '.join(METHODS)}")
    found: list[Block] = import_module(f"analysis.interventions.{data.study.method}").blocks(data)
    return found
