"""Which run next: readiness, retries and the choice of a worker's next run. Pure bookkeeping, no processes.

A branch is ready when its trunk is done. A worker stays with the (arch, size) whose code it has compiled, trunks first;
then takes the untouched shape with the most work left; and only when there is none helps another worker with its shape.
So an idle worker never waits while anything is ready, and the longest work starts first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sweeps.manifest import Entry

FINISHED = ("done", "diverged")  # has a record: running it again would change nothing
SAME_AGAIN = ("oom", "config", "data", "disk")  # causes: the same run in the same place would end the same way


class Schedule:
    """The state of one launch over ``entries``; ``statuses`` covers the whole manifest, so parents may lie outside.

    ``tries``: by run, what counts against ``retries`` already.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        statuses: Mapping[str, str],
        retries: int,
        tries: Mapping[str, int] | None = None,
    ) -> None:
        self.entries = {entry.run_id: entry for entry in entries}
        self.retries = retries
        self.done = {run for run, status in statuses.items() if status == "done"}
        self.diverged = {run for run, status in statuses.items() if status == "diverged"}
        self.elsewhere = {run for run in self.entries if statuses[run] == "running"}
        self.waiting = {run: e for run, e in self.entries.items() if statuses[run] not in (*FINISHED, "running")}
        self.running: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.tries: Counter[str] = Counter(tries or {})
        self._shape_of: dict[int, tuple[str, str]] = {}
        self._block()

    @property
    def over(self) -> bool:
        """Nothing runs, nothing can start, and no other process works on a run of ours."""
        return not (self.waiting or self.running or self.elsewhere)

    @property
    def all_done(self) -> bool:
        """Every run of this launch has a record that says done."""
        return self.entries.keys() <= self.done

    def counts(self) -> dict[str, int]:
        """Runs of this launch by state; the values add up to ``total``."""
        groups: dict[str, Iterable[str]] = {
            "done": self.done & self.entries.keys(),
            "running": {*self.running, *self.elsewhere},
            "waiting": self.waiting,
            "failed": self.failed,
            "blocked": self.blocked,
            "diverged": self.diverged & self.entries.keys(),
        }
        return {name: len(list(runs)) for name, runs in groups.items()} | {"total": len(self.entries)}

    def take(self, worker: int) -> Entry | None:
        """Give ``worker`` its next run, or None while nothing is ready."""
        ready = [e for e in self.waiting.values() if not e.parent_id or e.parent_id in self.done]
        if not ready:
            return None
        shape = self._choose_shape(worker, {e.shape for e in ready})
        entry = min((e for e in ready if e.shape == shape), key=_urgency)
        del self.waiting[entry.run_id]
        self.running[entry.run_id] = worker
        self.tries[entry.run_id] += 1
        self._shape_of[worker] = shape
        return entry

    def _choose_shape(self, worker: int, ready: set[tuple[str, str]]) -> tuple[str, str]:
        mine = self._shape_of.get(worker)
        if mine in ready:
            return mine
        taken = {shape for other, shape in self._shape_of.items() if other != worker}
        work: dict[tuple[str, str], float] = defaultdict(float)
        for entry in self.waiting.values():
            work[entry.shape] += entry.estimate.seconds
        return max(ready - taken or ready, key=lambda shape: (work[shape], shape))

    def finish(self, run: str, status: str) -> None:
        """A run published its record with ``status`` (done or diverged)."""
        self.running.pop(run, None)
        self.elsewhere.discard(run)
        (self.done if status == "done" else self.diverged).add(run)
        self._block()

    def fail(self, run: str, error: str, hopeless: bool = False) -> bool:
        """A run crashed. True when it will be tried again; otherwise it is failed and its branches are blocked."""
        self.running.pop(run)
        if self.tries[run] <= self.retries and not hopeless:
            self.waiting[run] = self.entries[run]
            return True
        self.failed[run] = error
        self._block()
        return False

    def hold(self, reason: str) -> None:
        """Start no further run: ``reason`` stops all that wait, and what runs now may end."""
        self.blocked |= dict.fromkeys(self.waiting, reason)
        self.waiting.clear()

    def release(self, run: str) -> None:
        """Another process let go of this run without finishing it: it is ours to run."""
        self.elsewhere.discard(run)
        self.waiting[run] = self.entries[run]

    def _block(self) -> None:
        """A branch can run only if its trunk is done or still on its way in this launch."""
        coming = self.waiting.keys() | self.running.keys() | self.elsewhere
        for run, entry in list(self.waiting.items()):
            parent = entry.parent_id
            if not parent or parent in self.done or parent in coming:
                continue
            del self.waiting[run]
            if parent in self.failed:
                self.blocked[run] = f"its trunk {parent} failed"
            elif parent in self.diverged:
                self.blocked[run] = f"its trunk {parent} diverged"
            else:
                self.blocked[run] = f"its trunk {parent} is not done and not part of this launch; run the trunks first"


def _urgency(entry: Entry) -> tuple[bool, float, str]:
    return entry.role == "branch", -entry.estimate.seconds, entry.run_id
