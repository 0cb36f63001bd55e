"""A signal at any moment of a run ends it in order, with an exit status that is not 0, and going on is bit-equal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import lightning
import pytest
from lab import metrics, run_directory, train, training_batch

from nmm.config import RunConfig
from nmm.record import attempts, checkpoints, ended, read_record
from nmm.training import callbacks, parallel, run
from nmm.training.callbacks import StepBoundary
from nmm.training.stopping import STOP_SIGNALS, Interrupted, StopFlag, Stoppable

TinyConfig = Callable[..., RunConfig]


def terminate(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_signal_counts() -> None:
    flag = StopFlag()
    flag.check(3)
    flag(signal.SIGUSR1, None)
    flag(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="stopped by SIGUSR1 after step 3") as stopped:
        flag.check(3)
    assert stopped.value.code == 128 + signal.SIGUSR1


def test_what_is_ignored_stays_ignored() -> None:
    """SIGINT of a job in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        flag = StopFlag()
        with flag.listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert flag.signum == 0
            assert signal.getsignal(signal.SIGTERM) is flag
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_batches_end_between_two(tiny_config: TinyConfig) -> None:
    flag, batch = StopFlag(), training_batch(tiny_config())
    seen = 0
    with pytest.raises(Interrupted):
        for _ in Stoppable([batch] * 4, flag, 7):
            seen += 1
            if seen == 2:
                flag(signal.SIGTERM, None)
    assert seen == 2


def before_call(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int = 1) -> None:
    """SIGTERM right before the ``at``-th call of ``where.name``."""
    real, calls = getattr(where, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            terminate()
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, call)


OFTEN = {"checkpoint_every_steps": 3, "eval_every_steps": 4}

MOMENTS: dict[str, tuple[Any, str, int, int]] = {  # what is called then, which call, and the step that is kept
    "the data are opened": (run, "rows_of", 1, 0),
    "the model is built": (run, "initial_model", 1, 0),
    "the trainer is made": (run, "make_trainer", 1, 0),
    "lightning sets up": (lightning.Trainer, "_run", 1, 0),
    "lightning begins the stage": (lightning.Trainer, "_run_stage", 1, 0),
    "a checkpoint is saved": (callbacks, "save", 1, 4),
    "held-out losses are computed": (run, "evaluate", 1, 4),
    "held-out losses are computed again": (run, "evaluate", 2, 8),
    "the last evaluation": (run, "evaluate", 3, 12),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_while(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, moment: str) -> None:
    alone = tiny_config(trainer=OFTEN, out=str(tmp_path / "alone"))
    expected = train(alone)
    config = tiny_config(trainer=OFTEN, out=str(tmp_path / "disturbed"))
    where, name, at, step = MOMENTS[moment]
    with monkeypatch.context() as patched:
        before_call(patched, where, name, at)
        when = f"after step {step}" if step else "before its first step"
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM {when};") as stopped:
            train(config)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert read_record(run_directory(config)) is None
    (attempt,) = attempts(run_directory(config))
    assert ended(attempt) == {"status": "interrupted", "cause": "", "detail": (ended(attempt) or {})["detail"]}
    assert [s for s, _ in checkpoints(run_directory(config))][:1] == ([step] if step else [])
    assert train(config)["result"] == expected["result"]
    assert metrics(config) == metrics(alone), "the row that was cut short is made by whoever goes on"


def test_stopped_again_in_the_row_that_was_owed(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    alone = tiny_config(trainer=OFTEN, out=str(tmp_path / "alone"))
    expected = train(alone)
    config = tiny_config(trainer=OFTEN, out=str(tmp_path / "disturbed"))
    for _ in range(2):
        with monkeypatch.context() as patched:
            before_call(patched, run, "evaluate")
            with pytest.raises(Interrupted, match="after step 4;"):
                train(config)
    assert train(config)["result"] == expected["result"]
    assert metrics(config) == metrics(alone)


def test_a_run_that_is_published_is_done_whatever_comes(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    before_call(monkeypatch, run, "publish")
    assert train(config)["status"] == "done"


def test_lightning_answers_no_signal(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own handler ends a preempted process with exit status 0; it must not be there at any moment."""
    seen: dict[str, set[str]] = {}

    class Watch(lightning.Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith(("on_", "setup", "teardown")):
                kinds = {type(signal.getsignal(number)).__name__ for number in STOP_SIGNALS}
                seen.setdefault(name, set()).update(kinds)
            return super().__getattribute__(name)

    make = parallel.make_trainer

    def watched(config: RunConfig, steps: int, boundary: StepBoundary) -> lightning.Trainer:
        trainer = make(config, steps, boundary)
        trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(run, "make_trainer", watched)
    train(tiny_config())
    assert {"setup", "on_fit_start", "on_train_start", "on_train_batch_end", "on_fit_end", "teardown"} <= set(seen)
    assert set.union(*seen.values()) == {"StopFlag"}


def test_outside_the_main_thread_no_handler_is_touched(tiny_config: TinyConfig) -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    done: list[Any] = []

    def work() -> None:
        done.append(train(tiny_config()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert not thread.is_alive(), "the run did not end within 120 s"
    assert done[0]["status"] == "done"
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
