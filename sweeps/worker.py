"""One persistent worker process: imports the runner once, then executes one run after another.

Speaks JSON lines: jobs {"run_id", "config", "directory"} arrive on stdin; events leave on stdout: ready, broken, done,
failed, interrupted. Whatever a run prints goes to stderr, which the launcher points at a log file. When stdin closes
while a run is on, the launcher is gone: the worker asks itself to stop, and dies if that takes too long.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from nmm.config import RunConfig, from_dict
from sweeps import ranks

DEFAULT_RUNNER = "nmm.training.run:execute"
ORPHAN_GRACE_SECONDS = 10.0

Runner = Callable[[RunConfig, Path], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve jobs until stdin closes. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.worker", description=__doc__)
    parser.add_argument("--runner", default=DEFAULT_RUNNER, help="module:function that executes one run")
    parser.add_argument(
        "--cores", default="", help="comma-separated cores to stay on; empty: wherever the system likes"
    )
    arguments = parser.parse_args(argv)
    jobs_in, events_out = _take_over_stdio()
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    _stop_when_asked()
    try:
        runner = load_runner(arguments.runner)
    except Exception as error:  # the boundary to foreign code: whatever it raises at import is reported, then fatal
        _log_traceback(error)
        _send(events_out, {"event": "broken", "error": summarize(error)})
        return 1
    _send(events_out, {"event": "ready"})
    return _serve(runner, jobs_in, events_out)


def _take_over_stdio() -> tuple[IO[str], IO[str]]:
    """Keep the two pipes for the protocol; a run sees an empty stdin, and its prints go to stderr."""
    jobs_in = os.fdopen(os.dup(0), "r", encoding="utf-8")
    events_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return jobs_in, events_out


def load_runner(dotted: str) -> Runner:
    """``"package.module:function"`` -> the function. Raises what the import raises, or ``ValueError``."""
    module, colon, name = dotted.partition(":")
    if not colon or not name:
        raise ValueError(f"runner={dotted!r} must look like package.module:function")
    found: Runner = getattr(importlib.import_module(module), name)
    return found


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # srun sends them to every process of a step


def _stop_when_asked() -> None:
    def stop(signum: int, frame: FrameType | None) -> None:
        for name in STOP_SIGNALS:  # the launcher, told as well, asks once more: the run is saying how it ended by then
            signal.signal(name, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    for name in STOP_SIGNALS:
        signal.signal(name, stop)


class _Inbox:
    """Jobs from the launcher, and how many of them are not answered yet."""

    def __init__(self, jobs_in: IO[str]) -> None:
        self.jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.unanswered = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, args=(jobs_in,), daemon=True).start()

    def add(self, change: int) -> int:
        """Change the number of unanswered jobs and return it."""
        with self._lock:
            self.unanswered += change
            return self.unanswered

    def _listen(self, jobs_in: IO[str]) -> None:
        for line in jobs_in:
            self.add(1)
            self.jobs.put(json.loads(line))
        self.jobs.put(None)
        if self.add(0):  # the launcher closes stdin only of an idle worker, so it is dead
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(ORPHAN_GRACE_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)


def _serve(runner: Runner, jobs_in: IO[str], events_out: IO[str]) -> int:
    inbox, served = _Inbox(jobs_in), 0
    while (job := inbox.jobs.get()) is not None:
        event = run_job(runner, job)
        inbox.add(-1)
        _send(events_out, event)
        if event["event"] == "interrupted":
            return 128 + signal.SIGTERM
        gc.collect()  # a trainer and its model hold each other: free them before the next run needs the room
        served += 1
        if served == 1:
            gc.freeze()  # what the imports and the first run left for good need not be searched after every run
    return 0


def run_job(runner: Runner, job: dict[str, Any]) -> dict[str, Any]:
    """Execute one job and turn whatever happens into one event."""
    run, began = job["run_id"], time.monotonic()
    _stop_when_asked()  # a runner may have left its own handler
    _log(f"--- {run}: begins")
    try:
        config = from_dict(job["config"])
        chosen = ranks.execute if config.trainer.world_size > 1 else runner
        record = chosen(config, Path(job["directory"]))
    except (SystemExit, KeyboardInterrupt):
        return {"event": "interrupted", "run_id": run}
    except Exception as error:  # one run's crash must not end the worker: report it, go on
        _log_traceback(error)
        return {"event": "failed", "run_id": run, "error": summarize(error)}
    seconds = time.monotonic() - began
    _log(f"--- {run}: {record.get('status')} after {seconds:.2f} s")
    return {"event": "done", "run_id": run, "status": record.get("status"), "seconds": seconds}


def summarize(error: BaseException) -> str:
    """One line: the exception, its first line, and where it was raised."""
    message = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}" if message else f"{type(error).__name__}{where}"


def _log_traceback(error: BaseException) -> None:
    _log("".join(traceback.format_exception(error)))


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may lie on a disk that is full; the run's error is the news, not this
        print(text, file=sys.stderr, flush=True)


def _send(events_out: IO[str], event: dict[str, Any]) -> None:
    try:
        events_out.write(json.dumps(event) + "\n")
        events_out.flush()
    except BrokenPipeError:
        # the launcher is gone: nobody to tell, and the record on disk is what counts
        os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
