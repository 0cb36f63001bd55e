"""`nmm sweep chunk`: one task of a job array, which runs the lines that its submission names.

Whoever runs them, records and attempts on disk are the truth: a task that is started twice, or again after days, runs
what is not done and leaves alone what another process holds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError
from nmm.record.owner import slurm_task
from sweeps import manifest
from sweeps.launch import Options, run_entries
from sweeps.manifest import Entry, ManifestError
from sweeps.slurm.options import SAVE_SHARE
from sweeps.slurm.submissions import Submission, chunk_end, is_cancelled, read_submission, read_submissions, writing
from sweeps.slurm.tally import Tally, tally

STOPPED = 75  # EX_TEMPFAIL: a signal came, there is work left, run it again

DESCRIPTION = """\
Run one chunk of a submission: what a task of a job array does. `nmm sweep launch DIR launcher=slurm` writes submissions
and starts these tasks; by hand it is of use to repeat one of them where you sit.

Exit status: 0 every line of the chunk is done; 1 some are not, and trying again is not up to this task; 75 stopped by
a signal with work left; 2 a mistake in what was asked."""
EXAMPLE = "example, task 0 of submission 1:\n  nmm sweep chunk outputs/study/runs --submission 1 --index 0"


def chunk_main(argv: Sequence[str]) -> int:
    """``nmm sweep chunk``."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep chunk",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", type=Path, help="the sweep's directory")
    parser.add_argument("--submission", type=int, required=True, help="its number: DIR/launcher/slurm/NUMBER.json")
    parser.add_argument("--index", type=int, required=True, help="which chunk of it, from 0")
    arguments = parser.parse_args(argv)
    return run_chunk(arguments.dir.absolute(), arguments.submission, arguments.index, Console())


def run_chunk(directory: Path, number: int, index: int, console: Console) -> int:
    """Run chunk ``index`` of submission ``number`` in worker processes of its own. Returns the exit status.

    Raises ``ConfigError`` for an index that does not exist, ``RecordError`` for a missing submission,
    ``ManifestError``, and ``SweepError`` where the directory cannot be written.
    """
    with writing(directory):
        status = _run(directory, number, index, console)
    console.print(chunk_end(number, index, status), highlight=False, markup=False, soft_wrap=True)
    return status


def _run(directory: Path, number: int, index: int, console: Console) -> int:
    entries = manifest.read(directory)
    submission = read_submission(directory, number)
    if not 0 <= index < len(submission.chunks):
        raise ConfigError(f"--index {index}: submission {number} has {len(submission.chunks)} chunks, counted from 0")
    if is_cancelled(directory, submission):
        console.print(f"submission {number} was cancelled; `nmm sweep launch {directory}` goes on", soft_wrap=True)
        return 1
    chosen = _lines(directory, entries, submission, index)
    tallies = _tallies(directory, submission, chosen)
    cap = int(submission.options["attempts"])
    given_up = [entry for entry in chosen if tallies[entry.run_id].failed >= cap or tallies[entry.run_id].hopeless]
    for entry in given_up:
        found = tallies[entry.run_id]
        why = f"{found.failed} failed attempts (slurm.attempts={cap}), the newest by {found.cause or 'another cause'}"
        console.print(f"not tried again: {entry.run_id}: {why}", highlight=False, markup=False, soft_wrap=True)
    left = [entry for entry in chosen if entry not in given_up]
    if not left:
        return 1
    result = run_entries(directory, entries, left, _options(submission, index, tallies), console)
    if result.stopped_by and not result.all_done:
        return STOPPED
    return 0 if result.all_done and not given_up else 1


def _lines(directory: Path, entries: Sequence[Entry], submission: Submission, index: int) -> list[Entry]:
    by_id = {entry.run_id: entry for entry in entries}
    unknown = [run for run in submission.chunks[index] if run not in by_id]
    if unknown:
        raise ManifestError(f"submission {submission.number} names {unknown[0]}, which {directory} does not plan")
    return [by_id[run] for run in submission.chunks[index]]


def _tallies(directory: Path, submission: Submission, chosen: Sequence[Entry]) -> dict[str, Tally]:
    forgiven: Mapping[str, int] = submission.options["forgiven"]
    present, submissions = slurm_task(os.environ), read_submissions(directory)
    found = {}
    for entry in chosen:
        if not (directory / entry.run_id / "record.json").exists():
            try:
                found[entry.run_id] = tally(directory, entry.run_id, submissions, forgiven.get(entry.run_id), present)
            except RecordError:
                continue  # the run itself will say what is damaged
    return {entry.run_id: found.get(entry.run_id, Tally()) for entry in chosen}


def _options(submission: Submission, index: int, tallies: Mapping[str, Tally]) -> Options:
    values = submission.options
    return Options(
        workers=int(values["workers"]),
        retries=int(values["attempts"]) - 1,
        runner=str(values["runner"]),
        pin=False,  # the scheduler gave this task its cores; two tasks on one node must not pick the same ones
        stop_seconds=float(values["signal_seconds"]) * SAVE_SHARE,
        log_name=f"{submission.number:04d}-chunk-{index}",
        tries={run: found.failed for run, found in tallies.items()},
        scheduled=True,
        changed_code=str(values.get("changed_code", "refuse")),
    )
