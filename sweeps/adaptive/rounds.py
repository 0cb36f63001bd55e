"""plan -> run -> fit -> plan without a person, on this machine and only when asked: `nmm sweep next --rounds R`.

Budget and rounds are totals for one goal: the notes in DIR/next say what earlier calls spent, so that the same command
goes on where it was stopped, and a larger number goes further.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from sweeps import manifest
from sweeps.adaptive import engine
from sweeps.adaptive.engine import Fits
from sweeps.adaptive.finished import Finished, finished
from sweeps.adaptive.goal import Ask
from sweeps.adaptive.notes import notes
from sweeps.adaptive.planning import NextRuns, NothingHelpsError, choose, fits_for, ready, workplace, write
from sweeps.adaptive.show import say, show_next
from sweeps.manifest import Entry

_NONE = 1e-9  # of the budget


@dataclass(frozen=True)
class Rounds:
    """How far to go. count: rounds of this goal in all; until: width of its interval at which to stop, None for never;
    launch: key=value arguments of `nmm sweep launch`."""

    count: int
    until: float | None = None
    launch: tuple[str, ...] = ()


def run_rounds(directory: Path, ask: Ask, rounds: Rounds, console: Console) -> int:
    """Run what is open, then plan and run until the rounds are over, the interval is narrow enough, the budget is spent
    or nothing helps. Returns 0 when what was asked is reached, the launch's own status when it failed, else 1."""
    while True:
        status = _run_open(directory, rounds.launch, console)
        if status:
            return status
        entries, found = ready(directory)
        with workplace(directory) as folder:
            say(console, f"fitting {found.points} points ...")
            fits = fits_for(directory, ask, found, Path(folder))
            made = [n for n in notes(directory, {e.run_id for e in entries}) if _is_round(n, ask)]
            spent = sum(note["cost"] for note in made)
            now = engine.interval_now(fits, ask.goal, Path(folder) / "now.json", ask.design_options)
            say(
                console,
                f"{ask.goal}: {now}, {len(made)} of {rounds.count} rounds, {spent:.3g} of {ask.budget:.3g} FLOPs",
            )
            over = _why_over(now, len(made), rounds)
            if over is not None:
                say(console, over[1])
                return over[0]
            try:
                chosen = _choose(directory, ask, spent, rounds.count - len(made), entries, found, fits, Path(folder))
            except NothingHelpsError as error:
                say(console, f"stopped: {error}")
                return 1
            show_next(write(directory, chosen, fits, len(made) + 1), directory, console, final=False)


def _is_round(note: dict[str, object], ask: Ask) -> bool:
    return note["goal"] == str(ask.goal) and note["round"] is not None


def _why_over(now: engine.Interval, made: int, rounds: Rounds) -> tuple[int, str] | None:
    """Exit status and words when there is nothing more to do."""
    if rounds.until is not None and now.width <= rounds.until:
        return 0, f"reached: the interval is {now.width:.4g} wide, at most {rounds.until:g} was asked for"
    if made < rounds.count:
        return None
    more = f"all {rounds.count} rounds are over; a larger --rounds (and --budget) goes on"
    if rounds.until is None:
        return 0, more
    return 1, f"not reached: the interval is {now.width:.4g} wide, {rounds.until:g} was asked for; {more}"


def _choose(
    directory: Path, ask: Ask, spent: float, rounds_left: int, entries: Sequence[Entry], found: Finished, fits: Fits,
    folder: Path,
) -> NextRuns:  # fmt: skip
    """The runs of one round, for its even share of what is left, since later rounds know more; for all of it where the
    share buys nothing that helps."""
    left = ask.budget - spent
    if left <= ask.budget * _NONE:
        raise NothingHelpsError(f"the budget of {ask.budget:.3g} FLOPs is spent")
    for share in (left / rounds_left, left):
        try:
            return choose(directory, dataclasses.replace(ask, budget=share), entries, found, fits, folder)
        except NothingHelpsError:
            if share == left:
                raise
    raise AssertionError("the last share is all that is left")


def _run_open(directory: Path, options: Sequence[str], console: Console) -> int:
    """Launch whatever has no end yet. Returns 0 once nothing is open, else a status that is not 0."""
    left = finished(directory, manifest.read(directory)).open
    if not left:
        return 0
    say(console, f"running {len(left)} planned runs ...")
    status = _launch(directory, options)
    left = finished(directory, manifest.read(directory)).open
    if not left and status < 128:
        return 0  # what diverged has ended, and is no reason to stop
    if not left:
        say(console, "stopped by a signal, with all planned runs ended; the same command goes on from here")
        return status
    say(
        console,
        f"stopped: the launch ended with status {status} and {len(left)} runs open (first: {left[0]}). See `nmm sweep "
        f"status {directory}`; the same command goes on from here",
    )
    return status or 1


def _launch(directory: Path, options: Sequence[str]) -> int:
    """`nmm sweep launch` in a process of its own; a signal to stop goes on to it, and it is waited for."""
    process = subprocess.Popen([sys.executable, "-m", "nmm.cli", "sweep", "launch", str(directory), *options])

    def forward(number: int, frame: FrameType | None) -> None:
        if process.poll() is None and number != signal.SIGINT:  # Ctrl-C reaches the whole group by itself
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
