"""What ends training early: a signal, which only sets a flag, or numbers that are none."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from nmm.batch import Batch

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(SystemExit):
    """A signal asked the run to stop; everything up to the last finished step is on disk.

    Uncaught, it ends the process with 128 + the signal's number, as a shell expects of a process that obeyed.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(128 + signum)
        self.signum, self.step = signum, step

    def __str__(self) -> str:
        when = f"after step {self.step}" if self.step else "before its first step"
        return f"stopped by {signal.Signals(self.signum).name} {when}; run it again to go on"


class Diverged(RuntimeError):
    """Training cannot go on: ``cause`` (see ``nmm.training.spikes``) at ``step``, whose update was not made."""

    def __init__(self, cause: str, step: int, loss: float, grad_norm: float) -> None:
        super().__init__(f"{cause}: loss {loss}, gradient norm {grad_norm} at step {step}")
        self.cause, self.step = cause, step


class StopFlag:
    """A signal only sets a flag, the first one counts; who works reads it where stopping loses nothing."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, frame: Any) -> None:
        self.signum = self.signum or signum

    def check(self, step: int) -> None:
        """Raise ``Interrupted`` if a signal has come."""
        if self.signum:
            raise Interrupted(self.signum, step)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Install for the four stop signals, put the old handlers back afterwards.

        A signal that is ignored (SIGINT of a background job) stays so; outside the main thread nothing is installed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        mine = [number for number in STOP_SIGNALS if before[number] is not signal.SIG_IGN]
        for number in mine:
            signal.signal(number, self)
        try:
            yield
        finally:
            for number in mine:
                signal.signal(number, before[number])


class Stoppable(list[Batch]):
    """Batches to be evaluated: going through them ends in ``Interrupted`` once a signal has come."""

    def __init__(self, batches: Iterable[Batch], flag: StopFlag, step: int) -> None:
        super().__init__(batches)
        self._flag, self._step = flag, step

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self._flag.check(self._step)
            yield batch
