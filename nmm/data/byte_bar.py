"""A progress bar over files of any size, counted in bytes; short work never shows it."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOWN_AFTER = 3.0  # seconds


class ByteBar:
    """Files and bytes done, bytes a second and time left on stderr. A context manager; ``show`` False: never."""

    def __init__(self, label: str, files: int, size: int, show: bool) -> None:
        self.label, self.files, self.size, self.show = label, files, size, show
        self.done_files = self.done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._start = time.monotonic()

    def __enter__(self) -> ByteBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, size: int) -> None:
        """One file of ``size`` bytes is done."""
        self.done_files, self.done = self.done_files + 1, self.done + size
        seconds = time.monotonic() - self._start
        if self._bar is None and self.show and seconds > SHOWN_AFTER and self.done_files < self.files:
            self._bar = _progress()
            self._task = self._bar.add_task(self.label, total=self.size, files="", rate="")
            self._bar.start()
        if self._bar is not None and self._task is not None:
            count, rate = f"{self.done_files:,}/{self.files:,} shards", f"{self.done / seconds / 1e6:,.0f} MB/s"
            self._bar.update(self._task, completed=self.done, files=count, rate=rate)


def _progress() -> Progress:
    """Rich is imported here because short work never shows a bar and would pay for the import all the same."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    text, files, rate = (TextColumn(f"{{task.{what}}}") for what in ("description", "fields[files]", "fields[rate]"))
    console = Console(stderr=True)
    return Progress(text, BarColumn(), files, DownloadColumn(), rate, TimeRemainingColumn(), console=console)
