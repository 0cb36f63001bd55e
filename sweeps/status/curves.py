"""Loss curves of many runs, thinned: the attempts of a run joined, and what a resumed run did twice kept apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.record import RecordError, attempts
from sweeps.rows import some_rows
from sweeps.status.states import RunState

MOST_CURVES = 1200
MOST_POINTS = 200  # of one curve
POINTS_OF_ALL = 120_000  # a page of some megabytes
FEWEST_POINTS = 24
URGENT = ("running", "stale", "failed", "diverged", "interrupted")

Segment = list[list[float]]  # [steps], [losses]: nats per token, training rows of one attempt


@dataclass(frozen=True)
class Curve:
    """``kept``: the steps that count, one list of points. ``lost``: what later attempts made again, by attempt."""

    kept: Segment
    lost: list[Segment]
    resumed_at: list[int]


@dataclass
class Curves:
    """Reads the curves of a sweep again and again; files that did not change are not opened twice."""

    directory: Path
    _known: dict[Path, tuple[tuple[int, ...], Segment]] = field(default_factory=dict)

    def read(self, states: Sequence[RunState]) -> dict[str, Curve]:
        """Run id -> curve, of at most ``MOST_CURVES`` runs: those in trouble and at work, then evenly chosen ones."""
        chosen = choose([state for state in states if state.attempts], MOST_CURVES)
        points = min(MOST_POINTS, max(FEWEST_POINTS, POINTS_OF_ALL // max(1, len(chosen))))
        found = {state.run.run_id: self._curve(state.run.run_id, points) for state in chosen}
        return {run: curve for run, curve in found.items() if curve is not None}

    def _curve(self, run: str, points: int) -> Curve | None:
        try:
            segments = [self._segment(attempt / "metrics.jsonl", points) for attempt in attempts(self.directory / run)]
        except (OSError, RecordError):
            return None  # its state says "unreadable" and why
        return join([segment for segment in segments if segment[0]])

    def _segment(self, path: Path, points: int) -> Segment:
        try:
            seen = os.stat(path)
        except FileNotFoundError:
            return [[], []]
        stamp = (seen.st_ino, seen.st_size, seen.st_mtime_ns, points)
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = stamp, _losses(some_rows(path, points))
        return self._known[path][1]


def choose(states: Sequence[RunState], most: int) -> list[RunState]:
    """At most ``most`` of them: the urgent ones first, the rest evenly spaced in planned order."""
    if len(states) <= most:
        return list(states)
    urgent = [state for state in states if state.state in URGENT][:most]
    others = [state for state in states if state.state not in URGENT]
    room = most - len(urgent)
    return urgent + [others[i * len(others) // room] for i in range(room)]


def _losses(rows: Sequence[dict[str, Any]]) -> Segment:
    steps: list[float] = []
    losses: list[float] = []
    for row in rows:
        loss = row.get("train_loss")
        if isinstance(loss, int | float) and loss > 0 and loss < float("inf"):
            steps.append(row["step"])
            losses.append(float(f"{loss:.4g}"))
    return [steps, losses]


def join(segments: Sequence[Segment]) -> Curve | None:
    """One curve of the attempts, oldest first: each counts up to where a later one goes on. None without points."""
    if not segments:
        return None
    kept: Segment = [[], []]
    lost: list[Segment] = []
    end = float("inf")
    for steps, losses in reversed(segments):
        cut = sum(step < end for step in steps)
        kept = [steps[:cut] + kept[0], losses[:cut] + kept[1]]
        if cut < len(steps):
            lost.append([steps[max(0, cut - 1) :], losses[max(0, cut - 1) :]])
        end = min(end, steps[0])
    return Curve(kept, lost[::-1], [int(steps[0]) for steps, _ in segments[1:]])
