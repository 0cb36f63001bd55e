"""What goes wrong inside a child, arranged before its attempt begins. All can be pickled (with functools.partial)."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from fake_sweep import fill_disk

from nmm.data.loader import TrainLoader
from nmm.data.source import RowSource
from nmm.record import Attempt
from nmm.training import checkpoint, code, run
from nmm.training.module import TrainingModule

Action = Callable[[], Any]


# ---------------------------------------------------------------------------------------------------------------------
# when


def before_step(step: int, action: Action) -> None:
    """``action()`` when the update that makes ``step`` begins."""
    training_step = TrainingModule.training_step

    def disturbed(self: TrainingModule, *arguments: Any) -> Any:
        if self.step + 1 == step:
            action()
        return training_step(self, *arguments)

    TrainingModule.training_step = disturbed  # type: ignore[method-assign]


def before_the_first_step(action: Action) -> None:
    """While the model is built: the attempt has begun, no step has."""
    initial_model = run.initial_model
    run.initial_model = lambda config: (action(), initial_model(config))[1]


def in_evaluation(number: int, action: Action) -> None:
    """At the start of the ``number``-th evaluation of the attempt, counted from 1."""
    evaluate, seen = run.evaluate, []

    def disturbed(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == number:
            action()
        return evaluate(*arguments)

    run.evaluate = disturbed


def in_checkpoint(step: int, moment: str, action: Action) -> None:
    """At one of ``MOMENTS`` of writing the checkpoint of ``step``."""
    name = f"step-{step:09d}"
    match moment:
        case "half of it is written":
            _in_writer(step, action)
        case "before the rename":
            _before_call(os, "replace", lambda source, target, **_: Path(target).name == f"{name}.pt", action)
        case "before its checksum":
            _before_call(os, "replace", lambda source, target, **_: Path(target).name == f"{name}.json", action)
        case "before an older one goes":
            _before_call(Path, "unlink", lambda path, **_: _goes_after(path, name), action)
        case _:
            raise ValueError(moment)


def _goes_after(path: Path, newest: str) -> bool:
    return path.name.startswith("step-") and (path.parent / f"{newest}.json").exists()


MOMENTS = ("half of it is written", "before the rename", "before its checksum", "before an older one goes")


def _in_writer(step: int, action: Action) -> None:
    save = Attempt.save_checkpoint

    def disturbed(self: Attempt, at: int, writer: Callable[[BinaryIO], Any], **options: Any) -> Path:
        def halting(file: BinaryIO) -> None:
            whole = io.BytesIO()
            writer(whole)
            data = whole.getvalue()
            file.write(data[: len(data) // 2])
            file.flush()
            action()
            file.write(data[len(data) // 2 :])

        return save(self, at, halting if at == step else writer, **options)

    Attempt.save_checkpoint = disturbed  # type: ignore[method-assign]


def _before_call(owner: Any, name: str, chosen: Callable[..., bool], action: Action) -> None:
    function = getattr(owner, name)

    def disturbed(*arguments: Any, **options: Any) -> Any:
        if chosen(*arguments, **options):
            action()
        return function(*arguments, **options)

    setattr(owner, name, disturbed)


# ---------------------------------------------------------------------------------------------------------------------
# signals


def send(*signals: signal.Signals) -> None:
    """To this process, one after the other."""
    for signum in signals:
        os.kill(os.getpid(), signum)


def killed_near(step: int, delay: float) -> None:
    """SIGKILL ``delay`` seconds after ``step``, or the first step that this attempt makes, began; at the latest where
    the record would be published.
    """
    training_step, begun = TrainingModule.training_step, threading.Event()

    def kill(*_: Any) -> None:
        send(signal.SIGKILL)

    def disturbed(self: TrainingModule, *arguments: Any) -> Any:
        if self.step + 1 >= step and not begun.is_set():
            begun.set()
            threading.Timer(delay, kill).start() if delay else kill()
        return training_step(self, *arguments)

    TrainingModule.training_step = disturbed  # type: ignore[method-assign]
    run.publish = kill  # type: ignore[assignment]


def killed_in_checkpoint(step: int, moment: str) -> None:
    """SIGKILL at one of ``MOMENTS``."""
    in_checkpoint(step, moment, lambda: send(signal.SIGKILL))


def signalled(moment: str, *signals: signal.Signals) -> None:
    """``signals`` at one of ``PREEMPTIONS``, or at "step N"."""
    match moment:
        case "before step 1":
            before_the_first_step(lambda: send(*signals))
        case "during validation":
            in_evaluation(1, lambda: send(*signals))
        case "during a checkpoint":
            in_checkpoint(9, "half of it is written", lambda: send(*signals))
        case "after the last step":
            in_evaluation(3, lambda: send(*signals))
        case _:
            before_step(int(moment.removeprefix("step ")), lambda: send(*signals))


PREEMPTIONS = ("before step 1", "during validation", "during a checkpoint", "after the last step")


# ---------------------------------------------------------------------------------------------------------------------
# errors


def poisoned(step: int) -> None:
    """One weight becomes NaN before ``step``."""
    training_step = TrainingModule.training_step

    def disturbed(self: TrainingModule, *arguments: Any) -> Any:
        if self.step + 1 == step:
            next(self.model.parameters()).data.view(-1)[0] = float("nan")
        return training_step(self, *arguments)

    TrainingModule.training_step = disturbed  # type: ignore[method-assign]


def out_of_memory(step: int) -> None:
    """Torch is asked for more memory than any machine has."""
    before_step(step, lambda: torch.empty(1 << 52, dtype=torch.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# disks


def no_file_beyond(size: int) -> None:
    """From now on no file of this process may grow beyond ``size`` bytes: a full disk for one who is not root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_disk(moment: str, disk: Path | None) -> None:
    """At one of ``FULL_AT`` the small ``disk`` is full, or, without one, files may not grow any more."""

    def full(size: int) -> None:
        fill_disk(disk) if disk else no_file_beyond(size)

    save, publish = Attempt.save_checkpoint, run.publish

    def saving(self: Attempt, step: int, *arguments: Any, **options: Any) -> Path:
        if step == FULL_AFTER + 1:
            full(1 << 14)
        return save(self, step, *arguments, **options)

    def publishing(*arguments: Any) -> Any:
        full(1 << 10)
        try:
            return publish(*arguments)
        finally:
            no_file_beyond(resource.RLIM_INFINITY)  # this limit is on the process's own error message as well

    match moment:
        case "checkpoint":
            Attempt.save_checkpoint = saving  # type: ignore[method-assign]
        case "record":
            run.publish = publishing
        case _:
            before_step(FULL_AFTER + 1, lambda: full(1 << 12))


FULL_AT = ("checkpoint", "metrics", "record", "wandb")
FULL_AFTER = 11  # step whose checkpoint must survive


def clock_stepped(offsets: tuple[float, ...]) -> None:
    """The wall clock is off by the next of ``offsets`` (seconds) at every step, the last one for ever."""
    real, left, now = time.time, list(offsets), [offsets[0]]

    def tick() -> None:
        now[0] = left.pop(0) if left else now[0]

    training_step = TrainingModule.training_step

    def disturbed(self: TrainingModule, *arguments: Any) -> Any:
        tick()
        return training_step(self, *arguments)

    TrainingModule.training_step = disturbed  # type: ignore[method-assign]
    gmtime = time.gmtime
    time.time = lambda: real() + now[0]
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)


# ---------------------------------------------------------------------------------------------------------------------
# data workers


def in_data_worker(step: int, action: str) -> None:
    """A data worker is killed, or hangs, where the rows of ``step`` are built; a hung one is given up after 2 s."""
    rows_at, here = RowSource.rows_at, os.getpid()

    def disturbed(self: RowSource, cursor: int, rows: int, *arguments: Any) -> Any:
        if os.getpid() != here and cursor == (step - 1) * rows:
            send(signal.SIGKILL) if action == "killed" else time.sleep(600)
        return rows_at(self, cursor, rows, *arguments)

    RowSource.rows_at = disturbed  # type: ignore[method-assign]
    run.TrainLoader = functools.partial(TrainLoader, timeout=2.0)  # type: ignore[misc,assignment]


# ---------------------------------------------------------------------------------------------------------------------
# processes that stand still


def frozen_in_a_checkpoint() -> None:
    """This process stops in the middle of writing the checkpoint of step 9, until ``wake``."""
    in_checkpoint(9, "half of it is written", lambda: send(signal.SIGSTOP))


def is_stopped(pid: int | None) -> bool:
    """True while the process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def wake(pid: int | None) -> None:
    """Let it go on."""
    assert pid is not None
    os.kill(pid, signal.SIGCONT)


def other_code() -> None:
    """As if somebody had edited nmm/model/layers.py since."""
    here = code.this_code()
    edited = dataclasses.replace(here, files={**here.files, "nmm.model.layers": "0" * 12})
    code.this_code = checkpoint.this_code = lambda: edited


# ---------------------------------------------------------------------------------------------------------------------
# directories


def temporary_files_in(folder: Path) -> None:
    """Where whatever falls back to a temporary directory will be seen to do so."""
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = str(folder)
