"""`nmm sweep cancel DIR`: stop everything that works on a sweep, so that it saves and does not come back."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from sweeps import manifest
from sweeps.lock import lock_holder
from sweeps.manifest import SweepError
from sweeps.slurm.queue import Task, ask, live_tasks
from sweeps.slurm.submissions import Submission, mark_cancelled, read_submissions

PASSES = 5  # a waiting task may start between being seen and being cancelled
PAUSE_SECONDS = 1.0
A_COMMAND = 500  # tasks named in one call of scancel
ENDING = ("COMPLETING",)

DESCRIPTION = """\
Stop a sweep: waiting tasks of its SLURM arrays leave the queue, running ones are asked to stop, and so is a launcher
on this machine. Runs save at their next step. `nmm sweep launch DIR` goes on from there.

Running tasks get USR1 in their batch shell and as long to save as SLURM had left them; --now cancels them outright,
which leaves them SLURM's KillWait (30 s by default)."""
EXAMPLE = "example:\n  nmm sweep cancel outputs/demo/runs"


def cancel_main(argv: Sequence[str]) -> int:
    """``nmm sweep cancel``. Returns 0; raises ``ManifestError`` for another kind of directory, ``SweepError``."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep cancel",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", type=Path, help="the sweep's directory, e.g. outputs/demo/runs")
    parser.add_argument("--now", action="store_true", help="cancel running tasks outright")
    arguments = parser.parse_args(argv)
    directory = arguments.dir.absolute()
    if not (directory / manifest.FILE_NAME).exists():
        raise manifest.ManifestError(f"{directory} holds no {manifest.FILE_NAME}: it is not the directory of a sweep")
    for line in (stop_launcher(directory), cancel_tasks(directory, arguments.now)):
        print(line)
    return 0


def stop_launcher(directory: Path) -> str:
    """Ask the launcher that holds this directory to stop, if it runs on this machine; returns what was done."""
    holder = lock_holder(directory)
    if holder is None:
        return "no launcher is at work on this directory"
    if not holder.here or not holder.pid:
        where = f"on {holder.host} (process {holder.pid})" if holder.host else "somewhere (it did not say where)"
        return f"a launcher is at work {where}: stop it there"
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        return "the launcher that was at work has just ended"
    return f"asked the launcher here to stop (TERM to process {holder.pid}); its runs save at their next step"


def cancel_tasks(directory: Path, now: bool) -> str:
    """Take every live task of this directory's submissions out of the queue; returns what was done.

    Raises ``SweepError`` when SLURM does not answer; marked submissions then still begin nothing new.
    """
    submissions = read_submissions(directory)
    if not submissions:
        return "nothing was submitted to SLURM from this directory"
    names = [submission.name for submission in submissions]
    _mark(directory, submissions, {task.name for task in live_tasks(names)})
    waiting: set[str] = set()
    asked: set[str] = set()
    refused = ""
    for _ in range(PASSES):
        tasks = [t for t in live_tasks(names) if t.state not in ENDING and t.task not in asked]
        _mark(directory, submissions, {task.name for task in tasks})
        if not tasks:
            refused = ""
            break
        pending, running = [t for t in tasks if not t.started], [t for t in tasks if t.started]
        refused = _scancel(pending, ["--state=PENDING"])
        refused += _scancel(running, [] if now else ["--batch", "--signal=USR1"])
        waiting |= {task.task for task in pending}
        asked |= {task.task for task in running}
        time.sleep(PAUSE_SECONDS)
    if refused:
        raise SweepError(f"{refused}; what still waits will begin nothing, `squeue` shows it")
    waiting -= asked
    if not waiting and not asked:
        return "no task of this directory is in the queue"
    told = "cancelled" if now else "asked to save and stop"
    return f"{len(waiting)} waiting tasks left the queue, {len(asked)} running ones were {told}"


def _mark(directory: Path, submissions: Sequence[Submission], names: set[str]) -> None:
    for submission in submissions:
        if submission.name in names:
            mark_cancelled(directory, submission)


def _scancel(tasks: Sequence[Task], how: Sequence[str]) -> str:
    """By task, never by array: the last task shares its plain number with the whole array.

    Returns what went wrong: a task that has started or ended meanwhile is an error to scancel, and the next look at the
    queue shows what is left.
    """
    names, refused = [task.task for task in tasks], ""
    for start in range(0, len(names), A_COMMAND):
        try:
            ask(["scancel", *how, *names[start : start + A_COMMAND]])
        except SweepError as error:
            refused = str(error)
    return refused
