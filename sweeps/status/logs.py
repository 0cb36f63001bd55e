"""``nmm sweep logs``: everything the files say about one run, from how it began to how it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from nmm.record import RecordError, attempts, ended, is_alive, owner
from sweeps.manifest import FILE_NAME, SweepError
from sweeps.rows import last_rows
from sweeps.slurm.submissions import read_submissions
from sweeps.status.failures import error_line, read_note, tail, task_log
from sweeps.status.fixes import fix, go_on, quoted
from sweeps.status.planned import read_planned
from sweeps.status.report import Reader
from sweeps.status.states import finished, run_status

DEPTH = 2  # folders between the place that is searched and the run's
MOST_CANDIDATES = 12
NOT_RUNS = ("attempts", "launcher", "checkpoints")
NOISE = ("nanobind: ", " - leaked ", " - ... skipped", "See https://nanobind.")  # of the compiler's, as a process ends


def find_run(name: str, directory: Path | None, here: Path) -> Path:
    """The run directory called ``name``: a path, a run id, or the beginning of one.

    Looked for in ``directory``; without one below ``here``/outputs and ``here``, two folders deep. Raises
    ``SweepError`` when there is none, or several.
    """
    given = Path(name) if Path(name).is_absolute() else here / name
    if (given / "attempts").is_dir() or (given / "config.json").is_file():
        return given
    places = [directory.absolute()] if directory is not None else [here / "outputs", here]
    if directory is not None and not directory.is_dir():
        raise SweepError(f"--dir {directory} is not a directory")
    runs = sorted({run for place in places for run in _runs(place, 0 if directory is not None else DEPTH)})
    exact = [run for run in runs if run.name == name]
    found = exact or [run for run in runs if run.name.startswith(name)]
    where = " and ".join(quoted(place) for place in places)
    if not found:
        close = [run for run in runs if name in run.name] or runs
        has = f"; there are {_names(close)}" if close else ", which holds no run"
        raise SweepError(f"no run is called {name!r} in {where}{has}. Give --dir DIR for another place")
    if len(found) > 1:
        kind = "are called" if exact else "begin with"
        raise SweepError(f"{len(found)} runs {kind} {name!r}: {_names(found)}. Give more of the name, or the path")
    return found[0]


def _names(runs: list[Path]) -> str:
    shown = ", ".join(quoted(run) for run in runs[:MOST_CANDIDATES])
    return shown + (f" and {len(runs) - MOST_CANDIDATES} more" if len(runs) > MOST_CANDIDATES else "")


def _runs(place: Path, depth: int) -> Iterator[Path]:
    """Run directories in ``place`` and up to ``depth`` folders below it; planned ones that never began as well."""
    if not place.is_dir():
        return
    manifest = place / FILE_NAME
    if manifest.is_file():
        yield from (place / run.run_id for run in read_planned(place))
    for folder in place.iterdir():
        if not folder.is_dir() or folder.is_symlink() or folder.name in NOT_RUNS:
            continue
        if (folder / "attempts").is_dir() or (folder / "config.json").is_file():
            yield folder
        elif depth:
            yield from _runs(folder, depth - 1)


def show_logs(name: str, directory: Path | None, attempt: int | None, lines: int, console: Console) -> int:
    """Print what is known of one run. Returns 0 when it is done, else 1. Raises ``SweepError`` as ``find_run``."""
    run = find_run(name, directory, Path.cwd())
    made = attempts(run)
    if attempt is not None and not any(int(path.name) == attempt for path in made):
        have = ", ".join(path.name for path in made) or "none"
        raise SweepError(f"--attempt {attempt}: {run.name} has no such attempt; it has {have}")
    chosen = [path for path in made if attempt is None or int(path.name) == attempt]
    text = [f"{run.name}: {run_status(run)}, {len(made)} attempts", f"directory: {quoted(run)}"]
    for path in chosen:
        text += ["", *_attempt(path, lines, whole=path is chosen[-1])]
    text += _launcher(run, chosen[-1] if chosen else None, lines)
    text += ["", *_next(run)]
    for line in text:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0 if run_status(run) == "done" else 1


def _attempt(path: Path, lines: int, whole: bool) -> list[str]:
    """How one attempt began and ended; with ``whole`` also its log and traceback."""
    found = [f"attempt {path.name}: {_began(path)}", f"  {_ended(path)}"]
    rows = last_rows(path / "metrics.jsonl")
    if rows:
        loss = next((row["train_loss"] for row in reversed(rows) if row.get("train_loss") is not None), None)
        what = f", training loss {loss:.4g}" if loss is not None else ""
        found.append(f"  newest row: step {rows[-1]['step']}{what}")
    if whole:
        found += _last_lines(path / "log.txt", lines)
        end = _readable(path)[0]
        if end is not None and end["detail"]:
            said = str(end["detail"])  # of an interruption, where it struck is no news
            said = error_line(said) if end["status"] == "interrupted" else said
            found += ["  what it said when it ended:", *_indented(said)]
    return found


def _readable(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        return ended(path), ""
    except RecordError as error:
        return None, str(error)


def _began(path: Path) -> str:
    try:
        who = owner(path)
    except RecordError as error:
        return str(error)
    if who is None:
        return "it does not say where it ran"
    task = f", SLURM task {who['slurm']['task']} (restart {who['slurm']['restart']})" if who["slurm"] else ""
    return f"began {who.get('started', '')} on {who['host']}, process {who['pid']}{task}"


def _ended(path: Path) -> str:
    end, damage = _readable(path)
    if end is not None:
        return f"ended: {end['status']} ({end['cause'] or 'no failure'})"
    if damage:
        return damage
    if is_alive(path):
        return "still at work"
    return "ended without a word, or is at work on a machine whose locks do not reach here"


def _last_lines(path: Path, lines: int) -> list[str]:
    if not path.is_file():
        return [f"  {path.name}: not there"]
    whole = [line for line in tail(path, 256 * lines + 16384).splitlines() if not line.startswith(NOISE)]
    return [f"  {quoted(path)}, last {min(lines, len(whole))} lines:", *_indented("\n".join(whole[-lines:]))]


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.rstrip().splitlines()]


def _launcher(run: Path, newest: Path | None, lines: int) -> list[str]:
    """The launcher's note and the end of the log of the worker, or of the SLURM task, that had the run."""
    directory, found = run.parent, []
    try:
        note = read_note(directory, run.name)
        log = task_log(directory, run.name, newest, read_submissions(directory))
    except RecordError as error:
        return ["", str(error)]
    if note is not None:
        about = f"about attempt {note['attempt']}" if note["attempt"] else "before any attempt"
        found += ["", f"the launcher noted ({about}, try {note['tries']}): {note['error']}"]
        found += _last_lines(Path(str(note["log"])), lines)
    if log is not None:
        found += ["", "the SLURM task that had it:", *_last_lines(log, lines)]
    return found


def _next(run: Path) -> list[str]:
    """The command that goes on with this run."""
    directory = run.parent
    if not (directory / FILE_NAME).is_file():
        try:
            done = finished(run)
        except RecordError as error:
            return [str(error)]
        if done is not None:
            return [f"finished ({done['status']}); nothing to do"]
        return [f"go on: `nmm train --from {quoted(run)}`"]
    report = Reader(directory).read()
    state = next((state for state in report.states if state.run.run_id == run.name), None)
    if state is None:
        return [f"{quoted(directory)} does not plan this run; it is left over from another plan"]
    if state.state == "done":
        return ["finished; nothing to do"]
    what = f"{state.state}{f' ({state.cause})' if state.cause else ''}"
    if state.state in ("running", "queued", "pending", "blocked", "interrupted"):
        return [f"{what}{f': {state.where}' if state.where else ''}; go on: `{go_on(directory, report.slurm)}`"]
    kind = "nan" if state.state == "diverged" else state.cause or state.state
    return [f"{what}; what to do: {fix(kind, [state], directory, report.slurm)}"]
