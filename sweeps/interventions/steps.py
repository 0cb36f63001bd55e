"""Run a study: its steps one after another, then study.json, results.jsonl and the page. Run again, it goes on.

OUT/steps/NAME.json says that a step has finished, with its command and the files it was given; OUT/logs/NAME.log holds
what it printed. The first step that has not finished, and all after it, are run: a command with nothing to do is brief.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from nmm.record import read_json, write_atomic, write_json
from sweeps.interventions.process import last_lines, run_command
from sweeps.interventions.protocol import ROW_KEYS, WORKERS, Step, Study, StudyError
from sweeps.plan import duration

SCHEMA = 1
STUDY_FILE, RESULTS_FILE, ASKED_FILE = "study.json", "results.jsonl", "intervention.json"
STOPPED = 128
_SHOWN_LINES = 12


@contextlib.contextmanager
def workplace(out: Path, method: str, scale: str) -> Iterator[None]:
    """OUT for one study and one process. Raises ``StudyError`` when it holds another, or something else."""
    asked = {"schema": SCHEMA, "method": method, "scale": scale}
    if out.exists() and not out.is_dir():
        raise StudyError(f"out={out} is a file; name a directory")
    if (out / ASKED_FILE).exists():
        found = read_json(out / ASKED_FILE)
        if found != asked:
            raise StudyError(
                f"out={out} holds the study {found.get('method')} scale={found.get('scale')}, not {method} "
                f"scale={scale}; give another out="
            )
    elif out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
        raise StudyError(f"out={out} holds other files and no study; give a new or empty directory")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"another `nmm intervention` is at work on {out}; its logs are in {out / 'logs'}"
            ) from None
        write_json(out / ASKED_FILE, asked)
        yield


def run_study(study: Study, out: Path, workers: int, console: Console) -> int:
    """Run what has not finished, then collect and draw. Returns 0, or 128 + n when signal n stopped it.

    Raises ``StudyError`` for a step that fails and for rows that break the rules of ``protocol``.
    """
    steps = (*study.steps, page_step(out))
    behind = False  # whether a step has run, so that those after it must
    for number, step in enumerate(steps, start=1):
        if step.name == "page":
            publish(study, out)
        if not behind and is_finished(step, out):
            _say(console, f"{number}/{len(steps)} {step.name}: done before")
            continue
        behind = True
        status = _run_step(step, out, workers, f"{number}/{len(steps)} {step.name}", console)
        if status:
            _say(console, f"stopped at step {step.name}; the same command goes on from there")
            return status
    _say(console, f"{study.title}: page {out / 'page' / 'index.html'}, rows {out / RESULTS_FILE}")
    return 0


def page_step(out: Path) -> Step:
    """The last step of every study: it reads what ``publish`` wrote, so other results draw the page anew."""
    names = (STUDY_FILE, RESULTS_FILE)
    return Step(
        "page",
        ("intervention", "page", str(out)),
        out / "page" / "index.html",
        lambda: {out / name: (out / name).read_text(encoding="utf-8") for name in names},
    )


def is_finished(step: Step, out: Path) -> bool:
    """Whether it has finished as it is asked for now: same command, same files, and what it made is still there."""
    marker = _marker(step, out)
    return marker.exists() and step.done.exists() and read_json(marker)["asked"] == _asked(step, _files(step))


def _run_step(step: Step, out: Path, workers: int, label: str, console: Console) -> int:
    """Returns 0 when it has finished, 128 + n when signal n told us to stop. Raises ``StudyError`` when it failed."""
    files = _files(step)
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _write_text(path, text)
    arguments = [argument.replace(WORKERS, str(workers)) for argument in step.command]
    log, began = out / "logs" / f"{step.name}.log", time.monotonic()
    end = run_command(arguments, log, label, console)
    if end.code and end.stopped_by:
        return STOPPED + end.stopped_by
    failed = end.code != 0 and (end.code < 0 or step.enough is None or not step.enough())
    if failed or not step.done.exists():
        why = str(end) if failed else f"ended well, but {step.done} is not there"
        said = "\n".join(f"  {line}" for line in last_lines(log, _SHOWN_LINES)) or "  (it printed nothing)"
        raise StudyError(
            f"step {step.name} {why}. The last lines of {log}:\n{said}\n"
            f"The command was: nmm {' '.join(arguments)}\n"
            "Put right what it says and run the same command again: it goes on with this step"
        )
    seconds = time.monotonic() - began
    write_json(_marker(step, out), {"asked": _asked(step, files), "seconds": round(seconds, 1)})
    _say(console, f"{label}: {duration(seconds)}")
    return STOPPED + end.stopped_by if end.stopped_by else 0


def _files(step: Step) -> Mapping[Path, str]:
    return step.files() if step.files is not None else {}


def _marker(step: Step, out: Path) -> Path:
    return out / "steps" / f"{step.name}.json"


def _asked(step: Step, files: Mapping[Path, str]) -> dict[str, Any]:
    """What a marker compares. The number of workers is not in it: it changes no result."""
    digests = {str(path): hashlib.sha256(text.encode()).hexdigest()[:16] for path, text in files.items()}
    return {"command": list(step.command), "files": digests}


# ---------------------------------------------------------------------------------------------------------------------
# the two files that analysis reads


def publish(study: Study, out: Path) -> None:
    """Collect the rows and write results.jsonl and study.json. Raises ``StudyError`` for rows that are none, and for a
    file of a finished step that is gone."""
    try:
        rows = study.collect(out)
    except FileNotFoundError as error:
        raise StudyError(
            f"{error.filename} is not there any more, so the rows of {out} cannot be collected again: put it back, or "
            f"remove the marker of the step that made it from {out / 'steps'} and run the study again. Its page is "
            f"drawn from {RESULTS_FILE} alone: nmm intervention page {out}"
        ) from error
    check_rows(study, rows)
    _write_text(out / RESULTS_FILE, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    write_json(out / STUDY_FILE, as_json(study))


def as_json(study: Study) -> dict[str, Any]:
    """Everything of a study but what runs."""
    kept = [f.name for f in dataclasses.fields(study) if f.name not in ("steps", "collect", "arms", "metrics")]
    return {
        "schema": SCHEMA,
        **{name: getattr(study, name) for name in kept},
        "arms": [dataclasses.asdict(arm) for arm in study.arms],
        "metrics": [dataclasses.asdict(metric) for metric in study.metrics],
    }


def check_rows(study: Study, rows: list[dict[str, Any]]) -> None:
    """Raise ``StudyError`` for a row without its keys, of no arm, without a metric, or with a number that is none; and
    for an arm without rows, since a page must not leave it out silently."""
    names, arms = [metric.name for metric in study.metrics], [arm.name for arm in study.arms]
    for number, row in enumerate(rows, start=1):
        where = f"study {study.method}: row {number} of its results"
        missing = [key for key in ROW_KEYS if key not in row]
        if missing:
            raise StudyError(f"{where} lacks {', '.join(missing)}: {row}")
        if row["arm"] not in arms:
            raise StudyError(f"{where}: arm {row['arm']!r} is not one of {', '.join(arms)}")
        if not any(_is_number(row.get(name)) for name in names):
            raise StudyError(f"{where} has none of the metrics {', '.join(names)}: {row}")
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise StudyError(f"{where}: {key} is {value}; leave out, or set to null, what was not measured")
        if not all(_is_number(row[key]) and row[key] >= 0 for key in ("flops", "charged")):
            raise StudyError(f"{where}: flops={row['flops']!r} and charged={row['charged']!r} must be numbers >= 0")
    silent = [name for name in arms if all(row["arm"] != name for row in rows)]
    if silent:
        raise StudyError(f"study {study.method}: no results of {', '.join(silent)}; see the logs of its runs")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
