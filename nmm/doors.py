"""A list of runs (`nmm train -m`), whichever launcher of Hydra carries it: how one of them ends, and how the list does.

Nothing here knows Hydra or torch; the launchers themselves meet it in hydra_plugins/nmm_sweeper.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypedDict

from nmm.config import ConfigError
from nmm.record import RecordError, read_record, status

EXTRA = "slurm"
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}
PLUGINS["submitit_slurm"] = PLUGINS["submitit_local"]
MISTAKES = (ConfigError, RecordError, ValueError, FileNotFoundError)  # said in one line, without a traceback
ASK_SECONDS = 30.0

_stops: list[str] = []  # what stopped this process; it begins nothing more


class Outcome(TypedDict):
    """How one run of a list ended: a state of ``nmm.record.status``, and what the record does not say."""

    run_id: str
    status: str
    says: str


def check_launcher(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a launcher that is not installed, or that no list of runs would use."""
    chosen = [a.lstrip("+").partition("=")[2] for a in arguments if a.lstrip("+").startswith("hydra/launcher=")]
    if not chosen:
        return
    plugin = PLUGINS.get(chosen[-1])
    if plugin is not None and find_spec(f"hydra_plugins.{plugin}") is None:
        raise ConfigError(f"hydra/launcher={chosen[-1]} needs the extra {EXTRA}: pip install 'nmm[{EXTRA}]'")
    if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
        raise ConfigError(f"hydra/launcher={chosen[-1]} is for lists of runs and would do nothing here; add -m")


def one_of_many(directory: Path, execute: Callable[[], object], alone: bool) -> Outcome:
    """Execute one run of a list and say how it ended, so that nothing but a signal ends the other runs.

    ``alone``: in a process of its own, so that a signal means this run (and what the process was to run after it). A
    job of submitit asks for itself again.
    """
    if _stops and alone:
        return {"run_id": directory.name, "status": status(directory), "says": f"not started: {_stops[-1]}"}
    says, code = "", 1
    try:
        with _leaving() if alone and "SUBMITIT_EXECUTOR" not in os.environ else contextlib.nullcontext():
            execute()
    except SystemExit as ended:  # diverged, which its record says; or a signal
        code = ended.code if isinstance(ended.code, int) else 1
        if code > 128:
            says = _stopped(ended, alone)
    except MISTAKES as error:
        says = str(error)
    except Exception as error:  # one run's crash must not end the list; its attempt keeps the traceback as well
        traceback.print_exc()
        says = f"{type(error).__name__}: {first_line(error)}"
    found = outcome(directory, says, "interrupted" if code > 128 else "failed")
    if found["status"] != "done" and "SUBMITIT_EXECUTOR" in os.environ:
        atexit.register(_exit, code)
    return found


def _exit(code: int) -> None:
    """What SLURM hears of a job whose run is not done: submitit itself is content with every function that returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def outcome(directory: Path, says: str = "", otherwise: str = "failed") -> Outcome:
    """What the files say of a run that is over. Where they do not know it, ``says`` is why, and it is ``otherwise``."""
    found = status(directory)
    if found in ("done", "diverged"):
        says = "" if found == "done" else says or _cause(read_record(directory) or {})
    elif says:
        found = otherwise
    return {"run_id": directory.name, "status": found, "says": says}


def first_line(error: BaseException) -> str:
    """Of a message that may be many lines, or none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Take SIGTERM as a stop until the run listens itself: a worker that it kills takes the others along."""

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cause(record: dict[str, object]) -> str:
    result = record.get("result")
    return str(result.get("error", "")) if isinstance(result, dict) else ""


def _stopped(ended: SystemExit, alone: bool) -> str:
    if not alone:
        raise ended
    assert isinstance(ended.code, int)
    signum = ended.code - 128
    _stops.append(f"stopped by {signal.Signals(signum).name}")
    try:
        requeue(signum)
    except Exception as refused:  # whatever submitit or SLURM answers: the run is saved, the list says why it stopped
        return f"{_stops[-1]}; not queued again: {first_line(refused)}"
    return _stops[-1]


def requeue(signum: int) -> None:
    """In a job of submitit that is about to be taken away, with everything saved: put the job back into the queue.

    Leaves the process (submitit does) when the job is queued again. Returns when there is nothing to ask for: no job of
    submitit, or one that was cancelled. Raises submitit's error when it may not be queued again.
    """
    executor, handler = os.environ.get("SUBMITIT_EXECUTOR", ""), signal.getsignal(signal.SIGUSR2)
    if not executor or not callable(handler):
        return
    if signum != signal.SIGUSR2 and not (executor == "slurm" and _still_runs()):
        return
    handler(signal.SIGUSR2, None)


def _still_runs() -> bool:
    """True while SLURM means this job to run: SIGTERM comes at preemption as well as at scancel."""
    env = os.environ
    task = env["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in env:  # the last task's SLURM_JOB_ID is the id of the whole array
        task = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    asked = ["squeue", "--noheader", "--jobs", task, "--format", "%T"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=ASK_SECONDS)
    return answer.stdout.strip() == "RUNNING"


def end_list(outcomes: Sequence[Outcome]) -> int:
    """Say on stderr what did not finish, if anything. Returns 0: all done; 3: the rest diverged; else 1."""
    bad = [o for o in outcomes if o["status"] != "done"]
    if not bad:
        return 0
    print(f"nmm train: {len(outcomes) - len(bad)} of {len(outcomes)} runs are done; not done:", file=sys.stderr)
    for one in bad:
        print(f"  {one['status']}: {one['run_id']}" + (f": {one['says']}" if one["says"] else ""), file=sys.stderr)
    if all(one["status"] == "diverged" for one in bad):
        return 3
    print("the same command again runs what is neither done nor diverged", file=sys.stderr)
    return 1
