"""The progress bar of `nmm rft` at a terminal: steps, reward, rate and time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOW_AFTER_SECONDS = 3.0


class StepBar:
    """Shown on stderr once the run has taken longer than three seconds; a log file never sees it."""

    def __init__(self, total: int, wanted: bool = True, console: Console | None = None) -> None:
        self.total, self.console = total, console or Console(stderr=True)
        self.wanted = wanted and self.console.is_terminal
        self.began_at, self.first = time.monotonic(), -1
        self._bar: Progress | None = None

    def __enter__(self) -> StepBar:
        return self

    def show(self, step: int, reward: float) -> None:
        """``step`` steps are done, the last one with this mean reward."""
        seconds = time.monotonic() - self.began_at
        if self.first < 0:
            self.first = step - 1
        if not self.wanted or seconds < SHOW_AFTER_SECONDS:
            return
        bar = self._bar or self._start()
        rate = f"{(step - self.first) / seconds:.2f}"
        bar.update(bar.task_ids[0], completed=step, reward=f"{reward:.2f}", rate=rate)

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> Progress:
        texts = ("rft", "reward {task.fields[reward]}", "{task.fields[rate]} steps/s")
        name, *rest = (TextColumn(text) for text in texts)
        columns = (name, BarColumn(), MofNCompleteColumn(), *rest, TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._bar.add_task("rft", total=self.total, completed=self.first, reward="", rate="")
        self._bar.start()
        return self._bar
