"""A progress bar that short work never shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class LateBar:
    """A progress bar with rate and time left on stderr, shown once the work has taken longer than three seconds.

    ``every``: how many are done between two looks of the bar; 1 where each takes long.
    """

    def __init__(self, label: str, total: int, clock: Callable[[], float] = time.monotonic, every: int = 50) -> None:
        self.label, self.total, self.done, self.every, self._clock = label, total, 0, every, clock
        self._shown: Progress | None = None
        self._start = clock()

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        seconds = self._clock() - self._start
        if self._shown is None and seconds > 3:
            self._shown = _progress()
            self._shown.add_task(self.label, total=self.total, rate="")
            self._shown.start()
        if self._shown is not None and self.done % self.every == 0:
            rate = self.done / seconds
            text = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            self._shown.update(self._shown.task_ids[0], completed=self.done, rate=text)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=self.done)
            self._shown.stop()

    def conclude(self, line: str) -> None:
        """Say what was done, if it took long enough for anybody to wonder."""
        if self._shown is not None:
            self._shown.console.print(f"{line} in {self._clock() - self._start:.0f} s", soft_wrap=True)


def _progress() -> Progress:
    """Rich is imported here because most processes never show a bar and would pay for the import all the same."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate, text = TextColumn("{task.fields[rate]}/s"), TextColumn("{task.description}")
    return Progress(text, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=Console(stderr=True))
