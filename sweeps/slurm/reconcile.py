"""`nmm sweep launch DIR launcher=slurm`: compare manifest, records and queue, submit what is missing, return."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from nmm.record import RecordError, attempts
from sweeps import manifest
from sweeps.launch import fresh_estimates
from sweeps.lock import only_launcher
from sweeps.manifest import Entry
from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.packing import pack, shares
from sweeps.slurm.queue import Task, held_runs, release, unfinished
from sweeps.slurm.submissions import Submission, read_submissions, with_job
from sweeps.slurm.submit import Asked, Way, max_array_size, sbatch_command, submit
from sweeps.slurm.tally import Tally, tally
from sweeps.status import run_status

LEVELS = ("trunk", "branch")
USUAL_REASONS = ("", "None", "Priority", "Resources", "Dependency", "JobArrayTaskLimit", "BeginTime", "Cleaning")


@dataclass(frozen=True)
class Launched:
    """What one launch found and did. ``standing``: by run, as ``stand`` says."""

    standing: Mapping[str, str]
    submissions: list[Submission] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)


def launch_slurm(directory: Path, options: SlurmOptions, way: Way, console: Console) -> int:
    """Submit what is missing. Returns 0 when every run is done or in the queue, 1 when some are neither.

    Raises ``SweepError`` when SLURM does not answer or refuses (nothing is lost: launch again), ``LaunchError`` while
    another launcher is at work here, ``ManifestError``.
    """
    directory = directory.absolute()
    entries = manifest.read(directory)
    with only_launcher(directory) as lock:
        submissions = read_submissions(directory)
        queued = held_runs(unfinished(directory, submissions))
        submissions = _with_found_jobs(directory, submissions, queued)
        tallies = _tallies(directory, entries, submissions)
        standing = stand(entries, _statuses(directory, entries), queued, tallies, options.attempts, way.retry_all)
        forgiven = _forgiven(directory, standing) if way.retry_all else {}
        asked = Asked(directory, entries[0].config.sweep, options, way, forgiven)
        found = Launched(standing, released=[] if options.dry_run else release(queued.values()))
        if "missing" in standing.values():
            found = _submit_missing(asked, entries, found, queued, lock)
    for line in report(directory, found, queued, options):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0 if set(standing.values()) <= {"done", "queued", "elsewhere", "missing"} else 1


def _statuses(directory: Path, entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.run_id: run_status(directory / entry.run_id) for entry in entries}


def _with_found_jobs(
    directory: Path, submissions: Sequence[Submission], queued: Mapping[str, Task]
) -> list[Submission]:
    """A launcher that was killed before sbatch answered left submissions without an id: the queue knows it."""
    jobs = {task.name: task.job for task in queued.values()}
    return [s if s.job or s.name not in jobs else with_job(directory, s, jobs[s.name]) for s in submissions]


def _tallies(directory: Path, entries: Sequence[Entry], submissions: Sequence[Submission]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for entry in entries:
        if not (directory / entry.run_id / "record.json").exists():
            try:
                found[entry.run_id] = tally(directory, entry.run_id, submissions)
            except RecordError:
                found[entry.run_id] = Tally(cause="unreadable")
    return found


def _forgiven(directory: Path, standing: Mapping[str, str]) -> dict[str, int]:
    missing = [run for run, word in standing.items() if word == "missing"]
    return {run: int(made[-1].name) for run in missing if (made := attempts(directory / run))}


# ---------------------------------------------------------------------------------------------------------------------
# where every run stands


def stand(
    entries: Sequence[Entry],
    statuses: Mapping[str, str],
    queued: Mapping[str, Task],
    tallies: Mapping[str, Tally],
    cap: int,
    retry_all: bool,
) -> dict[str, str]:
    """Where every run stands: done, diverged, queued, elsewhere (held by a process outside our tasks), missing, or why
    it is not submitted. A branch is blocked when its trunk is not done and nothing will make it so.
    """
    standing: dict[str, str] = {}
    for entry in sorted(entries, key=lambda e: e.role == "branch"):
        run = entry.run_id
        if statuses[run] in ("done", "diverged"):
            standing[run] = statuses[run]
        elif run in queued:
            standing[run] = "queued"
        elif statuses[run] == "running":
            standing[run] = "elsewhere"
        else:
            standing[run] = _wanted(tallies[run], cap, retry_all)
        parent = standing.get(entry.parent_id, "done")
        if standing[run] == "missing" and parent not in ("done", "queued", "elsewhere", "missing"):
            standing[run] = "blocked"
    return standing


def _wanted(found: Tally, cap: int, retry_all: bool) -> str:
    if found.cause == "unreadable":
        return "unreadable"
    if found.failed >= cap and not retry_all:
        return f"over slurm.attempts={cap}"
    if found.hopeless and not retry_all:
        return f"not retried unchanged ({found.cause})"
    return "missing"


# ---------------------------------------------------------------------------------------------------------------------
# what is missing


def _submit_missing(
    asked: Asked, entries: Sequence[Entry], done: Launched, queued: Mapping[str, Task], lock: IO[Any]
) -> Launched:
    most, standing = max_array_size(), done.standing
    missing = fresh_estimates(asked.directory, [e for e in entries if standing[e.run_id] == "missing"])
    jobs = {run: task.job for run, task in queued.items()}  # which array has, or is about to have, a run
    for level, group in in_order(missing, standing):
        parents = {entry.parent_id for entry in group} & jobs.keys()
        after = sorted({jobs[parent] for parent in parents})
        options = asked.options
        arrays = pack(group, options.chunk_seconds, options.useful_seconds, options.workers, most)
        for array, parallel in zip(arrays, shares(options.max_parallel, arrays), strict=True):
            if options.dry_run:
                number = len(done.commands) + 1
                done.commands.append(sbatch_command(asked, f"NAME-{number}", number, array, parallel, after))
                jobs |= {entry.run_id: f"JOB-{number}" for chunk in array.chunks for entry in chunk}
                continue
            made = submit(asked, level, array, parallel, after, lock)
            done.submissions.append(made)
            jobs |= dict.fromkeys(made.runs, made.job)
    return done


def in_order(missing: Sequence[Entry], standing: Mapping[str, str]) -> list[tuple[str, list[Entry]]]:
    """(level, lines): trunks and plain runs; branches whose trunk is done, which need not wait; the other branches."""
    trunks = [e for e in missing if e.role != "branch"]
    ready = [e for e in missing if e.role == "branch" and standing.get(e.parent_id) == "done"]
    rest = [e for e in missing if e.role == "branch" and standing.get(e.parent_id) != "done"]
    return [(level, group) for level, group in (("trunk", trunks), ("branch", ready), ("branch", rest)) if group]


# ---------------------------------------------------------------------------------------------------------------------
# what is said


def report(directory: Path, found: Launched, queued: Mapping[str, Task], options: SlurmOptions) -> list[str]:
    """The closing lines: with dry_run the commands, then one line of counts and what to do next."""
    counts = Counter(found.standing.values())
    total = len(found.standing)
    if counts["done"] == total:
        return [f"all {total} runs are done; next: `nmm sweep table {directory} --out {directory}/runs.parquet`"]
    lines = [shlex.join(command) for command in found.commands]
    parts = [_submitted(found)] if counts["missing"] else ["nothing to submit"]
    parts += _in_queue(counts["queued"], queued)
    parts += (
        [f"released, as SLURM held them after a failed start: {', '.join(found.released)}"] if found.released else []
    )
    parts += [f"{counts['elsewhere']} running outside SLURM's tasks"] if counts["elsewhere"] else []
    others = [word for word in counts if word not in ("done", "queued", "elsewhere", "missing")]
    parts += [f"{counts[word]} {word}" for word in sorted(others)]
    parts += [f"{counts['done']} done of {total} runs"]
    retry = "; retry=all tries those again too" if any(w.startswith(("over ", "not retried")) for w in others) else ""
    follow = f"follow: `nmm sweep status {directory}`; stop: `nmm sweep cancel {directory}`"
    return [*lines, f"{', '.join(parts)}{retry}. {follow}{'' if not options.dry_run else '. Nothing was submitted'}"]


def _submitted(found: Launched) -> str:
    if found.commands:
        return f"would submit {len(found.commands)} arrays"
    tasks, runs = sum(len(s.chunks) for s in found.submissions), sum(len(s.runs) for s in found.submissions)
    jobs = ", ".join(f"{s.level} {s.job}" for s in found.submissions)
    return f"submitted {len(found.submissions)} arrays ({jobs}): {tasks} tasks, {runs} runs"


def _in_queue(count: int, queued: Mapping[str, Task]) -> list[str]:
    if not count:
        return []
    tasks = {task.task: task for task in queued.values()}.values()
    states = Counter(task.state.lower() for task in tasks)
    odd = sorted({task.reason for task in tasks if not task.started and task.reason not in USUAL_REASONS})
    held = f"; SLURM holds some back: {', '.join(odd)}" if odd else ""
    shown = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return [f"{count} runs in the queue already ({shown} tasks{held})"]
