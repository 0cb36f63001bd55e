"""What came of a chaos run: every record against its calm twin, and how much work was made twice."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from nmm.record import attempts, read_record

CHECKPOINT_EVERY = 10


def rows(attempt: Path) -> list[int]:
    """Steps of training that an attempt has logged; a line that a kill has cut is left out."""
    file = attempt / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [row["step"] for row in map(json.loads, lines) if "train_loss" in row]


def work_lost(run: Path) -> list[int]:
    """For every attempt after which another had to go on: steps it had made and that were made again."""
    steps = [made for path in attempts(run) if (made := rows(path))]
    return [max(0, before[-1] - (after[0] - 1)) for before, after in zip(steps, steps[1:], strict=False)]


@dataclass(frozen=True)
class Outcome:
    """Figures of one chaos run. ``wrong``: runs without a record, or with another result than the calm run's."""

    runs: int
    injected: dict[str, int]
    launches: dict[int, int]
    attempts: int
    most_attempts: int
    lost_median: float
    lost_max: int
    interruptions: int
    steps: int
    alarms: int
    wrong: list[str]
    calm_seconds: float
    seconds: float

    @property
    def good(self) -> bool:
        """All records right, no alarm."""
        return not self.wrong and not self.alarms


def outcome(
    runs: list[str],
    calm: Path,
    disturbed: Path,
    injected: dict[str, int],
    launches: dict[int, int],
    calm_seconds: float,
    seconds: float,
) -> Outcome:
    """Compare every run in the directory ``disturbed`` with its twin in ``calm``."""
    wrong = []
    for run in runs:
        expected, found = read_record(calm / run), read_record(disturbed / run)
        assert expected is not None and expected["status"] == "done", f"the calm sweep did not finish {run}"
        if found is None or found["status"] != "done" or found["result"] != expected["result"]:
            wrong.append(run)
    counts = [len(attempts(disturbed / run)) for run in runs]
    lost = [steps for run in runs for steps in work_lost(disturbed / run)]
    return Outcome(
        runs=len(runs),
        injected=injected,
        launches=launches,
        attempts=sum(counts),
        most_attempts=max(counts),
        lost_median=statistics.median(lost) if lost else 0,
        lost_max=max(lost, default=0),
        interruptions=len(lost),
        steps=sum(len(rows(path)) for run in runs for path in attempts(disturbed / run)),
        alarms=len(list(disturbed.glob("*/alarm-*.json"))),
        wrong=wrong,
        calm_seconds=round(calm_seconds, 1),
        seconds=round(seconds, 1),
    )


def show(found: Outcome) -> None:
    """The table."""
    lines = [(f"injected: {event}", count) for event, count in found.injected.items()]
    lines += [
        ("launches, by exit status", ", ".join(f"{n} x {status}" for status, n in sorted(found.launches.items()))),
        ("attempts", f"{found.attempts} for {found.runs} runs, at most {found.most_attempts} for one"),
        ("runs gone on with", found.interruptions),
        ("steps made again then", f"median {found.lost_median:g}, max {found.lost_max} (a checkpoint every "
                                  f"{CHECKPOINT_EVERY} steps)"),
        ("steps made in all", found.steps),
        ("wall time", f"{found.seconds:.0f} s (calm, on this machine: {found.calm_seconds:.0f} s)"),
        ("alarms", found.alarms),
        ("records right", f"{found.runs - len(found.wrong)} of {found.runs}"),
    ]  # fmt: skip
    for name, value in lines:
        print(f"{name:34} {value}")
    for run in found.wrong:
        print(f"WRONG: {run}")
