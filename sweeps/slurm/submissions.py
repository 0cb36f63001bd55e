"""DIR/launcher/slurm/NNNN.json: what was handed to SLURM.

A submission is written before sbatch is called, and its job name belongs to it alone: whatever sbatch did before the
launcher was killed is found again in the queue under that name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.record import DISK_ERRNOS, RecordError, read_json, write_json
from sweeps.manifest import SweepError

FOLDER = Path("launcher") / "slurm"


@dataclass(frozen=True)
class Submission:
    """One array: task k of job ``name`` runs the lines ``chunks[k]``. ``job`` is "" until sbatch has answered."""

    number: int
    name: str
    level: str
    chunks: tuple[tuple[str, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""

    @property
    def runs(self) -> list[str]:
        """Every run id of every chunk."""
        return [run for chunk in self.chunks for run in chunk]


def path_of(directory: Path, number: int) -> Path:
    """The file of submission ``number``."""
    return directory / FOLDER / f"{number:04d}.json"


def log_of(directory: Path, submission: Submission, index: int) -> Path:
    """Where task ``index`` of a submission prints."""
    return directory / FOLDER / f"{submission.number:04d}-{index}.log"


def read_submissions(directory: Path) -> list[Submission]:
    """All submissions of a sweep's directory, oldest first. Raises ``RecordError`` for a file that is not one."""
    folder = directory / FOLDER
    if not folder.is_dir():
        return []
    numbers = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())
    return [read_submission(directory, number) for number in numbers]


def read_submission(directory: Path, number: int) -> Submission:
    """One submission. Raises ``RecordError`` when it is not there or damaged."""
    path = path_of(directory, number)
    if not path.exists():
        raise RecordError(f"{path} does not exist; `nmm sweep launch {directory} launcher=slurm` writes submissions")
    values = read_json(path)
    try:
        return Submission(
            number=number,
            name=str(values["name"]),
            level=str(values["level"]),
            chunks=tuple(tuple(chunk) for chunk in values["chunks"]),
            options=dict(values["options"]),
            job=values["job"] or "",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is not a submission ({error!r}); move it away and launch again") from error


def new_submission(
    directory: Path, sweep: str, level: str, chunks: Sequence[Sequence[str]], options: Mapping[str, Any]
) -> Submission:
    """Take the next free number and write the submission, before anything is asked of SLURM."""
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)  # a directory that was deleted and planned again must not find the old one's jobs
    staged = folder / f".new-{token}.json"
    number = 1 + max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0)
    try:
        while True:
            name = f"{re.sub('[^A-Za-z0-9_.-]', '_', sweep)[:40]}-{token}-{number:04d}"
            made = Submission(number, name, level, tuple(tuple(chunk) for chunk in chunks), dict(options))
            _write(staged, made)
            try:
                os.link(staged, path_of(directory, number))  # whole, and only if nobody has the number
                return made
            except FileExistsError:
                number += 1
    finally:
        staged.unlink(missing_ok=True)


def with_job(directory: Path, submission: Submission, job: str) -> Submission:
    """Note the id that sbatch answered with."""
    known = dataclasses.replace(submission, job=job)
    _write(path_of(directory, submission.number), known)
    return known


def _write(path: Path, submission: Submission) -> None:
    values = dataclasses.asdict(submission) | {"job": submission.job or None}
    del values["number"]
    write_json(path, values)


# A cancelled submission is marked by a file, which the batch script sees too: no task of it may ask for itself again.


def _mark_of(directory: Path, number: int) -> Path:
    return directory / FOLDER / f"{number:04d}.cancelled"


def mark_cancelled(directory: Path, submission: Submission) -> None:
    """From now on no task of this submission begins anything or puts itself back into the queue."""
    _mark_of(directory, submission.number).touch()


def is_cancelled(directory: Path, submission: Submission) -> bool:
    """Whether ``nmm sweep cancel`` has been asked for this submission."""
    return _mark_of(directory, submission.number).exists()


# What the task of a chunk prints last: without it, it did not come that far.

_CHUNK_ENDED = re.compile(r"chunk \d+ of submission \d+ ended with status \d+")


def chunk_end(number: int, index: int, status: int) -> str:
    """The last line of a chunk whose lines were looked at, whatever became of them."""
    return f"chunk {index} of submission {number:04d} ended with status {status}"


def chunk_ended(line: str) -> bool:
    """Whether ``line`` of a task's log is ``chunk_end``."""
    return _CHUNK_ENDED.match(line) is not None


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """A full disk or a directory that may not be written becomes ``SweepError``."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise SweepError(f"{directory} cannot be written ({error}); make room there, or make it writable") from error
