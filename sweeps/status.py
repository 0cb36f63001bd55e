"""``nmm sweep status`` and ``nmm sweep table``: what the files say about a sweep, and its flat table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nmm import record
from nmm.config import ConfigError
from nmm.record import RecordError, attempts, read_json, write_json
from sweeps import manifest
from sweeps.estimate import estimate, observe, own_tokens, published
from sweeps.manifest import Entry
from sweeps.plan import duration
from sweeps.progress import last_step

STATES = ("done", "running", "pending", "interrupted", "failed", "blocked", "diverged", "unreadable")
TABLE_SUFFIXES = (".parquet", ".csv")


def run_status(run: Path) -> str:
    """``nmm.record.status``, with "unreadable" for a run directory whose files are damaged."""
    try:
        return record.status(run)
    except RecordError:
        return "unreadable"


# ---------------------------------------------------------------------------------------------------------------------
# failures


def note_failure(directory: Path, run: str, error: str, log: Path, tries: int) -> None:
    """Leave a note of a run's latest failure: a killed process cannot leave its own."""
    made = attempts(directory / run)
    note = {"error": error, "log": str(log), "tries": tries, "attempt": made[-1].name if made else ""}
    write_json(directory / "launcher" / "failures" / f"{run}.json", note)


def noted_failure(directory: Path, run: str) -> str:
    """What a launcher noted about the run's newest attempt; "" when there is none, or only about an older one."""
    path = directory / "launcher" / "failures" / f"{run}.json"
    if not path.exists():
        return ""
    note, made = read_json(path), attempts(directory / run)
    if note["attempt"] != (made[-1].name if made else ""):
        return ""
    return f"{note['error']} (tried {note['tries']} times; log {note['log']})"


def ended_detail(directory: Path, run: str) -> str:
    """What the run's newest attempt said itself when it ended, as one line; "" when it said nothing."""
    made = attempts(directory / run)
    ended = made[-1] / "ended.json" if made else None
    if ended is None or not ended.exists():
        return ""
    return error_line(str(read_json(ended).get("detail", "")))


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
# status


@dataclass(frozen=True)
class SweepStatus:
    """State of every run, why the bad ones are bad, and estimated seconds of work left for one worker."""

    states: dict[str, str]
    causes: dict[str, str]
    seconds_left: float
    flops_done: float
    flops_total: float


def sweep_status(directory: Path, entries: Sequence[Entry]) -> SweepStatus:
    """Read the state of every line of the manifest from the run directories."""
    states = {entry.run_id: run_status(directory / entry.run_id) for entry in entries}
    causes: dict[str, str] = {}
    for run, state in states.items():
        if state in ("pending", "interrupted", "failed"):
            causes[run] = noted_failure(directory, run)
            if causes[run]:
                states[run] = "failed"  # a killed process could not say so itself, but its launcher saw it
        if states[run] == "failed" and not causes[run]:
            causes[run] = ended_detail(directory, run)
    for entry in entries:
        if states[entry.run_id] == "pending" and states.get(entry.parent_id) in ("failed", "diverged", "unreadable"):
            states[entry.run_id] = "blocked"
    finished = {run for run, state in states.items() if state in ("done", "diverged")}
    speeds = observe(published(directory), [entry.config for entry in entries])
    left = [e for e in entries if e.run_id not in finished]
    return SweepStatus(
        states,
        causes,
        seconds_left=sum(estimate(e.config, speeds).seconds * _fraction_left(directory, e) for e in left),
        flops_done=sum(e.estimate.flops for e in entries if e.run_id in finished),
        flops_total=sum(e.estimate.flops for e in entries),
    )


def _fraction_left(directory: Path, entry: Entry) -> float:
    config = entry.config
    step = last_step(directory / entry.run_id) or 0
    return 1.0 - max(0, step - config.parent.step) * config.tokens_per_step / own_tokens(config)


def show_status(directory: Path, console: Console) -> int:
    """Print counts, failures and the time left. Returns 0 when everything is done, else 1."""
    directory = directory.absolute()
    entries = manifest.read(directory)
    found = sweep_status(directory, entries)
    counts = Counter(found.states.values())
    shown = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    share = found.flops_done / found.flops_total
    console.print(
        f"[bold]{escape(entries[0].config.sweep)}[/]: {shown} of {len(entries)} runs, {share:.0%} of the FLOPs"
    )
    for run, state in found.states.items():
        if state in ("failed", "unreadable", "diverged"):
            cause = found.causes.get(run) or "see its attempts/ folder"
            console.print(f"  {state}: {run}: {cause}", highlight=False, markup=False, soft_wrap=True)
    if counts["done"] == len(entries):
        _say(console, f"all done; next: `nmm sweep table {directory} --out {directory}/runs.parquet`")
        return 0
    work = f"about {duration(found.seconds_left)} of work left for one worker"
    _say(
        console,
        f"{work}; go on with `nmm sweep launch {directory}`" if not counts["running"] else f"{work}; running now",
    )
    return 1


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------------------
# table


def write_table(directory: Path, out: Path) -> str:
    """Write the flat table of finished points as .parquet or .csv; returns the closing line.

    Raises ``ConfigError`` for another suffix and ``RecordError`` when no point is finished.
    """
    if out.suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(TABLE_SUFFIXES)}")
    rows = record.load_table(directory)
    if not rows:
        raise RecordError(f"{directory} holds no finished point yet; see `nmm sweep status {directory}`")
    import pandas  # 0.5 s, and only this command needs it

    frame = pandas.DataFrame(rows)

    def writer(file: Any) -> None:
        frame.to_parquet(file, index=False) if out.suffix == ".parquet" else frame.to_csv(file, index=False)

    record.write_atomic(out, writer)
    return f"wrote {len(frame)} rows x {len(frame.columns)} columns to {out}"
