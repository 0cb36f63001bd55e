"""Biases that balance experts are part of a run's state: the same however a step is split, and across a stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab import metrics, nmm, run_directory, train
from torch import Tensor

from nmm.config import RunConfig
from nmm.record import newest_checkpoint, read_record
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

TinyConfig = Callable[..., RunConfig]
STEPS, RATE = 12, 0.01


def config_of(tiny_config: TinyConfig, out: Path, arch: str = "moe", micro_batches: int = 1) -> RunConfig:
    slowly = {"lr": 1e-4}  # so that roundings do not turn a choice within so few steps
    trainer = {"micro_batches": micro_batches, "checkpoint_every_steps": 3, "log_every_steps": 1}
    return tiny_config(
        arch, arch={"balancing": "bias", "bias_rate": RATE}, trainer=trainer, optim=slowly, out=str(out),
        budget={"steps": STEPS},
    )  # fmt: skip


def biases(config: RunConfig) -> Tensor:
    """(L, E) as they were after the last step."""
    newest = newest_checkpoint(run_directory(config))
    assert newest is not None and newest[0] == STEPS
    weights = torch.load(newest[1], weights_only=True)["model"]
    return torch.stack([weights[f"trunk.blocks.{layer}.ffn.bias"] for layer in range(config.size.depth)])


@pytest.mark.parametrize("arch", ["moe", "moe_aware_matched"])
def test_they_do_not_depend_on_the_split_of_a_step(tiny_config: TinyConfig, tmp_path: Path, arch: str) -> None:
    whole, split = (config_of(tiny_config, tmp_path, arch, n) for n in (1, 4))
    train(whole)
    train(split)
    assert torch.equal(biases(whole), biases(split))
    steps = biases(whole) / RATE  # a whole number of steps up or down, for most experts not none
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max() <= STEPS and (steps.round() != 0).float().mean() > 0.5


def test_two_ranks_count_the_load_of_both(tiny_config: TinyConfig, tmp_path: Path) -> None:
    alone = config_of(tiny_config, tmp_path / "one")
    train(alone)
    both = dataclasses.replace(alone, out=str(tmp_path / "two"))
    fields = {
        "arch": "moe", "arch.balancing": "bias", "arch.bias_rate": RATE, "size": "d16", "data.path": alone.data.path,
        "data.eval_rows": alone.data.eval_rows, "budget.steps": STEPS, "optim.lr": 1e-4, "trainer.compile": "off",
        "schedule.warmup_steps": alone.schedule.warmup_steps, "out": both.out, "trainer.devices": 2,
        "trainer.log_every_steps": 1,
    }  # fmt: skip
    done = nmm("train", *(f"{name}={value}" for name, value in fields.items()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.equal(biases(alone), biases(both))
    rows, others = metrics(alone), metrics(both)
    for step in range(1, STEPS + 1):
        for name in ("expert_load_max", "expert_load_min"):
            assert rows[step, "train"][name] == others[step, "train"][name]


def test_they_survive_a_stop(tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = config_of(tiny_config, tmp_path / "whole")
    stopped = dataclasses.replace(whole, out=str(tmp_path / "stopped"))
    train(whole)
    update = TrainingModule._update

    def interrupt(module: TrainingModule, *measured: Tensor) -> None:
        if module.step == 7:  # one step after a checkpoint
            raise Interrupted(15, module.step)
        update(module, *measured)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "_update", interrupt)
        with pytest.raises(Interrupted):
            train(stopped)
    train(stopped)
    assert torch.equal(biases(whole), biases(stopped))
    first, second = read_record(run_directory(whole)), read_record(run_directory(stopped))
    assert first is not None and second is not None
    assert first["result"] == second["result"]
    assert metrics(whole) == metrics(stopped)


def test_they_are_part_of_the_digest_of_the_weights(tiny_config: TinyConfig, tmp_path: Path) -> None:
    from nmm.model.build import build
    from nmm.training.outcome import weights_digest

    model = build(config_of(tiny_config, tmp_path))
    before = weights_digest(model)
    model.trunk.blocks[0].ffn.bias[3] += 0.5
    assert weights_digest(model) != before
