"""One update: the loss and its gradient do not depend on how the step's rows are cut into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lab import ARCHS, training_batch
from torch import Tensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.loss import balance_loss, target_losses
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics

MakeConfig = Callable[..., RunConfig]


def make(config: RunConfig) -> TrainingModule:
    """A module that believes it is alone, with a head that is not zero so that every gradient is alive."""
    model = build(config)
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(5))
    module = TrainingModule(config, model, Numerics("fp32", False))
    trainer: Any = SimpleNamespace(world_size=1)
    module._trainer = trainer
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment, misc]
    return module


def gradients(config: RunConfig, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, Tensor]]:
    """Loss that is logged, and the gradient the update would see."""
    module = make(config)
    monkeypatch.setattr(module, "_update", lambda: None)
    module.training_step(batch, 0)
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.model.named_parameters()}
    return module.last["loss"], found


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_micro_batches_change_nothing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, arch: str, parts: int
) -> None:
    whole = make_config(arch, trainer={"rows_per_step": 6})
    split = make_config(arch, trainer={"rows_per_step": 6, "micro_batches": parts})
    batch = training_batch(whole)
    counts = [float(part.weights.sum()) for part in batch.split(parts)]
    assert len(set(counts)) > 1, "equal counts would hide a mean of means"
    loss, expected = gradients(whole, batch, monkeypatch)
    same, found = gradients(split, batch, monkeypatch)
    assert same == pytest.approx(loss, rel=1e-6)
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-6 * norm, name


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gradient_is_that_of_the_mean_over_the_whole_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    """Cross-entropy over the step's valid count, balance loss over the step's rows, written as one expression."""
    config = make_config(arch, trainer={"micro_batches": 2}, arch={"balance_coef": 0.5})
    batch = training_batch(config)
    loss, found = gradients(config, batch, monkeypatch)
    model = make(config).model
    output = model(batch)
    mean = target_losses(output, batch).mean()
    (mean + 0.5 * balance_loss(output) / 4).backward()
    assert loss == pytest.approx(mean.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


def test_the_logged_loss_is_the_mean_of_the_token_losses(make_config: MakeConfig) -> None:
    config = make_config("moe", trainer={"micro_batches": 3})
    batch, module = training_batch(config), make(config)
    expected = target_losses(module.model(batch), batch).mean().item()
    module.training_step(batch, 0)
    assert module.last["loss"] == pytest.approx(expected, rel=1e-6)
    assert module.last["targets"] == batch.weights.sum().item()
    assert module.step == 1


def test_the_update_uses_the_rate_of_its_step_and_clips(make_config: MakeConfig) -> None:
    config = make_config(optim={"grad_clip": 1e-3, "lr": 0.01}, schedule={"warmup_steps": 4})
    batch, module = training_batch(config), make(config)
    seen = []
    module.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            (
                optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["peak_lr"],
                math.sqrt(sum(float(p.grad.square().sum()) for g in optimizer.param_groups for p in g["params"])),
            )
        )
    )
    for _ in range(5):
        module.training_step(batch, 0)
    assert [share for share, _ in seen] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert all(norm == pytest.approx(1e-3, rel=1e-3) for _, norm in seen)
    assert module.grad_norm > 1e-3  # what is logged is the norm before clipping
    assert all(parameter.grad is None for parameter in module.model.parameters())


def test_a_step_without_images_still_ages_every_moment(make_config: MakeConfig) -> None:
    """Else the update of an image parameter would depend on which rank saw a picture."""
    config = make_config()
    module = make(config)
    for parameter in module.model.trunk.parameters():
        parameter.grad = torch.ones_like(parameter)
    module._update()
    ages = {int(module.optimizer.state[p]["step"]) for p in module.model.parameters()}
    assert ages == {1}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_no_weight(make_config: MakeConfig, poison: float) -> None:
    module = make(make_config())
    before = {name: p.detach().clone() for name, p in module.model.named_parameters()}
    for parameter in module.model.parameters():
        parameter.grad = torch.full_like(parameter, poison)
    module._update()
    assert not math.isfinite(module.grad_norm)
    assert all(torch.equal(p, before[name]) for name, p in module.model.named_parameters())
    assert module.optimizer.state == {}


def test_bf16_autocasts_the_products_and_keeps_the_loss_in_fp32(make_config: MakeConfig) -> None:
    config = make_config()
    batch = training_batch(config)
    exact = make(config)
    low = make(config)
    low.numerics = Numerics("bf16", False)
    with torch.no_grad():
        a, b = exact(batch)["ce"], low(batch)["ce"]
    assert b.dtype == torch.float32
    assert 0 < abs(a - b) / a < 0.01
