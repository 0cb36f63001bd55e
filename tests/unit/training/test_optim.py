"""Decoupled AdamW against its definition written out, and which parameter is in which group."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lab import ARCHS

from nmm.config import RunConfig
from nmm.model.build import build, is_vision
from nmm.training.optim import build_optimizer, set_lr

MakeConfig = Callable[..., RunConfig]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_is_in_exactly_one_group(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch, optim={"lr": 0.01, "vision_lr_scale": 0.25, "weight_decay": 0.1})
    model = build(config)
    optimizer = build_optimizer(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    seen: dict[str, dict] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in seen
            seen[names[id(parameter)]] = group
    assert seen.keys() == set(names.values())
    for name, group in seen.items():
        peak = 0.01 * (0.25 if is_vision(name) else 1.0)
        matrix = dict(model.named_parameters())[name].ndim >= 2 and not name.endswith(("patch_position", "pos_embed"))
        assert group["peak_lr"] == pytest.approx(peak)
        assert group["weight_decay"] == pytest.approx(0.1 / peak if matrix else 0.0)


def test_the_learning_rate_is_given_or_follows_the_width(make_config: MakeConfig) -> None:
    for optim, width, peak in (({"lr": 0.02}, "d32", 0.02), ({"lr_width": 0.5}, "d32", 0.5 / 32)):
        config = make_config("early", width, optim=optim)
        assert max(group["peak_lr"] for group in build_optimizer(build(config), config).param_groups) == peak


def test_set_lr_scales_every_group(make_config: MakeConfig) -> None:
    config = make_config()
    optimizer = build_optimizer(build(config), config)
    set_lr(optimizer, 0.3)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.3 * group["peak_lr"])


def test_updates_are_decoupled_adamw(make_config: MakeConfig) -> None:
    """Three updates at falling rates: moments by their recursion, decay ``weight_decay * lr_t / lr_peak``."""
    beta1, beta2, eps, decay = 0.8, 0.9, 1e-3, 0.05
    optim = {"lr": 0.02, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay, "vision_lr_scale": 0.25}
    config = make_config("late", optim=optim)
    model = build(config)
    optimizer = build_optimizer(model, config)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    generator = torch.Generator().manual_seed(0)
    for t, share in enumerate((1.0, 0.5, 0.1), start=1):
        set_lr(optimizer, share)
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient
            first[name] = beta1 * first[name] + (1 - beta1) * gradient.double()
            second[name] = beta2 * second[name] + (1 - beta2) * gradient.double().square()
            rate = share * 0.02 * (0.25 if is_vision(name) else 1.0)
            if parameter.ndim >= 2 and not name.endswith(("patch_position", "pos_embed")):
                expected[name] = expected[name] * (1 - decay * share)
            root = (second[name] / (1 - beta2**t)).sqrt() + eps
            expected[name] = expected[name] - rate * (first[name] / (1 - beta1**t)) / root
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6), name
