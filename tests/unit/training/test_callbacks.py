"""What happens between two steps: rows of metrics, when checkpoints are due, the stop flag, the order hash, the bar."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lab import run_directory, train, training_batch
from rich.console import Console

from nmm.config import RunConfig
from nmm.data.order import OrderHash
from nmm.evaluate import ROUTING_SCALARS
from nmm.record import Attempt, begin_attempt, checkpoints
from nmm.training import callbacks, progress
from nmm.training.callbacks import StepBoundary, flat, wandb_mirror
from nmm.training.checkpoint import TrainingState
from nmm.training.module import TrainingModule
from nmm.training.progress import ProgressBar
from nmm.training.run import rows_of, shards_of
from nmm.training.spikes import Guard, Verdict, judge
from nmm.training.stopping import STOP_SIGNALS, Diverged, Interrupted, StopFlag

TinyConfig = Callable[..., RunConfig]


class FakeModule(TrainingModule):
    """Only the numbers a boundary reads; ``save`` is replaced in these tests."""

    def __init__(self) -> None:
        self.__dict__.update(step=0, grad_norm=1.0, last={"loss": 2.0, "targets": 10.0})
        self.__dict__.update(guard=Guard(), verdict=Verdict(), load=None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    __setattr__ = object.__setattr__  # not a torch module here


class Boundary:
    """A StepBoundary over made-up steps, and everything it did."""

    def __init__(self, config: RunConfig, monkeypatch: pytest.MonkeyPatch, attempt: Attempt, start: int = 0) -> None:
        self.saved: list[int] = []
        self.mirrored: list[dict[str, Any]] = []
        self.config = config
        self.state, self.flag, self.module = TrainingState(step=start), StopFlag(), FakeModule()
        self.module.step = start
        monkeypatch.setattr(callbacks, "save", lambda attempt, config, module, state: self.saved.append(state.step))
        self.boundary = StepBoundary(
            config,
            attempt,
            self.state,
            self.flag,
            lambda: {"loss": {"text": 1.0}, "entropy": {"text": None}},
            self.mirrored.append,
            lambda cursor: {"cursor": cursor},
            lambda: 1000,
        )
        self.trainer: Any = SimpleNamespace(world_size=1)
        self.attempt = attempt
        self.batch = training_batch(config)

    def step(self, loss: float = 2.0, targets: float = 10.0, grad_norm: float = 1.0) -> None:
        self.module.step += 1
        self.module.grad_norm, self.module.last = grad_norm, {"loss": loss, "targets": targets}
        self.module.verdict, self.module.guard = judge(self.module.guard, loss, grad_norm, self.config.optim)
        self.boundary.on_train_batch_end(self.trainer, self.module, None, self.batch, 0)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.attempt.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def boundary(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Boundary]:
    def make(start: int = 0, **groups: Any) -> Boundary:
        return Boundary(tiny_config(**groups), monkeypatch, begin_attempt(tmp_path), start)

    return make


# ----------------------------------------------------------------------------------------------------------- metrics


def test_rows_are_logged_every_so_often_and_at_the_end(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 7}, trainer={"log_every_steps": 3})
    for _ in range(7):
        run.step()
    assert [row["step"] for row in run.rows()] == [3, 6, 7]
    assert [row["tokens"] for row in run.rows()] == [3 * 512, 6 * 512, 7 * 512]
    assert run.mirrored == run.rows()
    assert {"train_loss", "grad_norm", "lr", "tokens_per_second"} <= set(run.rows()[0])


def test_the_logged_loss_is_the_mean_over_the_tokens_since_the_last_row(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 4}, trainer={"log_every_steps": 2})
    for loss, targets in ((1.0, 10.0), (4.0, 30.0), (2.0, 1.0), (3.0, 3.0)):
        run.step(loss, targets)
    assert [row["train_loss"] for row in run.rows()] == pytest.approx([(10 + 120) / 40, (2 + 9) / 4])


def test_a_window_cut_by_a_restart_is_logged_as_if_it_had_not_been(boundary: Callable[..., Boundary]) -> None:
    whole = boundary(budget={"steps": 4}, trainer={"log_every_steps": 4})
    for loss in (1.0, 2.0, 3.0, 4.0):
        whole.step(loss)
    first = boundary(budget={"steps": 4}, trainer={"log_every_steps": 4})
    first.step(1.0)
    first.step(2.0)
    second = boundary(2, budget={"steps": 4}, trainer={"log_every_steps": 4})
    second.state.window_loss, second.state.window_targets = first.state.window_loss, first.state.window_targets
    second.step(3.0)
    second.step(4.0)
    assert second.rows()[0]["train_loss"] == whole.rows()[0]["train_loss"]


def test_the_learning_rate_in_a_row_is_the_one_its_update_used(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 8}, trainer={"log_every_steps": 1}, optim={"lr": 0.5}, schedule={"warmup_steps": 4})
    for _ in range(8):
        run.step()
    shares = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 2 / 3, 1 / 3]
    assert [row["lr"] for row in run.rows()] == pytest.approx([0.5 * share for share in shares])


def test_planned_evaluations_have_rows_of_their_own_and_none_at_the_end(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 6}, trainer={"log_every_steps": 6, "eval_every_steps": 2})
    for _ in range(6):
        run.step()
    rows = [row for row in run.rows() if "loss_text" in row]
    assert rows == [{"step": step, "loss_text": 1.0, "entropy_text": None} for step in (2, 4)]


def test_flat_names() -> None:
    assert flat({"loss": {"text": 1.0}, "class_excess": {"colour": None}}) == {
        "loss_text": 1.0,
        "class_excess_colour": None,
    }


def test_of_the_routing_a_row_has_the_scalars_over_all_sources() -> None:
    layer = {name: 0.5 for name in ROUTING_SCALARS} | {"layer": 1, "load": [0.5, 0.5]}
    row = flat({"loss": {"text": 1.0}, "routing": {"text": [layer], "all": [layer]}})
    assert row == {"loss_text": 1.0} | {f"routing_layer1_{name}": 0.5 for name in ROUTING_SCALARS}


def test_a_row_has_the_extreme_loads_of_the_experts(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 1})
    run.module.load = torch.tensor([[6.0, 2.0, 2.0], [4.0, 5.0, 1.0]])
    run.boundary.on_train_start(run.trainer, run.module)
    run.step()
    (row,) = run.rows()
    assert (row["expert_load_max"], row["expert_load_min"]) == (0.6, 0.1)


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_due_by_steps_at_kept_steps_and_at_the_end(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 11}, trainer={"checkpoint_every_steps": 4, "checkpoint_every_seconds": 1e9})
    run.boundary.on_train_start(run.trainer, run.module)
    for _ in range(11):
        run.step()
    assert run.saved == [4, 8, 11]
    assert run.state.loader == {"cursor": 44}
    trunk = boundary(
        budget={"steps": 11},
        role="trunk",
        keep_steps=[3, 9],
        schedule={"cooldown_fraction": 0.0},
        trainer={"checkpoint_every_seconds": 0.0},
    )
    for _ in range(11):
        trunk.step()
    assert trunk.saved == [3, 9, 11]


def test_checkpoints_are_due_by_time(boundary: Callable[..., Boundary], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))  # ten seconds pass between any two looks at the clock
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: float(next(clock)))
    run = boundary(budget={"steps": 9}, trainer={"log_every_steps": 9, "checkpoint_every_seconds": 25.0})
    run.boundary.on_train_start(run.trainer, run.module)
    for _ in range(8):
        run.step()
    assert run.saved == [3, 6]  # a step looks once, and once more when it has saved


# ----------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_saves_at_the_boundary_and_stops(boundary: Callable[..., Boundary], signum: signal.Signals) -> None:
    run = boundary(budget={"steps": 9}, trainer={"checkpoint_every_seconds": 0.0})
    with run.flag.listening():
        run.step()
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name} after step 2; run it again") as stopped:
            run.step()
    assert run.saved == [2]
    assert stopped.value.code == 128 + signum


def test_a_signal_during_the_last_step_lets_the_run_finish(boundary: Callable[..., Boundary]) -> None:
    run = boundary(budget={"steps": 2})
    run.step()
    run.flag(signal.SIGTERM, None)
    run.step()
    assert run.saved[-1] == 2


def test_the_old_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with StopFlag().listening():
        assert all(signal.getsignal(number) is not before[number] for number in STOP_SIGNALS)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


@pytest.mark.parametrize(("loss", "grad_norm"), [(float("nan"), 1.0), (2.0, float("inf")), (float("inf"), 1.0)])
def test_what_is_not_finite_stops_before_anything_is_written(
    boundary: Callable[..., Boundary], loss: float, grad_norm: float
) -> None:
    run = boundary(trainer={"log_every_steps": 1, "checkpoint_every_steps": 1})
    run.step()
    with pytest.raises(Diverged, match="at step 2") as stopped:
        run.step(loss, grad_norm=grad_norm)
    assert (stopped.value.cause, stopped.value.step) == ("nan_loss" if loss != 2.0 else "nan_gradient", 2)
    assert run.saved == [1]
    assert [row["step"] for row in run.rows()] == [1]
    assert run.state.step == 1


def test_skipped_updates_are_told_in_log_and_rows_and_left_out_of_the_mean(boundary: Callable[..., Boundary]) -> None:
    nan = float("nan")
    run = boundary(budget={"steps": 6}, trainer={"log_every_steps": 2}, optim={"on_nonfinite": "skip", "max_skips": 4})
    for loss, norm in ((1.0, 1.0), (nan, nan), (nan, nan), (3.0, nan), (2.0, 1.0), (4.0, 1.0)):
        run.step(loss, grad_norm=norm)
    first, second, third = run.rows()
    assert (first["train_loss"], first["grad_norm"], first["skipped_steps"]) == (1.0, None, 1)
    assert (second["train_loss"], second["grad_norm"], second["skipped_steps"]) == (None, None, 3)
    assert (third["train_loss"], third["skipped_nan_loss"], third["skipped_nan_gradient"]) == (3.0, 2, 1)
    assert third["tokens"] == 6 * 512, "tokens of a skipped step were delivered"
    assert run.state.guard == {"mean": pytest.approx(7 / 3), "seen": 3, "skipped": {"nan_loss": 2, "nan_gradient": 1}}
    log = (run.attempt.path / "log.txt").read_text()
    assert [f"step {n}: update left out" in log for n in range(1, 7)] == [False, True, True, True, False, False]
    assert "step 4: update left out, nan_gradient: loss 3.0, gradient norm nan" in log


# -------------------------------------------------------------------------------------------------- order, whole runs


def test_the_order_hash_is_the_chain_over_the_rows_in_global_order(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    expected = OrderHash()
    expected.update(rows_of(shards_of(config), config).row_ids(0, 12 * 4))
    assert train(config)["result"]["order_hash"] == expected.hexdigest()


def test_two_checkpoints_are_kept_of_a_run(tiny_config: TinyConfig) -> None:
    config = tiny_config(trainer={"checkpoint_every_steps": 2})
    train(config)
    assert [step for step, _ in checkpoints(run_directory(config))] == [12, 10]


# ------------------------------------------------------------------------------------------------ mirror and progress


def test_without_a_logger_or_a_directory_nothing_is_mirrored(tiny_config: TinyConfig, tmp_path: Path) -> None:
    for config, directory in ((tiny_config(), tmp_path), (tiny_config(logger={"name": "wandb_offline"}), None)):
        with wandb_mirror(config, directory) as mirror:
            mirror({"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_bar_appears_after_three_seconds_and_goes_when_the_run_does(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = io.StringIO()
    bar = ProgressBar(tiny_config(), Console(file=screen, force_terminal=True, width=120))
    trainer: Any = None
    module = FakeModule()
    bar.on_train_start(trainer, module)
    now[0], module.step = 102.9, 3
    bar.on_train_batch_end(trainer, module)
    assert screen.getvalue() == ""
    now[0], module.step = 104.0, 6
    bar.on_train_batch_end(trainer, module)
    bar._bar.refresh()  # type: ignore[union-attr]
    assert "early d16" in screen.getvalue()
    assert "6/12" in screen.getvalue()
    assert "loss 2.000" in screen.getvalue()
    assert "768 tokens/s" in screen.getvalue()
    bar.on_exception(trainer, module, RuntimeError())
    assert bar._bar is None
