"""Runs that end without a loss: divergence is a result of its own, and what cannot work is refused at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from lab import run_directory, train

from nmm.config import RunConfig
from nmm.record import RecordError, attempts, checkpoints, status
from nmm.training import run
from nmm.training.callbacks import StepBoundary
from nmm.training.module import TrainingModule

TinyConfig = Callable[..., RunConfig]


def test_divergence_is_a_result(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says so, the weights are those before the poisoned update, and running it again changes nothing."""
    digests = {}
    advance = StepBoundary._advance

    def poisoned(boundary: StepBoundary, trainer: Any, module: TrainingModule, batch: Any) -> None:
        advance(boundary, trainer, module, batch)
        digests[module.step] = run.weights_digest(module.model)

    monkeypatch.setattr(StepBoundary, "_advance", poisoned)
    config = tiny_config(optim={"lr": 1e18, "grad_clip": 1e9})
    record = train(config)
    assert record["status"] == "diverged" == status(run_directory(config))
    step = record["result"]["step"]
    assert 1 < step < 12
    assert record["result"]["cause"] in ("nan_loss", "nan_gradient")
    assert record["result"]["skipped_steps"] == {}
    assert "loss" in record["result"]["error"] and f"at step {step}" in record["result"]["error"]
    assert record["result"]["weights_sha256"] == digests[step - 1]
    assert train(config) == record
    assert len(attempts(run_directory(config))) == 1


def test_too_few_held_out_rows_are_refused_before_the_first_step(tiny_config: TinyConfig) -> None:
    config = tiny_config(data={"eval_rows": 4000})
    with pytest.raises(ValueError, match=r"4000 rows were asked for, caption val .* ask for fewer \(data.eval_rows\)"):
        train(config)
    assert checkpoints(run_directory(config)) == []


def test_shards_that_are_not_those_of_the_plan_are_refused(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint="0" * 64))
    with pytest.raises(RecordError, match="now holds shards .*, the run was made for 000000000000"):
        train(other)


def test_a_directory_of_another_run_is_refused(tiny_config: TinyConfig) -> None:
    first, second = tiny_config(), tiny_config(seed=1)
    train(first)
    (run_directory(first) / "record.json").unlink()
    with pytest.raises(RecordError, match="holds another configuration"):
        run.execute(second, run_directory(first))
