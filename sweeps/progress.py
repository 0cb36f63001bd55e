"""What a launch looks like while it runs: a live table in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nmm.record import attempts
from sweeps.estimate import own_tokens
from sweeps.manifest import Entry
from sweeps.plan import big, describe, duration
from sweeps.rows import last_rows
from sweeps.schedule import Schedule

LINE_EVERY_SECONDS = 15.0


def last_step(run: Path) -> int | None:
    """The newest step in the newest attempt's metrics.jsonl that has any; None before the first line."""
    for attempt in reversed(attempts(run)):
        rows = last_rows(attempt / "metrics.jsonl")
        if rows:
            return int(rows[-1]["step"])
    return None


@dataclass
class Running:
    """One worker's current run."""

    entry: Entry
    began: float
    first_step: int
    step: int


@dataclass
class Tracker:
    """Counts tokens and compares spent with estimated seconds, to say how fast it goes and how long it will take."""

    directory: Path
    workers: int
    began: float = field(default_factory=time.monotonic)
    running: dict[int, Running] = field(default_factory=dict)
    tokens_done: int = 0
    spent: float = 0.0
    estimated: float = 0.0

    def started(self, slot: int, entry: Entry) -> None:
        """``entry`` begins (or goes on from where an earlier attempt was)."""
        step = max(entry.config.parent.step, last_step(self.directory / entry.run_id) or 0)
        self.running[slot] = Running(entry, time.monotonic(), step, step)

    def ended(self, slot: int, finished: bool) -> None:
        """The slot's run is over; only whole runs teach how good the estimates are."""
        run = self.running.pop(slot)
        if not finished:
            return
        config = run.entry.config
        self.tokens_done += (config.total_steps - run.first_step) * config.tokens_per_step
        if run.first_step == config.parent.step:
            self.spent += time.monotonic() - run.began
            self.estimated += run.entry.estimate.seconds

    def refresh(self) -> None:
        """Read the steps of the running runs from their metrics files."""
        for run in self.running.values():
            run.step = max(run.step, last_step(self.directory / run.entry.run_id) or 0)

    def tokens_per_second(self) -> float:
        """Over this launch, all workers together."""
        moving = sum((r.step - r.first_step) * r.entry.config.tokens_per_step for r in self.running.values())
        return (self.tokens_done + moving) / max(1e-9, time.monotonic() - self.began)

    def seconds_left(self, schedule: Schedule) -> float:
        """Estimated work left, corrected by how finished runs compared with theirs, shared by the workers."""
        current = [r.entry.estimate.seconds * _left(r) for r in self.running.values()]
        waiting = [entry.estimate.seconds for entry in schedule.waiting.values()]
        scale = self.spent / self.estimated if self.estimated else 1.0
        work = [*current, *waiting]
        return scale * max(sum(work) / self.workers, *work) if work else 0.0


def _left(run: Running) -> float:
    config = run.entry.config
    done = (run.step - config.parent.step) * config.tokens_per_step
    return max(0.0, 1.0 - done / own_tokens(config))


class Display:
    """Shows a ``Tracker`` and a ``Schedule``: live in a terminal, else a line every 15 s. A context manager."""

    def __init__(self, console: Console, tracker: Tracker, schedule: Schedule) -> None:
        self.console, self.tracker, self.schedule = console, tracker, schedule
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._next_line = time.monotonic() + LINE_EVERY_SECONDS

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self) -> None:
        """Draw the present state; cheap enough to call several times a second."""
        if self._live:
            self.tracker.refresh()
            self._live.update(Group(self._workers(), Text(self.summary())))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            self.tracker.refresh()
            self.say(self.summary())

    def summary(self) -> str:
        """done / running / failed of total, rate, time left."""
        counts = self.schedule.counts()
        shown = ["done", "running", *(n for n in ("failed", "blocked", "diverged") if counts[n])]
        states = ", ".join(f"{counts[name]} {name}" for name in shown)
        if not (self.tracker.running or self.tracker.tokens_done):
            return f"{states} of {counts['total']} runs | workers are starting"
        rate, left = self.tracker.tokens_per_second(), self.tracker.seconds_left(self.schedule)
        return f"{states} of {counts['total']} runs | {big(rate)} tokens/s | about {duration(left)} left"

    def _workers(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for slot in range(self.tracker.workers):
            run = self.tracker.running.get(slot)
            if run is None:
                table.add_row(f"worker {slot}", "idle", "", "")
                continue
            total = run.entry.config.total_steps
            table.add_row(
                f"worker {slot}", describe(run.entry.config), f"step {run.step}/{total}", f"{1 - _left(run):.0%}"
            )
        return table
