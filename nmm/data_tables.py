"""The facts of ``nmm.data.stats`` as tables for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nmm.describe_tables import si

BAR = 14  # characters of the longest bar
EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"
SIDE_BY_SIDE = 4
MOST_IMAGES = 8
LISTED = 8  # refused shards


def show(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print everything ``nmm.data.stats.data_stats`` found."""
    console = console or Console()
    data, sources = facts["data"], facts["sources"]

    def part(title: str, *tables: Table | str) -> None:
        console.print(f"\n[bold]{title}[/]", highlight=False)
        for table in tables:
            console.print(table, highlight=False)

    for line in _head(data, len(sources)):
        console.print(line, highlight=False)
    part("one epoch of the training split", _epoch(sources))
    if any(source["bad"] or source["refused"] for source in sources.values()):
        part("left out by the index", *_left_out(sources))
    part(f"mixture, shares of {data['weights']}", _mixture(facts["mixture"]))
    part(f"the first {facts['rows']['rows']:,} rows", *_rows(facts["rows"], data))
    if facts["budget"] is not None:
        part("this budget, scaled up from these rows", _budget(facts["budget"]))
    part("documents by length in positions", *_lengths(sources))
    part("documents by number of images", _images(sources))
    part("text tokens of a document (of an image with text: the length of its caption)", _text(sources))
    if facts["duplicates"] is None:
        part("duplicates", "  not known: rendered shards keep no checksum of a sample")
    else:
        part("duplicates: samples with the same bytes", *_duplicates(facts["duplicates"]))


def _head(data: Mapping[str, Any], sources: int) -> list[str]:
    where = f" of {escape(data['path'])}" if data["path"] else ""
    return [
        f"[bold]{sources} {data['kind']} source{'' if sources == 1 else 's'}[/]{where}",
        f"fingerprint {data['fingerprint'][:12]}, vocabulary {data['vocab_size']:,}, context of "
        f"{data['context_length']:,} positions",
        f"an image of {data['image_size']} pixels in patches of {data['patch_size']} takes "
        f"{data['tokens_per_image']:,} positions" + (f"; {tiles}" if (tiles := data["tiles"]) else ""),
    ]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for at, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if at else "left", overflow="fold")
    return table


def _epoch(sources: Mapping[str, Any]) -> Table:
    columns = ("shards", "samples", "held_out", "text_tokens", "image_tokens", "positions", "truncated")
    table = _table("source", "shards", "samples", "held out", "text", "image", "positions", "cut")
    for name, source in sources.items():
        table.add_row(escape(name), *(si(source[column]) for column in columns))
    if len(sources) > 1:
        table.add_section()
        table.add_row("all", *(si(sum(source[column] for source in sources.values())) for column in columns))
    return table


def _left_out(sources: Mapping[str, Any]) -> list[Table | str]:
    table = _table("source", "why", "samples", "share")
    for name, source in sources.items():
        everything = source["samples"] + source["held_out"] + sum(source["bad"].values())
        for reason, count in sorted(source["bad"].items(), key=lambda item: -item[1]):
            table.add_row(escape(name), reason, f"{count:,}", f"{count / everything:.3%}")
    refused = [(name, file, why) for name, source in sources.items() for file, why in source["refused"].items()]
    lines = [f"  {escape(name)}: the whole of {escape(file)}: {escape(why)}" for name, file, why in refused[:LISTED]]
    if len(refused) > LISTED:
        lines.append(f"  and {len(refused) - LISTED} more shards")
    return [*([table] if table.row_count else []), *lines]


def _mixture(mixture: Mapping[str, Any]) -> Table:
    table = _table("source", "asked", "found", "samples", "text", "image", "learned", "epochs")
    for name, one in mixture.items():
        counts = (si(one[column]) for column in ("samples", "text_tokens", "image_tokens", "targets"))
        table.add_row(escape(name), f"{one['asked']:.2%}", f"{one['found']:.2%}", *counts, f"{one['epochs_done']:.3g}")
    return table


def _rows(rows: Mapping[str, Any], data: Mapping[str, Any]) -> list[Table | str]:
    table = _table("positions", "count", "share", "expected")
    padding = rows["positions"] - rows["filled"]
    for name, count, expected in (
        ("text", rows["text_tokens"], ""),
        ("image", rows["image_tokens"], f"{data['image_share']:.1%}"),
        ("padding", padding, ""),
    ):
        table.add_row(name, si(count), f"{count / rows['positions']:.2%}", expected)
    table.add_section()
    expected = f"{data['target_share']:.1%}"
    table.add_row("learned (targets)", si(rows["targets"]), f"{rows['target_share']:.2%}", expected)
    return [
        f"  packing efficiency {rows['efficiency']:.2%}: {rows['filled']:,} of {rows['positions']:,} positions filled",
        f"  {rows['documents']:,} documents, {rows['truncated']:,} of them cut to the length of a row",
        table,
    ]


def _budget(budget: Mapping[str, Any]) -> Table:
    table = _table("source", "tokens", "epochs", "unique tokens", "unique")
    for name, one in budget.items():
        share = f"{one['unique_tokens'] / max(1, one['tokens']):.1%}"
        table.add_row(escape(name), si(one["tokens"]), f"{one['epochs']:,.3g}", si(one["unique_tokens"]), share)
    return table


def _lengths(sources: Mapping[str, Any]) -> list[Table]:
    """Bars side by side, some sources at a time; every source's longest bar is equally long."""
    found, names = [], list(sources)
    for start in range(0, len(names), SIDE_BY_SIDE):
        part = names[start : start + SIDE_BY_SIDE]
        columns = [sources[name]["length"]["histogram"] for name in part]
        used = [at for at, bins in enumerate(zip(*columns, strict=True)) if any(one["documents"] for one in bins)]
        table = Table(box=SIMPLE_HEAD, show_edge=False)
        table.add_column("length", justify="right")
        for name in part:
            table.add_column(escape(name), min_width=BAR + 6, overflow="fold")
        for at in range(used[0], used[-1] + 1):
            first, last = columns[0][at]["from"], columns[0][at]["to"]
            label = str(first) if first == last else f"{first}\N{EN DASH}{last}"
            table.add_row(label, *(_bar(column, at) for column in columns))
        found.append(table)
    return found


def _bar(bins: Sequence[Mapping[str, int]], at: int) -> str:
    """A bar in eighths of a character and the share it stands for."""
    counts = [one["documents"] for one in bins]
    if not counts[at]:
        return ""
    whole, rest = divmod(round(8 * BAR * counts[at] / max(counts)), 8)
    bar = "\N{FULL BLOCK}" * whole + (EIGHTHS[rest] if rest else "")
    share = counts[at] / sum(counts)
    return f"{bar or EIGHTHS[1]} {'<0.1%' if share < 0.0005 else f'{share:.1%}'}"


def _images(sources: Mapping[str, Any]) -> Table:
    most = min(MOST_IMAGES, max(len(source["images"]) for source in sources.values()) - 1)
    table = _table("source", *(f"{n} or more" if n == MOST_IMAGES else str(n) for n in range(most + 1)))
    for name, source in sources.items():
        counts = [*source["images"], *[0] * (most + 1 - len(source["images"]))]
        cells = [*counts[:most], sum(counts[most:])]
        table.add_row(escape(name), *(f"{count / source['samples']:.1%}" if count else "-" for count in cells))
    return table


def _text(sources: Mapping[str, Any]) -> Table:
    table = _table("source", "mean", "5 % below", "median", "5 % above", "longest")
    for name, source in sources.items():
        text = source["text"]
        counts = (f"{text[column]:,}" for column in ("p5", "median", "p95", "max"))
        table.add_row(escape(name), f"{text['mean']:,.1f}", *counts)
    return table


def _duplicates(found: Mapping[str, Any]) -> list[Table | str]:
    table = _table("source", "samples", "repeats", "share", "in others too", "share")
    for name, one in found["sources"].items():
        samples = one["samples"]
        cells = [text for key in ("repeats", "elsewhere") for text in (f"{one[key]:,}", _share(one[key], samples))]
        table.add_row(escape(name), f"{samples:,}", *cells)
    if not found["held_out"]:
        return [table, "  nothing is held out"]
    share = _share(found["leaked"], found["held_out"])
    line = f"  {found['leaked']:,} of {found['held_out']:,} held-out samples ({share}) are trained on under another key"
    return [table, line]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0%"
