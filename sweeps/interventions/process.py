"""One ``nmm`` command as a process of its own: what it prints goes to a log, its newest line is shown meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

import sweeps
from sweeps.plan import duration

PROGRAM = (sys.executable, "-P", "-m", "nmm.cli")  # -P: another checkout in the working directory is not taken for ours
REFRESH_SECONDS = 0.5
_TAIL_BYTES = 16384
_SHOWN_WIDTH = 100


@dataclass(frozen=True)
class End:
    """How a command ended. code: as ``subprocess`` has it, -n when signal n killed it. stopped_by: the signal that told
    us to stop meanwhile, 0 for none."""

    code: int
    stopped_by: int

    def __str__(self) -> str:
        if self.code >= 0:
            return f"ended with status {self.code}"
        name = signal.Signals(-self.code).name
        return f"was ended by {name}{'; out of memory?' if -self.code == signal.SIGKILL else ''}"


def run_command(arguments: Sequence[str], log: Path, label: str, console: Console) -> End:
    """Run ``nmm ARGUMENTS``, all that it prints into ``log``.

    A signal to stop goes on to it, and it is waited for: runs save before they end. Ctrl-C is not sent on where the
    terminal has told it already, since a second one would not wait for runs to save.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    signals: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        for process in processes:
            if process.poll() is None and not (number == signal.SIGINT and _in_foreground()):
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with open(log, "wb") as file:
            command = [*PROGRAM, *arguments]
            processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_environment())
            )
        code = _wait(processes[0], log, label, console)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return End(code, signals[0] if signals else 0)


def _in_foreground() -> bool:
    """Whether ours is the group of processes that Ctrl-C at our terminal reaches; a command of ours is in it too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # no terminal: under a scheduler, or a service
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _wait(process: subprocess.Popen[bytes], log: Path, label: str, console: Console) -> int:
    began = time.monotonic()
    with console.status(escape(label)) as status:
        while True:
            try:
                return process.wait(REFRESH_SECONDS)
            except subprocess.TimeoutExpired:
                newest = "".join(last_lines(log, 1))[:_SHOWN_WIDTH]
                status.update(f"{escape(label)}  {duration(time.monotonic() - began)}  {escape(newest)}")


def _environment() -> dict[str, str]:
    """Ours, with this very copy of the code first on the path."""
    here = str(Path(sweeps.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something; a bar that redraws itself counts as its newest state."""
    with open(log, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line.strip()][-count:]
