"""`nmm sweep launch DIR launcher=slurm`: compare manifest, records and queue, submit what is missing, return."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from nmm.record import RecordError, attempts
from sweeps import manifest
from sweeps.launch import fresh_estimates
from sweeps.lock import only_launcher
from sweeps.manifest import Entry
from sweeps.slurm.early import Early, early_ends
from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.packing import pack, shares
from sweeps.slurm.queue import Task, held_runs, release, unfinished
from sweeps.slurm.submissions import Submission, is_cancelled, read_submissions, with_job, writing
from sweeps.slurm.submit import Asked, Way, max_array_size, sbatch_command, submit
from sweeps.slurm.tally import Tally, tally
from sweeps.status import run_status

LEVEL_NAMES = {"trunk": "trunks", "branch": "branches"}
USUAL_REASONS = ("", "None", "Priority", "Resources", "Dependency", "JobArrayTaskLimit", "BeginTime", "Cleaning")
LEAVING = "being cancelled"
EARLY = "ended before any attempt"
ON_THEIR_WAY = ("queued", "elsewhere", "missing", "waiting for a trunk elsewhere")


@dataclass(frozen=True)
class Launched:
    """What one launch found and did. ``standing``: by run, as ``stand`` says."""

    standing: Mapping[str, str]
    submissions: list[Submission] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    early_log: str = ""


def launch_slurm(directory: Path, options: SlurmOptions, way: Way, console: Console) -> int:
    """Submit what is missing. Returns 0 when every run is done or in the queue, 1 when some are neither.

    Raises ``SweepError`` when SLURM does not answer or refuses (nothing is lost: launch again), ``LaunchError`` while
    another launcher is at work here, ``ManifestError``.
    """
    directory = directory.absolute()
    entries = manifest.read(directory)
    with writing(directory), only_launcher(directory) as lock:
        submissions = read_submissions(directory)
        queued, leaving = _in_the_queue(directory, submissions)
        submissions = _with_found_jobs(directory, submissions, [*queued.values(), *leaving.values()])
        tallies = _tallies(directory, entries, submissions, {*queued, *leaving})
        statuses = _statuses(directory, entries)
        standing = stand(entries, statuses, queued, tallies, options.attempts, way.retry_all, leaving)
        forgiven = _forgiven(directory, standing) if way.retry_all else {}
        asked = Asked(directory, entries[0].config.sweep, options, way, forgiven)
        early = next((found.early.log for run, found in tallies.items() if standing[run].startswith(EARLY)), "")
        found = Launched(standing, released=[] if options.dry_run else release(queued.values()), early_log=early)
        if "missing" in standing.values():
            found = _submit_missing(asked, entries, found, queued, lock)
    for line in report(directory, found, queued, options):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0 if set(standing.values()) <= {*ON_THEIR_WAY, "done"} else 1


def _in_the_queue(directory: Path, submissions: Sequence[Submission]) -> tuple[dict[str, Task], dict[str, Task]]:
    """Runs that tasks have, and runs whose tasks are cancelled: those begin nothing more and do not come back."""
    open_ones = unfinished(directory, submissions)
    cancelled = [s for s in open_ones if is_cancelled(directory, s)]
    queued = held_runs([s for s in open_ones if s not in cancelled])
    return queued, {run: task for run, task in held_runs(cancelled).items() if run not in queued}


def _statuses(directory: Path, entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.run_id: run_status(directory / entry.run_id) for entry in entries}


def _with_found_jobs(directory: Path, submissions: Sequence[Submission], tasks: Sequence[Task]) -> list[Submission]:
    """A launcher that was killed before sbatch answered left submissions without an id: the queue knows it."""
    jobs = {task.name: task.job for task in tasks}
    return [s if s.job or s.name not in jobs else with_job(directory, s, jobs[s.name]) for s in submissions]


def _tallies(
    directory: Path, entries: Sequence[Entry], submissions: Sequence[Submission], held: Collection[str]
) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    early = early_ends(directory, submissions, [e.run_id for e in entries if _is_open(directory, e, held)])
    for entry in entries:
        if not (directory / entry.run_id / "record.json").exists():
            try:
                counted = tally(directory, entry.run_id, submissions)
                found[entry.run_id] = dataclasses.replace(counted, early=early.get(entry.run_id, Early()))
            except RecordError:
                found[entry.run_id] = Tally(cause="unreadable")
    return found


def _is_open(directory: Path, entry: Entry, held: Collection[str]) -> bool:
    return entry.run_id not in held and not (directory / entry.run_id / "record.json").exists()


def _forgiven(directory: Path, standing: Mapping[str, str]) -> dict[str, int]:
    missing = [run for run, word in standing.items() if word == "missing"]
    return {run: max((int(made.name) for made in attempts(directory / run)), default=0) for run in missing}


# ---------------------------------------------------------------------------------------------------------------------
# where every run stands


def stand(
    entries: Sequence[Entry],
    statuses: Mapping[str, str],
    queued: Mapping[str, Task],
    tallies: Mapping[str, Tally],
    cap: int,
    retry_all: bool,
    leaving: Collection[str] = (),
) -> dict[str, str]:
    """Where every run stands: done, diverged, queued, elsewhere (held by a process outside our tasks), missing, or why
    it is not submitted. A branch is blocked when its trunk is not done and nothing will make it so; it is not submitted
    either while its trunk runs where no job can wait for it. ``leaving``: runs whose tasks are cancelled.
    """
    standing: dict[str, str] = {}
    for entry in sorted(entries, key=lambda e: e.role == "branch"):
        run = entry.run_id
        if statuses[run] in ("done", "diverged"):
            standing[run] = statuses[run]
        elif run in queued:
            standing[run] = "queued"
        elif run in leaving:
            standing[run] = LEAVING
        elif statuses[run] == "running":
            standing[run] = "elsewhere"
        else:
            standing[run] = _wanted(tallies[run], cap, retry_all)
        if standing[run] == "missing":
            standing[run] = _behind(standing.get(entry.parent_id, "done"))
    return standing


def _behind(parent: str) -> str:
    match parent:
        case "done" | "queued" | "missing":
            return "missing"
        case "elsewhere":
            return "waiting for a trunk elsewhere"
        case "being cancelled":
            return "waiting for a trunk that is being cancelled"
        case _:
            return "blocked"


def _wanted(found: Tally, cap: int, retry_all: bool) -> str:
    if found.cause == "unreadable":
        return "unreadable"
    if found.failed >= cap and not retry_all:
        return f"over slurm.attempts={cap}"
    if found.hopeless and not retry_all:
        return f"not retried unchanged ({found.cause})"
    if found.early.count >= cap and not retry_all:
        return f"{EARLY} slurm.attempts={cap} times"
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
    others = [word for word in counts if word not in ("done", "queued", "elsewhere", "missing", LEAVING)]
    parts += [f"{counts[word]} {word}{_see(word, found.early_log)}" for word in sorted(others)]
    parts += [f"{counts['done']} done of {total} runs"]
    parts += [f"{counts[LEAVING]} runs are {LEAVING}; launch again when they have ended"] if counts[LEAVING] else []
    capped = any(word.startswith(("over ", "not retried", EARLY)) for word in others)
    retry = "; retry=all tries those again too" if capped else ""
    follow = f"follow: `nmm sweep status {directory}`; stop: `nmm sweep cancel {directory}`"
    return [*lines, f"{', '.join(parts)}{retry}. {'Nothing was submitted' if options.dry_run else follow}"]


def _see(word: str, log: str) -> str:
    if not word.startswith(EARLY):
        return ""
    return f" (why: {log})" if Path(log).exists() else f" (without a log, {log}: can the nodes write there?)"


def _submitted(found: Launched) -> str:
    if found.commands:
        return f"would submit {len(found.commands)} arrays"
    tasks, runs = sum(len(s.chunks) for s in found.submissions), sum(len(s.runs) for s in found.submissions)
    jobs = ", ".join(f"job {s.job} of {LEVEL_NAMES[s.level]}" for s in found.submissions)
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
