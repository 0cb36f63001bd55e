"""Updates that are left out: the state machine step by step, and whole runs with planted NaNs and spikes."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lab import metrics, run_directory, train
from torch import Tensor

from nmm.config import Optim, RunConfig
from nmm.record import attempts, read_record
from nmm.training import module as training_module
from nmm.training.module import TrainingModule
from nmm.training.spikes import WINDOW, Guard, judge
from nmm.training.stopping import Interrupted

TinyConfig = Callable[..., RunConfig]
NAN, INF = math.nan, math.inf


def play(steps: Sequence[tuple[float, float]], optim: Optim, guard: Guard = Guard()) -> tuple[list[str], Guard]:  # noqa: B008
    """Judge (loss, gradient norm) after (loss, gradient norm); "action cause" of each, and the guard at the end."""
    said = []
    for loss, norm in steps:
        verdict, guard = judge(guard, loss, norm, optim)
        said.append(f"{verdict.action} {verdict.cause}".strip())
    return said, guard


# -------------------------------------------------------------------------------------------------- the state machine


def test_what_is_not_finite_stops_by_default() -> None:
    for loss, norm, cause in ((NAN, NAN, "nan_loss"), (INF, 1.0, "nan_loss"), (2.0, NAN, "nan_gradient")):
        said, guard = play([(3.0, 1.0), (loss, norm)], Optim())
        assert said == ["update", f"stop {cause}"]
        assert guard == Guard(mean=3.0, seen=1)


def test_skips_are_counted_by_cause_and_end_the_run_when_there_are_too_many() -> None:
    optim = Optim(on_nonfinite="skip", max_skips=2)
    said, guard = play([(NAN, 1.0), (2.0, 1.0), (2.0, INF), (2.0, 1.0), (NAN, 1.0)], optim)
    assert said == ["skip nan_loss", "update", "skip nan_gradient", "update", "stop too_many_skips"]
    assert guard.skipped == {"nan_loss": 2, "nan_gradient": 1}
    assert guard.seen == 2
    assert play([(NAN, 1.0)], Optim(on_nonfinite="skip", max_skips=0))[0] == ["stop too_many_skips"]


def test_the_mean_is_that_of_all_at_first_and_exponential_from_the_window_on() -> None:
    losses = [5.0 - 0.01 * i for i in range(WINDOW)]
    _, guard = play([(loss, 1.0) for loss in losses], Optim())
    assert guard.mean == pytest.approx(sum(losses) / WINDOW)
    _, later = play([(2.0, 1.0)], Optim(), guard)
    assert later.mean == pytest.approx(guard.mean + (2.0 - guard.mean) / WINDOW)


@pytest.mark.parametrize(("on_spike", "action"), [("skip", "skip spike"), ("stop", "stop spike")])
def test_a_spike_is_a_multiple_of_the_running_mean(on_spike: str, action: str) -> None:
    optim = Optim(spike_factor=1.5, on_spike=on_spike)
    quiet = [(4.0, 1.0)] * WINDOW
    said, guard = play([*quiet, (5.9, 1.0)], optim)
    assert said[-1] == "update"
    said, after = play([(6.2, 1.0)], optim, guard)  # the mean is 4.038 now
    assert said == [action]
    assert (after.mean, after.seen) == (guard.mean, guard.seen), "a spike does not raise the mean it is held against"


def test_no_spike_before_the_window_is_full_and_none_without_a_factor() -> None:
    early = [(4.0, 1.0)] * (WINDOW - 1)
    assert play([*early, (40.0, 1.0)], Optim(spike_factor=1.5))[0][-1] == "update"
    late = [(4.0, 1.0)] * WINDOW
    assert play([*late, (40.0, 1.0)], Optim())[0][-1] == "update"


def test_a_loss_that_stays_high_ends_the_run() -> None:
    said, guard = play([(4.0, 1.0)] * WINDOW + [(9.0, 1.0)] * 4, Optim(spike_factor=2.0, max_skips=3))
    assert said[-4:] == ["skip spike"] * 3 + ["stop too_many_skips"]
    assert guard.skipped == {"spike": 4}


# ------------------------------------------------------------------------------------------------------- whole runs


def plant(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Multiply the loss of some steps (0-based) of every run from here on: by NaN, or by a large number."""
    sums_of = training_module.loss_sums
    step_of = TrainingModule.training_step
    now = [0]

    def step(module: TrainingModule, *arguments: Any) -> None:
        now[0] = module.step
        step_of(module, *arguments)

    def poisoned(*arguments: Any) -> dict[str, Tensor]:
        sums = sums_of(*arguments)
        return {**sums, "ce": sums["ce"] * values.get(now[0], 1.0)}

    monkeypatch.setattr(training_module, "loss_sums", poisoned)
    monkeypatch.setattr(TrainingModule, "training_step", step)


def test_a_planted_nan_is_skipped_and_counted(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {4: NAN, 9: INF})
    config = tiny_config("moe", optim={"on_nonfinite": "skip"}, trainer={"log_every_steps": 1})
    record = train(config)
    assert record["status"] == "done"
    assert record["result"]["skipped_steps"] == {"nan_loss": 2}
    rows = {step: row for (step, kind), row in metrics(config).items() if kind == "train"}
    assert [rows[step]["skipped_steps"] for step in range(1, 13)] == [0] * 4 + [1] * 5 + [2] * 3
    assert [step for step, row in rows.items() if row["train_loss"] is None] == [5, 10]
    assert record["tokens"]["positions"] == 12 * 512


def test_a_planted_nan_stops_with_its_cause(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {4: NAN})
    result = train(tiny_config())["result"]
    assert (result["cause"], result["step"], result["skipped_steps"]) == ("nan_loss", 5, {})
    assert result["error"] == "nan_loss: loss nan, gradient norm nan at step 5"


def test_too_many_skips_end_the_run_as_diverged(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, dict.fromkeys(range(3, 9), NAN))
    record = train(tiny_config(optim={"on_nonfinite": "skip", "max_skips": 2}))
    assert record["status"] == "diverged"
    assert (record["result"]["cause"], record["result"]["step"]) == ("too_many_skips", 6)
    assert record["result"]["skipped_steps"] == {"nan_loss": 3}


def test_going_on_between_skips_is_bit_equal(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Skips before and after the interruption, and a spike that only the mean from before it can reveal."""
    plant(monkeypatch, {2: NAN, WINDOW + 4: 3.0, WINDOW + 6: NAN})
    optim = {"on_nonfinite": "skip", "spike_factor": 2.0}
    alone = tiny_config(optim=optim, budget={"steps": WINDOW + 10}, trainer={"checkpoint_every_seconds": 0.0})
    record = train(alone)
    assert record["result"]["skipped_steps"] == {"nan_loss": 2, "spike": 1}
    same = dataclasses.replace(alone, out=str(tmp_path / "again"))
    update = TrainingModule._update

    def interrupted(module: TrainingModule, *measured: Any) -> None:
        update(module, *measured)
        if module.step == WINDOW + 2:
            monkeypatch.setattr(TrainingModule, "_update", update)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingModule, "_update", interrupted)
    with pytest.raises(Interrupted):
        train(same)
    assert train(same)["result"] == record["result"]
    assert metrics(same) == metrics(alone)
    assert len(attempts(run_directory(same))) == 2
    assert read_record(run_directory(same)) is not None
