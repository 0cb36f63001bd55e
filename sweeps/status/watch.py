"""``nmm sweep status --watch``: the report again and again until nothing runs any more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.lock import lock_holder
from sweeps.status.report import Reader, Report
from sweeps.status.text import closing, headline, lines, show

REDRAW_SECONDS = 3.0
LINE_SECONDS = 15.0  # between two lines in a log
QUIET_PASSES = 2  # a launch between two runs looks like one that has ended


def watch(
    reader: Reader,
    console: Console,
    keep: Callable[[Report], None],
    sleep: Callable[[float], None] = time.sleep,
    seconds: float = REDRAW_SECONDS,
) -> Report:
    """Show the sweep until nothing runs any more or Ctrl-C; returns the last report.

    ``keep`` gets every report (it writes the page). A terminal is redrawn, a log gets a line every 15 s.
    """
    live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    quiet, next_line = 0, time.monotonic()
    report = reader.read()
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        while True:
            keep(report)
            quiet = 0 if report.moving or lock_holder(reader.directory) else quiet + 1
            if quiet >= QUIET_PASSES or report.all_done:
                break
            if live is not None:
                live.update(Text("\n".join(_fitting(report, console))), refresh=True)
            elif time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_SECONDS
                line = f"{report.written}  {headline(report)}; {closing(report)}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            sleep(seconds)
            report = reader.read()
    show(report, console)
    return report


def _fitting(report: Report, console: Console) -> list[str]:
    """As many lines as the window has, the closing line always among them."""
    found = [f"{report.written}   (Ctrl-C ends the watching, not the runs)", *lines(report)]
    room = max(3, console.height - 1)
    return found if len(found) <= room else [*found[: room - 2], f"... {len(found) - room + 1} more lines", found[-1]]
