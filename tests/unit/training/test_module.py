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
MEASURED = torch.tensor(2.0), torch.tensor(8.0)  # the loss of a step and its targets, where they do not matter


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
    module, losses = make(config), []
    monkeypatch.setattr(module, "_update", lambda loss, count: losses.append(loss.item()))
    module.training_step(batch, 0)
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.model.named_parameters()}
    return losses[0], found


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
    module._update(*MEASURED)
    ages = {int(module.optimizer.state[p]["step"]) for p in module.model.parameters()}
    assert ages == {1}


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
@pytest.mark.parametrize(("loss", "poison"), [(2.0, math.nan), (2.0, math.inf), (math.nan, 1.0)])
def test_what_is_not_finite_moves_no_weight_and_no_moment(
    make_config: MakeConfig, loss: float, poison: float, on_nonfinite: str
) -> None:
    module = make(make_config(optim={"on_nonfinite": on_nonfinite}))

    def step(gradient: float, loss: float) -> None:
        for parameter in module.model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        module._update(torch.tensor(loss), torch.tensor(8.0))

    def state() -> list[Tensor]:
        moments = [v for s in module.optimizer.state_dict()["state"].values() for v in s.values()]
        return [v.clone() for v in (*module.model.state_dict().values(), *moments)]

    step(1.0, 2.0)
    before = state()
    step(poison, loss)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    cause = "nan_gradient" if math.isfinite(loss) else "nan_loss"
    assert (module.verdict.action, module.verdict.cause) == (on_nonfinite, cause)
    assert module.step == 2
    assert all(parameter.grad is None for parameter in module.model.parameters())
    if on_nonfinite == "skip":
        step(1.0, 2.0)
        assert module.verdict.action == "update"
        assert not torch.equal(state()[0], before[0])
        assert {int(s["step"]) for s in module.optimizer.state.values()} == {2}
        assert (module.guard.seen, module.guard.skipped) == (2, {cause: 1})


def test_frozen_parameters_are_not_updated_and_not_in_the_norm(make_config: MakeConfig) -> None:
    module = make(make_config("late"))
    for parameter in module.model.vision.parameters():
        parameter.requires_grad_(False)
    rest = [p for name, p in module.model.named_parameters() if not name.startswith("vision.")]
    for parameter in rest:
        parameter.grad = torch.ones_like(parameter)
    module._update(*MEASURED)
    assert module.grad_norm == pytest.approx(math.sqrt(sum(p.numel() for p in rest)), rel=1e-5)
    assert all(parameter.grad is None for parameter in module.model.vision.parameters())


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
