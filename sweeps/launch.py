"""``nmm sweep launch``: run what is not done, in persistent worker processes, until nothing more can run.

Records on disk are the only truth: nothing here has to survive, so a launch can be killed and repeated at any moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from nmm.record import DISK_ERRNOS
from sweeps import manifest
from sweeps.estimate import estimate, observe, published
from sweeps.lock import LaunchError, only_launcher
from sweeps.manifest import Entry
from sweeps.plan import describe, duration
from sweeps.pool import Inbox, Worker, split_cores, start_worker, usable_cores
from sweeps.progress import Display, Tracker
from sweeps.room import lack_of_room
from sweeps.schedule import FINISHED, SAME_AGAIN, Schedule
from sweeps.status import note_failure, run_status
from sweeps.worker import DEFAULT_RUNNER

TICK_SECONDS = 0.25
LOOK_ELSEWHERE_SECONDS = 2.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
EARLY_DEATHS = 2  # workers that die while starting, in a row, before the launch gives up


@dataclass(frozen=True)
class Options:
    """``workers`` None: as many as cores allow. ``stop_seconds``: how long runs may take to save when asked to stop.

    ``tries``: by run, how many count against ``retries`` before this launch began. ``scheduled``: a scheduler started
    this process and ends it, so a signal to a worker means all of us, and several signals mean no more than one.
    """

    workers: int | None = None
    retries: int = 1
    runner: str = DEFAULT_RUNNER
    pin: bool = True
    stop_seconds: float = 30.0
    log_name: str = "worker"
    tries: Mapping[str, int] = field(default_factory=dict)
    scheduled: bool = False
    changed_code: str = "refuse"  # as trainer.changed_code, for every run of this launch


@dataclass(frozen=True)
class Result:
    """How a launch ended; ``stopped_by`` is a signal's number, 0 without one."""

    all_done: bool
    stopped_by: int


def launch(directory: Path, options: Options, console: Console) -> int:
    """Run everything in the manifest that is not done. Returns the exit status: 0 only if all of it is done.

    Raises ``LaunchError`` when another launcher holds the directory or workers cannot start, ``ManifestError``, and
    ``ConfigError`` for options that do not fit this machine.
    """
    directory = directory.absolute()
    entries = manifest.read(directory)
    try:
        with only_launcher(directory):
            result = run_entries(directory, entries, entries, options, console)
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise LaunchError(f"{directory} cannot be written ({error}); make room there, or make it writable") from error
    if result.stopped_by:
        return 128 + result.stopped_by
    return 0 if result.all_done else 1


def fresh_estimates(directory: Path, entries: Sequence[Entry]) -> list[Entry]:
    """The lines with their estimates by the speeds that the records under ``directory`` show."""
    speeds = observe(published(directory), [entry.config for entry in entries])
    return [dataclasses.replace(e, estimate=estimate(e.config, speeds)) for e in entries]


def run_entries(
    directory: Path, everything: Sequence[Entry], chosen: Sequence[Entry], options: Options, console: Console
) -> Result:
    """Run ``chosen`` lines of the manifest ``everything``; parents may lie outside."""
    if options.changed_code == "accept":
        chosen = [_accepting(entry) for entry in chosen]
    statuses = {entry.run_id: run_status(directory / entry.run_id) for entry in everything}
    schedule = Schedule(fresh_estimates(directory, chosen), statuses, options.retries, options.tries)
    began, before = time.monotonic(), schedule.counts()["done"]
    stopped_by = 0
    if not schedule.over:
        threads = max(entry.config.trainer.threads for entry in chosen)
        of_a_run = max(entry.config.trainer.threads * entry.config.trainer.devices for entry in chosen)
        cores = split_cores(options.workers, of_a_run, usable_cores()) if options.pin else [[]] * (options.workers or 1)
        stopped_by = _Launch(directory, schedule, options, cores, threads, console).run()
    ran = schedule.counts()["done"] - before
    line = _closing_line(directory, schedule, ran, time.monotonic() - began, stopped_by)
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    return Result(schedule.all_done, stopped_by)


def _accepting(entry: Entry) -> Entry:
    trainer = dataclasses.replace(entry.config.trainer, changed_code="accept")
    return dataclasses.replace(entry, config=dataclasses.replace(entry.config, trainer=trainer))


def _closing_line(directory: Path, schedule: Schedule, ran: int, seconds: float, stopped_by: int) -> str:
    counts = schedule.counts()
    total = counts["total"]
    if schedule.all_done:
        now = f"{ran} now in {duration(seconds)}" if ran else "nothing left to run"
        return f"all {total} runs are done ({now}); next: `nmm sweep table {directory} --out {directory}/runs.parquet`"
    if stopped_by:
        name = signal.Signals(stopped_by).name
        done = f"{counts['done']} of {total} runs done"
        return f"stopped by {name} with {done}; run `nmm sweep launch {directory}` again to go on"
    bad = ", ".join(f"{counts[name]} {name}" for name in ("failed", "blocked", "diverged") if counts[name])
    causes = [*schedule.failed.items(), *schedule.blocked.items()]
    first = f"; first: {causes[0][0]}: {causes[0][1]}" if causes else ""
    where = f"See `nmm sweep status {directory}`; launch again to retry"
    return f"{bad}, {counts['done']} done of {total} runs{first}. {where}"


class _Launch:
    """One pass of workers over a schedule."""

    def __init__(
        self,
        directory: Path,
        schedule: Schedule,
        options: Options,
        cores: Sequence[Sequence[int]],
        threads: int,
        console: Console,
    ) -> None:
        self.directory, self.schedule, self.options = directory, schedule, options
        self.cores, self.threads = cores, threads
        self.tracker = Tracker(directory, min(len(cores), len(schedule.waiting)) or 1)
        self.display = Display(console, self.tracker, schedule)
        self.inbox: Inbox = queue.Queue()
        self.workers: dict[int, Worker] = {}
        self.stop_signal = 0
        self.stop_at_once = False
        self.early_deaths = 0
        self.next_look = time.monotonic() + LOOK_ELSEWHERE_SECONDS

    def run(self) -> int:
        """Work until the schedule is over or a signal arrives; returns that signal's number, else 0."""
        with self._signals(), self.display:
            if self.schedule.elsewhere:
                self.display.say(
                    f"{len(self.schedule.elsewhere)} runs belong to another process now; waiting for them last"
                )
            try:
                while not (self.schedule.over or self.stop_signal):
                    self._fill_slots()
                    self._assign()
                    self.display.update()
                    self._hear(TICK_SECONDS)
                    self._look_elsewhere()
            finally:
                self._shut_down()
        return self.stop_signal

    # -- signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Each of ``STOP_SIGNALS`` asks for a stop (one that is ignored, as under nohup, stays ignored)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = [name for name in STOP_SIGNALS if signal.getsignal(name) is not signal.SIG_IGN]
        before = {name: signal.signal(name, self._on_signal) for name in names}
        try:
            yield
        finally:
            late = self.options.scheduled and self.stop_signal  # more of them may come while this process leaves
            for name, handler in before.items():
                signal.signal(name, signal.SIG_IGN if late else handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # a person's second one does not wait for runs to save; a scheduler sends several for one stop
        self.stop_at_once = bool(self.stop_signal) and not self.options.scheduled
        self.stop_signal = self.stop_signal or signum

    # -- workers ------------------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        wanted = min(len(self.cores), len(self.schedule.waiting) + len(self.schedule.running))
        free = [slot for slot in range(len(self.cores)) if slot not in self.workers]
        for slot in free[: max(0, wanted - len(self.workers))]:
            log = self.directory / "launcher" / f"{self.options.log_name}-{slot}.log"
            runner = self.options.runner
            self.workers[slot] = start_worker(slot, self.cores[slot], self.threads, runner, log, self.inbox)

    def _assign(self) -> None:
        for slot, worker in self.workers.items():
            if not worker.idle:
                continue
            entry = self.schedule.take(slot)
            if entry is None:
                return
            self.tracker.started(slot, entry)
            worker.send(entry, self.directory / entry.run_id)

    def _hear(self, seconds: float) -> None:
        """Handle the next event, and any that are already there, waiting at most ``seconds`` for the first."""
        with contextlib.suppress(queue.Empty):
            self._handle(*self.inbox.get(timeout=seconds))
            while True:
                self._handle(*self.inbox.get_nowait())

    def _handle(self, worker: Worker, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                worker.ready, self.early_deaths = True, 0
            case "done":
                self._done(worker)
            case "failed":
                self._failed(worker, event["error"])
            case "broken":
                worker.error = event["error"]
                self.early_deaths = EARLY_DEATHS  # an import that fails will fail again
            case "interrupted":
                worker.error = "the run was asked to stop by a signal to its worker"
                if self.options.scheduled:
                    self.stop_signal = self.stop_signal or signal.SIGTERM
            case "exit":
                self._exited(worker)

    def _done(self, worker: Worker) -> None:
        entry = worker.current
        assert entry is not None
        status = run_status(self.directory / entry.run_id)
        if status not in FINISHED:
            self._failed(worker, f"the runner returned without publishing a record (the run is {status})")
            return
        worker.current = None
        self.tracker.ended(worker.slot, finished=True)
        self.schedule.finish(entry.run_id, status)
        if status == "diverged":
            self.display.say(f"diverged: {entry.run_id} ({describe(entry.config)}); its record says where")

    def _failed(self, worker: Worker, error: str, cause: str = "") -> None:
        entry = worker.current
        assert entry is not None
        if run_status(self.directory / entry.run_id) in FINISHED:
            return self._done(worker)  # what came after the record was published changes nothing
        worker.current = None
        self.tracker.ended(worker.slot, finished=False)
        if self.stop_signal:
            return  # cut short by us: neither a failure nor a try
        tries = self.schedule.tries[entry.run_id]
        try:
            known = note_failure(self.directory, entry.run_id, error, worker.log, tries, cause)
        except OSError:  # no room for the note either
            known = "disk"
        again = self.schedule.fail(entry.run_id, error, hopeless=known in SAME_AGAIN)
        self.display.say(f"{'trying again' if again else 'failed'}: {entry.run_id}: {error}")
        if known == "disk" and (why := lack_of_room(self.directory, entry.config)):
            self.schedule.hold(f"not started, as {self.directory} has no room ({why})")
            self.display.say(
                f"no further runs are started: {self.directory} has no room ({why}); make some, launch again"
            )

    def _exited(self, worker: Worker) -> None:
        del self.workers[worker.slot]
        if worker.current is not None:
            self._failed(worker, worker.describe_end(), worker.cause_of_end())
        elif not worker.ready and not self.stop_signal:
            self.early_deaths += 1
            if self.early_deaths >= EARLY_DEATHS:
                raise LaunchError(f"workers cannot start: {worker.describe_end()}; the traceback is in {worker.log}")

    def _look_elsewhere(self) -> None:
        """Runs that another process had when we began: take over what it lets go of."""
        if not self.schedule.elsewhere or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_ELSEWHERE_SECONDS
        for run in sorted(self.schedule.elsewhere):
            status = run_status(self.directory / run)
            if status in FINISHED:
                self.schedule.finish(run, status)
            elif status != "running":
                self.schedule.release(run)

    def _shut_down(self) -> None:
        """End every worker: politely when idle, by SIGTERM when stopping, by SIGKILL when out of patience."""
        for worker in self.workers.values():
            if worker.idle:
                worker.close()
            else:
                worker.terminate()
        deadline = time.monotonic() + self.options.stop_seconds
        while self.workers and time.monotonic() < deadline and not self.stop_at_once:
            self._hear_while_stopping()
        for worker in self.workers.values():
            worker.kill()
        while self.workers:
            self._hear_while_stopping()

    def _hear_while_stopping(self) -> None:
        with contextlib.suppress(queue.Empty):
            worker, event = self.inbox.get(timeout=TICK_SECONDS)
            if event["event"] == "exit":
                del self.workers[worker.slot]
            elif event["event"] == "done":
                self._done(worker)
                worker.close()
            elif event["event"] in ("failed", "ready"):
                worker.close()
