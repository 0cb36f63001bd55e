"""What SLURM says about our tasks: squeue, asked by job name."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sweeps.manifest import SweepError
from sweeps.slurm.submissions import Submission, read_submissions

ANSWER_SECONDS = 120.0  # SLURM's own clients give up after 10-60 s; this only ends one that hangs
COLUMNS = ("Name", "ArrayJobID", "ArrayTaskID", "State", "NodeList", "Reason", "RestartCnt")
WIDTH = 200


@dataclass(frozen=True)
class Task:
    """One array task that SLURM has not ended: ``task`` like "4000_3", ``state`` in squeue's long words."""

    name: str
    task: str
    state: str
    node: str
    reason: str
    restarts: int

    @property
    def job(self) -> str:
        """The array's id."""
        return self.task.partition("_")[0]

    @property
    def index(self) -> int:
        """The number of its chunk."""
        return int(self.task.partition("_")[2])

    @property
    def started(self) -> bool:
        """Whether it has a node, so that its runs may be under way."""
        return self.state != "PENDING"

    @property
    def held_back(self) -> bool:
        """Whether SLURM keeps it waiting for ever because starting it failed; nobody asked for that."""
        reason = self.reason.lower().replace("_", " ")
        return not self.started and ("requeued held" in reason or reason == "jobholdmaxrequeue")


def ask(command: Sequence[str], held: IO[Any] | None = None) -> str:
    """Run one of SLURM's commands and return what it prints.

    ``held``: a locked file the command inherits, so that the lock outlives a launcher that is killed meanwhile. Raises
    ``SweepError`` when the command is not installed, fails, or does not end.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            pass_fds=(held.fileno(),) if held else (),
        )
    except FileNotFoundError:
        raise SweepError(f"{command[0]} is not installed here; launcher=slurm needs a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise SweepError(f"{command[0]} did not answer within {ANSWER_SECONDS:.0f} s; try again later") from None
    if done.returncode:
        said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        raise SweepError(f"{command[0]} failed with status {done.returncode}: {said or 'it did not say why'}")
    return done.stdout


def live_tasks(names: Collection[str]) -> list[Task]:
    """Every pending, running or ending task of the jobs with these names.

    Raises ``SweepError`` when the controller does not answer: then nobody knows what is in the queue.
    """
    if not names:
        return []
    form = ",".join(f"{column}:{WIDTH}|" for column in COLUMNS)
    text = ask(["squeue", "--noheader", "--array", f"--name={','.join(sorted(names))}", f"--Format={form}"])
    return [task for line in text.splitlines() if (task := _parse(line)) is not None]


def _parse(line: str) -> Task | None:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) < len(COLUMNS) or not fields[2].isdecimal():
        return None  # not a task of an array: nothing of ours
    name, job, index, state, node, reason, restarts = fields[: len(COLUMNS)]
    return Task(name, f"{job}_{index}", state, node, reason, int(restarts or 0))


def release(tasks: Collection[Task]) -> list[str]:
    """Let go of tasks that SLURM holds back after a failed start. Returns their names.

    Raises ``SweepError`` when the controller refuses.
    """
    names = sorted({task.task for task in tasks if task.held_back})
    for name in names:
        ask(["scontrol", "release", name])
    return names


def runs_in_queue(directory: Path) -> dict[str, Task]:
    """The task that has each run of this directory; a running task counts before a waiting one.

    ``{}`` without asking SLURM when nothing was submitted from here, or all of it has its record. Raises ``SweepError``
    when the controller does not answer.
    """
    directory = directory.absolute()
    return held_runs(unfinished(directory, read_submissions(directory)))


def unfinished(directory: Path, submissions: Sequence[Submission]) -> list[Submission]:
    """Those with a run that has no record yet."""
    return [s for s in submissions if any(not (directory / run / "record.json").exists() for run in s.runs)]


def held_runs(submissions: Sequence[Submission]) -> dict[str, Task]:
    """The live task that has each run of these submissions."""
    by_name = {submission.name: submission for submission in submissions}
    held: dict[str, Task] = {}
    for task in sorted(live_tasks(by_name), key=lambda task: task.started):
        for run in by_name[task.name].chunks[task.index]:
            held[run] = task
    return held
