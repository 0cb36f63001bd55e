"""Attempts in processes of their own, forked in milliseconds from a server that has imported all of training.

The server has computed nothing, so a child is as fresh as a new interpreter, 7 seconds sooner.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, run_directory

from nmm.config import RunConfig, from_dict, to_dict
from nmm.record import read_record

LIMIT_SECONDS = 120.0
NOT_DONE = 3
Fault = Callable[[], None]


@dataclass(frozen=True)
class Child:
    """A process that makes one attempt (or anything else); its prints are in ``log``."""

    process: BaseProcess
    log: Path

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Its exit status, negative the signal that ended it; fails the test when it takes longer than ``seconds``."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            pytest.fail(f"waited {seconds:.0f} s for a process to end; it printed:\n{self.log.read_text()[-3000:]}")
        return self.process.exitcode

    def until(self, condition: Callable[[], Any], what: str, seconds: float = LIMIT_SECONDS) -> Any:
        """Wait until ``condition()`` is true while the process lives."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.is_alive(), f"it ended before {what}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.002)
        return value


class Processes:
    """Starts children and ends what a failed test leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Child] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["drill_imports"])
        _start_server()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """Run ``function`` in a new process; an exception ends it with status 1 and a traceback in the log."""
        log = self.folder / f"{len(self.started):03d}.log"
        log.touch()
        process = self.context.Process(target=_child, args=(str(log), function, arguments))
        process.start()
        self.started.append(Child(process, log))
        return self.started[-1]

    def start(self, config: RunConfig, fault: Fault | None = None) -> Child:
        """One attempt of ``config`` in its run directory, after ``fault()`` has prepared what will go wrong."""
        return self.call(attempt, to_dict(config), str(run_directory(config)), fault)

    def run(self, config: RunConfig, fault: Fault | None = None) -> int:
        """The same, waited for: its exit status."""
        return self.start(config, fault).wait()

    def finish(self, config: RunConfig) -> dict[str, Any]:
        """Run to the end; the record."""
        child = self.start(config)
        status = child.wait()
        assert status == 0, f"exit status {status}:\n{child.log.read_text()[-3000:]}"
        record = read_record(run_directory(config))
        assert record is not None, "a run that ended with 0 left no record"
        return record

    def end_all(self) -> None:
        """Kill whatever still runs."""
        for child in self.started:
            if child.process.is_alive():
                child.process.kill()
            child.process.join()


def _start_server() -> None:
    """The server does not get our sys.path, only the environment."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _child(log: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = open(handle, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - for life
    multiprocessing.set_start_method("fork", force=True)  # of data workers, which then inherit what is to go wrong
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def attempt(values: dict[str, Any], directory: str, fault: Fault | None) -> None:
    """One attempt in this process; as of the command line, status 0 only if the run is done."""
    from nmm.training.run import execute

    if fault is not None:
        fault()
    record = execute(from_dict(values), Path(directory))
    if record["status"] != "done":
        raise SystemExit(NOT_DONE)
