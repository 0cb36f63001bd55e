"""What `nmm sweep next` prints."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sweeps.adaptive.planning import NextRuns
from sweeps.plan import duration


def say(console: Console, text: str) -> None:
    """One line, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_next(chosen: NextRuns, directory: Path, console: Console, final: bool = True) -> None:
    """The table of the runs, what they are expected to tell, and the next command (``final``)."""
    advice, ask = chosen.advice, chosen.ask
    console.print(_table(chosen))
    cost = f"{len(chosen.entries)} lines, {chosen.cost:.3g} of {ask.budget:.3g} FLOPs"
    say(console, "* of one worker, by the speeds of finished runs")
    say(console, f"{ask.goal}: {advice.now} now, {advice.expected} expected (width x {advice.ratio:.2f}); {cost}")
    if not advice.now.known:
        say(
            console,
            f"{ask.goal.quantity} is not identified by the present runs: {advice.now.why or 'no draws in the fits'}. "
            "These runs are what the design would add to identify it; how narrow it gets is rough",
        )
    repeat = "buys nothing" if advice.repeat_ratio is None else f"x {advice.repeat_ratio:.2f}"
    say(console, f"the same FLOPs on repeating present runs: {repeat}; on a blind choice: x {advice.blind_ratio:.2f}")
    for note in chosen.notes:
        say(console, f"note: {note}")
    if not chosen.number:
        say(console, "dry run: nothing is written")
    elif final:
        say(console, f"added to {directory}/manifest.jsonl (why: next/{chosen.number:04d}.json); run them with")
        say(console, f"  nmm sweep launch {directory}")


def _table(chosen: NextRuns) -> Table:
    title = f"next runs for the {chosen.ask.goal}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("runs", "seed", "FLOPs", "so far", "time*"):
        table.add_column(name, justify="left" if name == "runs" else "right", no_wrap=name != "runs")
    spent = 0.0
    for offer, entries in chosen.groups:
        cost = sum(entry.estimate.flops for entry in entries)
        spent += cost
        seconds = duration(sum(entry.estimate.seconds for entry in entries))
        table.add_row(offer.name, str(entries[0].config.seed), f"{cost:.2e}", f"{spent:.2e}", seconds)
    return table
