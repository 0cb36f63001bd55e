"""The launcher's side of a worker process: start it on its own cores, send it runs, hear its events, end it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sweeps
from nmm.config import ConfigError, to_dict
from sweeps.manifest import Entry
from sweeps.oom import oom_kills

Inbox = queue.Queue[tuple["Worker", dict[str, Any]]]


@dataclass(eq=False)
class Worker:
    """One process in one slot. Every event it sends lands in the launcher's inbox; "exit" is always its last."""

    slot: int
    process: subprocess.Popen[str]
    log: Path
    ready: bool = False
    current: Entry | None = None
    error: str = ""  # what it said before it ended by itself
    oom_kills_before: int = 0
    _closing: bool = field(default=False, repr=False)

    @property
    def idle(self) -> bool:
        """Able to take a run now."""
        return self.ready and self.current is None and not self._closing

    def send(self, entry: Entry, directory: Path) -> None:
        """Hand over one run. A worker that died a moment ago is noticed by its exit event, not here."""
        job = {"run_id": entry.run_id, "config": to_dict(entry.config), "directory": str(directory)}
        self.current = entry
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Let an idle worker end by itself."""
        self._closing = True
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def terminate(self) -> None:
        """Ask it to stop at the next safe point."""
        self._closing = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started, now."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def describe_end(self) -> str:
        """Why the process is gone, for a person."""
        code = self.process.returncode
        if self.error:
            return self.error
        if code is not None and code < 0:
            hint = "; out of memory?" if -code == signal.SIGKILL else ""
            return f"the worker process was ended by {signal.Signals(-code).name}{hint} (log: {self.log})"
        return f"the worker process exited with status {code} (log: {self.log})"

    def cause_of_end(self) -> str:
        """Its cause (``nmm.record.CAUSES``): exit, or oom when the kernel has killed for memory meanwhile."""
        killed = self.process.returncode == -signal.SIGKILL
        return "oom" if killed and oom_kills() > self.oom_kills_before else "exit"


def start_worker(slot: int, cores: Sequence[int], threads: int, runner: str, log: Path, inbox: Inbox) -> Worker:
    """Start one worker on ``cores`` (empty: not pinned), its prints appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sweeps.worker", "--runner", runner, "--cores", ",".join(map(str, cores))]
    with open(log, "a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(threads),
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only, which then asks politely
        )
    worker = Worker(slot, process, log, oom_kills_before=oom_kills())
    threading.Thread(target=_listen, args=(worker, inbox), daemon=True).start()
    return worker


def _environment(threads: int) -> dict[str, str]:
    """The launcher's environment, its own copy of this code first on the path, and one thread count everywhere."""
    here = str(Path(sweeps.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return os.environ | counts | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _listen(worker: Worker, inbox: Inbox) -> None:
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        try:
            inbox.put((worker, json.loads(line)))
        except json.JSONDecodeError:
            break  # torn by the worker's death; the exit event below says so
    worker.process.wait()
    inbox.put((worker, {"event": "exit"}))


def split_cores(workers: int | None, threads: int, available: Sequence[int]) -> list[list[int]]:
    """Own cores for every worker; ``workers`` None takes as many as fit.

    Raises ``ConfigError`` when they do not fit.
    """
    fit = len(available) // threads
    count = max(1, fit) if workers is None else workers
    if count < 1:
        raise ConfigError(f"workers={count} must be at least 1")
    if workers is not None and count > max(1, fit):
        raise ConfigError(
            f"workers={count} of {threads} threads each need {count * threads} cores, but this process may use "
            f"{len(available)}; give workers={max(1, fit)}, or pin=off to share cores"
        )
    return [list(available[i * threads : (i + 1) * threads]) for i in range(count)]


def usable_cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0))
