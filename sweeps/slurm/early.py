"""Tasks that ended before any attempt: no environment, a broken import, a directory that the node cannot write.

They leave no trace in any run, only in their own logs. Without a cap a launch from cron would submit them for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmm.record import RecordError, attempts, owner
from sweeps.slurm.submissions import Submission, chunk_ended, is_cancelled, log_of
from sweeps.status.failures import RESTART, VERDICTS


@dataclass(frozen=True)
class Early:
    """How often, since a task last came as far as an attempt of this run, one did not; ``log`` of the newest."""

    count: int = 0
    log: str = ""


def early_ends(directory: Path, submissions: Sequence[Submission], runs: Collection[str]) -> dict[str, Early]:
    """For ``runs``, none of which is in the queue. What `nmm sweep cancel` ended does not count, and what was submitted
    with retry=all begins at 0.
    """
    found = {run: Early() for run in runs}
    settled: set[str] = set()
    for submission in reversed(submissions):
        if is_cancelled(directory, submission):
            continue
        for index, chunk in enumerate(submission.chunks):
            asking = [run for run in chunk if run in found and run not in settled]
            if not asking:
                continue
            count, worked = _early(directory, submission, index)
            forgiven = submission.options.get("forgiven") or {}
            for run in asking:
                if count:
                    log = found[run].log or str(log_of(directory, submission, index))
                    found[run] = Early(found[run].count + count, log)
                if worked or run in forgiven:
                    settled.add(run)
    return found


def _early(directory: Path, submission: Submission, index: int) -> tuple[int, bool]:
    """How often, at last, one task ended before it did anything; whether it had done something before."""
    log = log_of(directory, submission, index)
    if not log.exists():
        return (1 if submission.job else 0), False  # a node that does not see the directory can write no log either
    starts = _starts(log)
    at_work = _restarts_with_attempts(directory, submission, index) if starts else set()
    count = 0
    for restart, lines in reversed(starts):
        if restart in at_work or any(chunk_ended(line) for line in lines):
            return count, True
        count += not any(_is_nobodys_fault(line) for line in lines)
    return count, False


def _starts(log: Path) -> list[tuple[int, list[str]]]:
    """(restart, what the log says of it), in order."""
    starts: list[tuple[int, list[str]]] = []
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            begins = RESTART.match(line)
            if begins is not None:
                starts.append((int(begins[1]), []))
            elif starts:
                starts[-1][1].append(line)
    return starts


def _restarts_with_attempts(directory: Path, submission: Submission, index: int) -> set[int]:
    found = set()
    for run in submission.chunks[index]:
        for attempt in attempts(directory / run):
            try:
                task = (owner(attempt) or {}).get("slurm") or {}
            except RecordError:
                continue  # whoever reads this run says what is damaged
            if task.get("task") == f"{submission.job}_{index}":
                found.add(int(task["restart"]))
    return found


def _is_nobodys_fault(line: str) -> bool:
    """SLURM's word that it ended the task for a reason of its own, or because somebody asked it to."""
    cause = next((cause for pattern, cause in VERDICTS if pattern.search(line)), None)
    return cause == "" or "DUE TO NODE FAILURE" in line
