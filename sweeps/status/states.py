"""The state of one run from its files, from the queue, and from when it last wrote."""

from __future__ import annotations

import functools
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nmm import record
from nmm.record import RecordError, attempts, ended, is_alive, owner, read_record
from sweeps.rows import first_row, last_rows
from sweeps.slurm.queue import Task
from sweeps.slurm.submissions import Submission
from sweeps.status.alive import Clock, file_clock, patience, silent_seconds
from sweeps.status.failures import Failure, noted_failure, said_failure, slurm_failure
from sweeps.status.planned import Planned

STATES = (
    "done", "running", "stale", "queued", "pending", "interrupted", "failed", "blocked", "diverged", "unreadable",
)  # fmt: skip


@dataclass(frozen=True)
class RunState:
    """One run. ``cause`` and ``error`` belong to the newest attempt; ``steps_made`` counts all attempts together.

    step: the newest on disk. loss: nats per token, held out when done, else of the newest training row.
    """

    run: Planned
    state: str
    cause: str = ""
    error: str = ""
    log: str = ""
    attempts: int = 0
    step: int = 0
    steps_made: int = 0
    tokens_per_second: float | None = None
    loss: float | None = None
    silent_seconds: float | None = None
    where: str = ""
    alarms: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """Of a running run at its present speed; None before it has one."""
        if self.state != "running" or not self.tokens_per_second:
            return None
        return (self.run.total_steps - self.step) * self.run.tokens_per_step / self.tokens_per_second


@dataclass(frozen=True)
class Surroundings:
    """What one pass knows besides the run directories. ``queue`` None: SLURM did not answer."""

    directory: Path
    queue: Mapping[str, Task] | None = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    host: str = field(default_factory=socket.gethostname)

    @functools.cached_property
    def clock(self) -> Clock:
        """Asked of the file system at the first use: a sweep without running runs needs none."""
        return file_clock(self.directory)


def run_status(run: Path) -> str:
    """``nmm.record.status``, with "unreadable" for a run directory whose files are damaged or foreign."""
    try:
        done = finished(run)
        return str(done["status"]) if done is not None else record.status(run)
    except RecordError:
        return "unreadable"


def finished(run: Path) -> dict[str, Any] | None:
    """The published record, or None. Raises ``RecordError`` for one that is half-written, foreign or of another run."""
    found = read_record(run)
    if found is None:
        return None
    if not isinstance(found, dict) or found.get("status") not in ("done", "diverged"):
        raise RecordError(f"{run / 'record.json'} is not a finished run's record; move it away and run again")
    if found.get("run_id", run.name) != run.name:
        raise RecordError(f"{run / 'record.json'} is of another run, {found['run_id']}; move it away and run again")
    return found


def look(run: Planned, around: Surroundings) -> RunState:
    """The state of one run; damaged files make it "unreadable", never an exception."""
    path = around.directory / run.run_id
    try:
        done = finished(path)
        return _finished(run, path, done) if done is not None else _unfinished(run, path, around)
    except (RecordError, OSError) as error:
        return RunState(run, "unreadable", error=str(error), log=str(path), alarms=_alarms(path))


def _alarms(path: Path) -> tuple[str, ...]:
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(e.path for e in entries if e.name.startswith("alarm-") and e.name.endswith(".json")))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _finished(run: Planned, path: Path, done: dict[str, Any]) -> RunState:
    made, result = attempts(path), done.get("result") or {}
    diverged = done["status"] == "diverged"
    step = int((result.get("step") if diverged else None) or done.get("steps", run.total_steps))
    own = step - run.parent_step
    held_out = (result.get("loss") or {}).get("avg")
    return RunState(
        run,
        str(done["status"]),
        cause="nan" if diverged else "",
        error=str(result.get("error", "")) if diverged else "",
        log=str(made[-1] / "log.txt") if made else str(path),
        attempts=len(made),
        step=step,
        steps_made=own if len(made) < 2 else max(own, sum(_steps(a, run) for a in made)),
        tokens_per_second=done.get("tokens_per_second"),
        loss=held_out,
        alarms=_alarms(path),
    )


def _steps(attempt: Path, run: Planned) -> int:
    """Steps an attempt made, to within the ``log_every`` that lie before its first row."""
    first, last = first_row(attempt / "metrics.jsonl"), last_rows(attempt / "metrics.jsonl")
    if first is None or not last:
        return 0
    return int(last[-1]["step"]) - max(run.parent_step, first["step"] - run.log_every)


def _unfinished(run: Planned, path: Path, around: Surroundings) -> RunState:
    made, task = attempts(path), (around.queue or {}).get(run.run_id)
    rows: list[dict[str, Any]] = []
    for attempt in reversed(made):
        rows = last_rows(attempt / "metrics.jsonl")
        if rows:
            break
    found = RunState(
        run,
        "pending",
        attempts=len(made),
        step=max(run.parent_step, int(rows[-1]["step"])) if rows else run.parent_step,
        steps_made=sum(_steps(a, run) for a in made),
        loss=_newest(rows, "train_loss"),
        alarms=_alarms(path),
    )
    living, silent = _living(run, made, rows, task, around)
    if living is not None:
        return replace(
            found,
            state="stale" if silent > patience(rows, run) else "running",
            log=str(living / "log.txt"),
            tokens_per_second=_newest(rows, "tokens_per_second"),
            silent_seconds=silent,
            where=_where(living, task),
        )
    state, failure = _standing(run, path, made, around)
    found = replace(found, state=state, cause=failure.cause, error=failure.error, log=failure.log)
    if task is not None:
        return replace(found, state="queued", where=f"task {task.task}, {task.state.lower()}")
    return found


def _newest(rows: list[dict[str, Any]], name: str) -> float | None:
    """The newest row that has this value: an evaluation's has no speed, for one."""
    return next((float(row[name]) for row in reversed(rows) if isinstance(row.get(name), int | float)), None)


def _living(
    run: Planned, made: list[Path], rows: list[dict[str, Any]], task: Task | None, around: Surroundings
) -> tuple[Path | None, float]:
    """The attempt that is at work, and for how many seconds it has written nothing; (None, 0) when none is.

    A lock that is held decides. One that is not decides only for attempts of this machine: elsewhere it may not reach
    us, and the queue or growing files speak for the attempt.
    """
    for attempt in reversed(made):
        if is_alive(attempt):
            return attempt, silent_seconds(attempt, around.clock)
    if not made or ended(made[-1]) is not None:
        return None, 0.0
    who = owner(made[-1])
    if who is None or who["host"] == around.host:
        return None, 0.0
    of_slurm = bool(who.get("slurm")) and around.queue is not None
    if of_slurm and (task is None or task.task != who["slurm"]["task"] or not task.started):
        return None, 0.0  # its task has left the queue or waits in it again
    if slurm_failure(around.directory, run.run_id, made[-1], around.submissions) is not None:
        return None, 0.0
    return made[-1], silent_seconds(made[-1], around.clock)


def _where(attempt: Path, task: Task | None) -> str:
    who = owner(attempt)
    if who is None:
        return f"attempt {attempt.name}"
    of = f"task {who['slurm']['task']} on " if who.get("slurm") else f"process {who['pid']} on "
    return of + (task.node if task is not None and task.node else str(who["host"]))


def _standing(run: Planned, path: Path, made: list[Path], around: Surroundings) -> tuple[str, Failure]:
    """The state of a run nobody works on, and why the newest attempt ended."""
    newest = made[-1] if made else None
    noted = noted_failure(around.directory, run.run_id, newest.name if newest is not None else "")
    if newest is None:
        return ("failed", noted) if noted is not None else ("pending", Failure("", ""))
    said = said_failure(newest)
    if said is not None:
        end = ended(newest) or {}
        if end.get("status") == "failed":
            return "failed", Failure(said.cause, (noted or said).error, (noted or said).log)
        return ("failed", noted) if noted is not None else ("interrupted", said)
    verdict = slurm_failure(around.directory, run.run_id, newest, around.submissions)
    if noted is not None and not (noted.cause == "exit" and verdict is not None and verdict.cause == "oom"):
        return "failed", noted  # the log may hold words about an older attempt, the note is about this one
    if verdict is not None:
        return ("failed" if verdict.cause else "interrupted"), verdict
    without_a_word = Failure("exit", "ended without a word: killed, crashed or its machine was lost", str(newest))
    return "failed", without_a_word


def as_row(state: RunState) -> dict[str, Any]:
    """One run for JSON: plain values only."""
    run = state.run
    return {
        "run_id": run.run_id, "state": state.state, "cause": state.cause, "error": state.error, "log": state.log,
        "arm": run.arm, "arch": run.arch, "size": run.size, "seed": run.seed, "role": run.role, "parent": run.parent_id,
        "attempts": state.attempts, "step": state.step, "total_steps": run.total_steps,
        "parent_step": run.parent_step, "tokens_per_step": run.tokens_per_step, "steps_made": state.steps_made,
        "tokens_per_second": state.tokens_per_second, "seconds_left": state.seconds_left, "loss": _finite(state.loss),
        "silent_seconds": state.silent_seconds, "where": state.where, "alarms": list(state.alarms),
        "flops_per_step": run.flops_per_step,
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
