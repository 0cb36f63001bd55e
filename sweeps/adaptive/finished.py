"""What of a sweep is finished: its points, its trunks, and what must still be run before more is planned."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm import record
from nmm.record import RecordError, read_record
from sweeps.manifest import Entry, SweepError


@dataclass(frozen=True)
class Finished:
    """records: of everything done, by run id. open: run ids without an end (not done, not diverged), in order.
    diverged: run ids that will never be points."""

    records: dict[str, dict[str, Any]]
    open: tuple[str, ...]
    diverged: tuple[str, ...]

    @property
    def points(self) -> int:
        """Finished points of the law."""
        return sum(values["role"] != "trunk" for values in self.records.values())


def finished(directory: Path, entries: Sequence[Entry]) -> Finished:
    """Read the records of every line. Raises ``RecordError`` for a damaged one."""
    records, open_runs, diverged = {}, [], []
    for entry in entries:
        run = directory / entry.run_id
        found = read_record(run)
        if found is not None and found["status"] == "done":
            records[entry.run_id] = found
        elif found is not None and found["status"] == "diverged":
            diverged.append(entry.run_id)
        else:
            open_runs.append(entry.run_id)
    lost = {e.run_id for e in entries if e.parent_id in diverged}  # branches of a diverged trunk can never start
    return Finished(records, tuple(run for run in open_runs if run not in lost), (*diverged, *sorted(lost)))


def check_all_ended(directory: Path, found: Finished) -> None:
    """Raise ``SweepError`` while runs of the manifest have no end: what they tell would be paid for twice."""
    if not found.open:
        return
    first = found.open[0]
    raise SweepError(
        f"{len(found.open)} planned runs are not finished (first: {first}, {_state(directory / first)}); run them: "
        f"`nmm sweep launch {directory}`, or see why not: `nmm sweep status {directory}`"
    )


def _state(run: Path) -> str:
    try:
        return record.status(run)
    except RecordError:
        return "unreadable"


def tokens_per_position(found: Finished, entries: Sequence[Entry], group: str) -> float:
    """D of the records over positions trained on: rows are packed, not always full. Raises ``SweepError`` when no point
    of ``group`` is finished."""
    ratios = []
    for entry in entries:
        values = found.records.get(entry.run_id)
        if values is not None and entry.role == "branch" and entry.shape[0] == group:
            ratios.append(values["tokens"]["total"] / (entry.config.total_steps * entry.config.tokens_per_step))
    if not ratios:
        raise SweepError(f"no point of {group} is finished, so there is nothing to go on from")
    return statistics.median(ratios)


def useful_points(found: Finished, entries: Sequence[Entry], excluded: frozenset[str]) -> dict[str, str]:
    """Trunk id -> one of its finished branches that the fit used."""
    of_trunk: dict[str, str] = {}
    for entry in entries:
        if entry.role == "branch" and entry.run_id in found.records and entry.run_id not in excluded:
            of_trunk.setdefault(entry.parent_id, entry.run_id)
    return of_trunk
