"""Why a run stands still: what its attempt said, what its launcher noted, what SLURM wrote into the task's log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.record import CAUSES, RecordError, attempts, ended, owner, read_json, write_json
from sweeps.slurm.submissions import Submission, log_of

TAIL_BYTES = 16384
FULL_OR_READ_ONLY = ("No space left", "quota", "File too large", "Read-only file system")


@dataclass(frozen=True)
class Failure:
    """``cause``: one of ``nmm.record.CAUSES``, "" for no failure at all (preempted: it goes on). ``log`` may be ""."""

    cause: str
    error: str
    log: str = ""


def note_failure(directory: Path, run: str, error: str, log: Path, tries: int, cause: str = "") -> str:
    """Leave a note of a run's latest failure: a killed process cannot leave its own. Returns the cause it notes.

    Without ``cause`` it is what the attempt itself has written, or what the error's name says.
    """
    made = attempts(directory / run)
    end = ended(made[-1]) if made else None
    known = cause or (end["cause"] if end is not None and _speaks_of(error, end["detail"]) else "")
    known = known or cause_of_error(error)
    newest = made[-1].name if made else ""
    note = {"error": error, "log": str(log), "tries": tries, "attempt": newest, "cause": known}
    again = _noted_before(directory, run, newest)
    write_json(_note_path(directory, run), note | ({"again": again} if again else {}))
    return known


def _speaks_of(error: str, detail: str) -> bool:
    """Whether an attempt's ``detail`` is of this error: by its class, or by the last words that its ranks left.

    Else the attempt is of an earlier failure, and this one struck before the next attempt was made.
    """
    last = detail.strip().splitlines()[-1:]
    return error.partition(":")[0] in detail or bool(last and last[0] in error)


def _noted_before(directory: Path, run: str, newest: str) -> int:
    """How many notes followed the first one about the attempt ``newest``, the one to come included: tries that failed
    without making another attempt.
    """
    try:
        before = read_note(directory, run)
    except RecordError:
        return 0  # about to be replaced
    return int(before.get("again", 0)) + 1 if before is not None and before["attempt"] == newest else 0


def _note_path(directory: Path, run: str) -> Path:
    return directory / "launcher" / "failures" / f"{run}.json"


def cause_of_error(error: str) -> str:
    """A cause by the name of the exception that begins ``error``; for errors from before an attempt was made."""
    name = error.partition(":")[0].strip().rpartition(".")[2]
    match name:
        case "ConfigError" | "ManifestError":
            return "config"
        case "MemoryError" | "OutOfMemoryError":
            return "oom"
        case "DiskError" | "PermissionError":
            return "disk"
        case "OSError" if any(words in error for words in FULL_OR_READ_ONLY):
            return "disk"
        case "RanksLost":
            return "exit"
        case _:
            return "error"


def read_note(directory: Path, run: str) -> dict[str, Any] | None:
    """What a launcher noted about the run last: error, log, tries, attempt, cause, again; None when there is nothing.

    Raises ``RecordError`` when the note is damaged.
    """
    path = _note_path(directory, run)
    if not path.exists():
        return None
    note = read_json(path)
    if not isinstance(note, dict) or not {"error", "log", "tries", "attempt"} <= note.keys():
        raise RecordError(f"{path} is not a launcher's note; delete it")
    return note


def noted_failure(directory: Path, run: str, newest: str) -> Failure | None:
    """The launcher's note, if it is about the attempt named ``newest`` ("" when the run has none)."""
    note = read_note(directory, run)
    if note is None or note["attempt"] != newest:
        return None
    cause = note.get("cause") if note.get("cause") in CAUSES else "exit"  # notes of older launchers have none
    return Failure(str(cause), f"{note['error']} (tried {note['tries']} times)", str(note["log"]))


def said_failure(attempt: Path) -> Failure | None:
    """What the attempt said itself when it ended; None when it said nothing."""
    end = ended(attempt)
    if end is None:
        return None
    cause = {"failed": "error", "diverged": "nan"}.get(end["status"], "")
    return Failure(end["cause"] or cause, error_line(str(end["detail"])), str(attempt / "ended.json"))


def error_line(detail: str) -> str:
    """The line that names the error: of a traceback the exception, else the first line."""
    lines = [line for line in detail.splitlines() if line.strip()]
    if not lines:
        return ""
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    if not starts:
        return lines[0].strip()
    below = [line for line in lines[starts[-1] + 1 :] if not line.startswith(" ")]  # of a chain, the one that ended it
    return below[0] if below else lines[-1].strip()


# ---------------------------------------------------------------------------------------------------------------------
# SLURM's own words

RESTART = re.compile(r"array\.sbatch: task \S+ on \S+, restart (\d+):")  # what the batch script begins with
VERDICTS = (
    (re.compile(r"DUE TO TIME LIMIT"), "timeout"),
    (re.compile(r"DUE TO (PREEMPTION|JOB REQUEUE)"), ""),
    (re.compile(r"DUE TO NODE FAILURE"), "exit"),
    (re.compile(r"oom[-_]kill|OUT.OF.MEMORY|[Ee]xceeded (job |step )?memory limit|OOM Killed"), "oom"),
    (re.compile(r"slurmstepd: error: \*\*\* .* CANCELLED AT"), ""),
)


def slurm_failure(directory: Path, run: str, newest: Path, submissions: list[Submission]) -> Failure | None:
    """What SLURM wrote at the end of the log of the task that made attempt ``newest``; None when it wrote nothing."""
    log = task_log(directory, run, newest, submissions)
    if log is None or not log.exists():
        return None
    for line in reversed(_lines_about(newest, tail(log))):
        for pattern, cause in VERDICTS:
            if pattern.search(line):
                return Failure(cause, line.strip(), str(log))
    return None


def _lines_about(attempt: Path, text: str) -> list[str]:
    """Of a log that every restart of a task appends to, the lines from the restart that made the attempt."""
    task = (owner(attempt) or {}).get("slurm") or {}
    mine, found = True, []
    for line in text.splitlines():
        begins = RESTART.match(line)
        if begins is not None:
            mine = "restart" not in task or int(begins[1]) == int(task["restart"])
        if mine:
            found.append(line)
    return found


def task_log(directory: Path, run: str, attempt: Path | None, submissions: list[Submission]) -> Path | None:
    """The log of the array task that made ``attempt``, else of the newest task that was given the run."""
    who = owner(attempt) if attempt is not None else None
    task = str(((who or {}).get("slurm") or {}).get("task", ""))
    job, _, number = task.partition("_")
    for submission in reversed(submissions):
        if job and job == submission.job and number.isdecimal():
            return log_of(directory, submission, int(number))
    if who is not None and not task:
        return None  # made outside SLURM
    for submission in reversed(submissions):
        for index, chunk in enumerate(submission.chunks):
            if run in chunk:
                return log_of(directory, submission, index)
    return None


def tail(path: Path, most_bytes: int = TAIL_BYTES) -> str:
    """The end of a text file, from the first whole line in its last ``most_bytes``."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most_bytes))
        data = file.read()
    return (data if size <= most_bytes else data.partition(b"\n")[2]).decode("utf-8", errors="replace")
