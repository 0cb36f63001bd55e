"""The whole sweep at one moment: counts, causes with their commands, work spent and left."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nmm.record import RecordError
from sweeps.manifest import FILE_NAME, SweepError
from sweeps.slurm.queue import Task, runs_in_queue
from sweeps.slurm.submissions import Submission, read_submissions
from sweeps.status.fixes import fix, go_on, quoted
from sweeps.status.planned import Planned, Shape, read_planned
from sweeps.status.states import STATES, RunState, Surroundings, as_row, look

MOST_NAMED = 5  # runs with most attempts
IN_VAIN = ("failed", "diverged", "unreadable", "blocked")


@dataclass(frozen=True)
class Problem:
    """Runs that stand still for one reason: ``kind`` is a cause of failure, or a state, or "alarm"."""

    kind: str
    runs: list[str]
    error: str
    log: str
    fix: str


@dataclass(frozen=True)
class Report:
    """What files and queue said. FLOPs are by the plan's estimates; ``flops_spent`` counts steps made twice as well.

    seconds_left: of one worker. tokens_per_second: of all running runs together.
    """

    directory: Path
    sweep: str
    states: list[RunState]
    problems: list[Problem]
    warnings: list[str]
    flops_planned: float
    flops_useful: float
    flops_spent: float
    seconds_left: float
    tokens_per_second: float
    slurm: bool
    written: str

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state; states without a run are left out."""
        counted = Counter(state.state for state in self.states)
        return {name: counted[name] for name in STATES if counted[name]}

    @property
    def causes(self) -> dict[str, int]:
        """Failed runs by cause."""
        return dict(Counter(s.cause for s in self.states if s.state == "failed").most_common())

    @property
    def arms(self) -> dict[str, tuple[int, int]]:
        """Arm -> how many of its runs are done, and how many it has. Empty without arms."""
        done: dict[str, tuple[int, int]] = {}
        for state in self.states:
            if state.run.arm:
                finished, total = done.get(state.run.arm, (0, 0))
                done[state.run.arm] = finished + (state.state == "done"), total + 1
        return dict(sorted(done.items()))

    @property
    def alarms(self) -> list[str]:
        """Files that say that two finishers of a run disagreed."""
        return [path for state in self.states for path in state.alarms]

    @property
    def all_done(self) -> bool:
        """Every run has its record, and none has two."""
        return self.counts == {"done": len(self.states)} and not self.alarms

    @property
    def moving(self) -> bool:
        """Something runs, or SLURM will start it."""
        return bool(self.counts.get("running") or self.counts.get("queued"))

    @property
    def attempts(self) -> int:
        """Of all runs together."""
        return sum(state.attempts for state in self.states)

    @property
    def most_attempts(self) -> list[tuple[str, int]]:
        """The runs that needed most attempts, of those that needed more than one."""
        several = sorted((-s.attempts, s.run.run_id) for s in self.states if s.attempts > 1)
        return [(run, -count) for count, run in several[:MOST_NAMED]]

    @property
    def next_command(self) -> str:
        """What a person does next; "" while it only has to run."""
        if self.all_done:
            return f"nmm sweep table {quoted(self.directory)} --out {quoted(self.directory / 'runs.parquet')}"
        return "" if self.moving else go_on(self.directory, self.slurm)

    def as_json(self) -> dict[str, Any]:
        """Plain values only: what ``--json`` writes and the page shows."""
        return {
            "directory": str(self.directory),
            "sweep": self.sweep,
            "written": self.written,
            "counts": self.counts,
            "causes": self.causes,
            "arms": {name: list(counts) for name, counts in self.arms.items()},
            "problems": [asdict(problem) for problem in self.problems],
            "alarms": self.alarms,
            "warnings": self.warnings,
            "attempts": self.attempts,
            "most_attempts": [list(pair) for pair in self.most_attempts],
            "flops": {"planned": self.flops_planned, "useful": self.flops_useful, "spent": self.flops_spent},
            "seconds_left": self.seconds_left,
            "tokens_per_second": self.tokens_per_second,
            "next": self.next_command,
            "runs": [as_row(state) for state in self.states],
        }


@dataclass
class Reader:
    """Reads one sweep again and again: finished runs whose directories did not change are not opened twice."""

    directory: Path
    _planned: tuple[tuple[int, ...], list[Planned]] | None = None
    _finished: dict[str, tuple[tuple[int, ...], RunState]] = field(default_factory=dict)

    def read(self) -> Report:
        """One pass. Raises ``ManifestError`` for a missing or damaged manifest."""
        planned = self._lines()
        around, warnings = surroundings(self.directory)
        states = _blocked([self._state(run, around) for run in planned])
        if any(s.silent_seconds is not None for s in states) and around.clock.own:
            warnings.append(f"{self.directory} is not writable here: silences are measured by this machine's clock")
        return make_report(self.directory, states, warnings, bool(around.submissions))

    def _lines(self) -> list[Planned]:
        path = self.directory / FILE_NAME
        stamp = _stamps(path) if path.exists() else ()
        if self._planned is None or self._planned[0] != stamp:
            self._planned = stamp, read_planned(self.directory)
        return self._planned[1]

    def _state(self, run: Planned, around: Surroundings) -> RunState:
        path = self.directory / run.run_id
        known = self._finished.get(run.run_id)
        if known is not None and known[0] == _stamps(path, path / "attempts", path / "record.json"):
            return known[1]
        state = look(run, around)
        if state.state in ("done", "diverged"):
            self._finished[run.run_id] = _stamps(path, path / "attempts", path / "record.json"), state
        return state


def _stamps(*paths: Path) -> tuple[int, ...]:
    values: list[int] = []
    for path in paths:
        try:
            seen = path.stat()
        except FileNotFoundError:
            values.append(0)
            continue
        values += [seen.st_mtime_ns, seen.st_ino, seen.st_size]
    return tuple(values)


def surroundings(directory: Path) -> tuple[Surroundings, list[str]]:
    """What was handed to SLURM and what it still has; what could not be found out is said in words."""
    warnings: list[str] = []
    submissions: list[Submission] = []
    queue: Mapping[str, Task] | None = None
    try:
        submissions = read_submissions(directory)
        queue = runs_in_queue(directory)
    except (SweepError, RecordError) as error:
        warnings.append(f"the queue is unknown: {error}")
    return Surroundings(directory, queue, submissions), warnings


def _blocked(states: Sequence[RunState]) -> list[RunState]:
    by_id = {state.run.run_id: state for state in states}
    found = []
    for state in states:
        parent = by_id.get(state.run.parent_id)
        if state.state == "pending" and parent is not None and parent.state in IN_VAIN:
            state = RunState(state.run, "blocked", error=f"its trunk {parent.run.run_id} is {parent.state}")
        found.append(state)
    return found


def make_report(directory: Path, states: list[RunState], warnings: list[str], slurm: bool) -> Report:
    """Everything that can be counted from the states of all runs."""
    running, slow = [s for s in states if s.state == "running"], slowness(states)
    return Report(
        directory=directory,
        sweep=states[0].run.sweep,
        states=states,
        problems=_problems(states, directory, slurm),
        warnings=warnings,
        flops_planned=sum(s.run.flops for s in states),
        flops_useful=sum(_useful_steps(s) * s.run.flops_per_step for s in states),
        flops_spent=sum(max(s.steps_made, _useful_steps(s)) * s.run.flops_per_step for s in states),
        seconds_left=sum(_seconds_left(s, slow) for s in states),
        tokens_per_second=sum(s.tokens_per_second or 0.0 for s in running),
        slurm=slurm,
        written=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )


def _useful_steps(state: RunState) -> int:
    return max(0, state.step - state.run.parent_step)


def slowness(states: Sequence[RunState]) -> dict[Shape | None, float]:
    """Seconds really needed over those planned, by shape of finished runs; under None for shapes without any."""
    seen: dict[Shape, list[float]] = defaultdict(list)
    for state in states:
        if state.state == "done" and state.tokens_per_second and state.run.seconds:
            real = state.run.own_steps * state.run.tokens_per_step / state.tokens_per_second
            seen[state.run.shape].append(real / state.run.seconds)
    by_shape: dict[Shape | None, float] = {shape: statistics.median(ratios) for shape, ratios in seen.items()}
    return by_shape | {None: statistics.median(by_shape.values()) if by_shape else 1.0}


def _seconds_left(state: RunState, slow: dict[Shape | None, float]) -> float:
    if state.state in ("done", "diverged"):
        return 0.0
    if state.seconds_left is not None:
        return state.seconds_left
    share = 1.0 - _useful_steps(state) / max(1, state.run.own_steps)
    return state.run.seconds * share * slow.get(state.run.shape, slow[None])


def _problems(states: Sequence[RunState], directory: Path, slurm: bool) -> list[Problem]:
    groups: dict[str, list[RunState]] = defaultdict(list)
    for state in states:
        if state.alarms:
            groups["alarm"].append(state)
        if state.state == "failed":
            groups[state.cause].append(state)
        elif state.state in ("stale", "unreadable", "diverged"):
            groups["nan" if state.state == "diverged" else state.state].append(state)
    order = sorted(groups, key=lambda kind: (kind != "alarm", -len(groups[kind]), kind))
    return [_problem(kind, groups[kind], directory, slurm) for kind in order]


def _problem(kind: str, group: Sequence[RunState], directory: Path, slurm: bool) -> Problem:
    example = next((state for state in group if state.error), group[0])
    if kind == "alarm":
        error, log = "two attempts finished with different results", example.alarms[0]
    elif kind == "stale":
        error = f"silent for {round(example.silent_seconds or 0) // 60} min; {example.where}"
        log = example.log
    else:
        error, log = example.error, example.log
    runs = [example.run.run_id, *(s.run.run_id for s in group if s is not example)]
    return Problem(kind, runs, error, log, fix(kind, [example, *group], directory, slurm))
