"""Signals in a data worker: what is meant for the whole run is answered by the training process alone."""

from __future__ import annotations

import os
import signal
import threading


def leave_signals_to_parent(worker: int = 0) -> None:
    """Ignore the stop signals, which a scheduler or terminal sends to every process of a run, in this data worker.

    Without it a preempted run would lose its workers, and fail, before it reached the end of its step. SIGTERM from the
    training process itself still ends the worker at once.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
