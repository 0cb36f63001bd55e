"""Decoupled AdamW against its definition written out, and which parameter is in which group."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lab import ARCHS

from nmm.config import RunConfig
from nmm.model.build import build, is_encoder, is_patch
from nmm.training.optim import build_optimizer, set_lr

MakeConfig = Callable[..., RunConfig]


def part_scale(name: str, encoder: float, patch: float) -> float:
    """What a parameter's learning rate is multiplied by, by the part of the model it is in."""
    return encoder if is_encoder(name) else patch if is_patch(name) else 1.0


def is_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not name.endswith(("patch_position", "pos_embed"))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("encoder", "patch", "decayed"), [(0.25, 0.25, 2), (0.01, 1.0, 2), (0.01, 0.5, 3)])
def test_every_parameter_is_in_exactly_one_group(
    make_config: MakeConfig, arch: str, encoder: float, patch: float, decayed: int
) -> None:
    scales = {"vision_lr_scale": encoder, "patch_lr_scale": patch}
    config = make_config(arch, optim={"lr": 0.01, "weight_decay": 0.1, **scales})
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
        peak = 0.01 * part_scale(name, encoder, patch)
        decays = is_matrix(name, dict(model.named_parameters())[name])
        assert group["peak_lr"] == pytest.approx(peak)
        assert group["weight_decay"] == pytest.approx(0.1 / peak if decays else 0.0)
    if arch == "late":
        assert sum(group["weight_decay"] > 0 for group in optimizer.param_groups) == decayed


def test_equal_rates_share_a_group_in_the_order_checkpoints_have(make_config: MakeConfig) -> None:
    """Optimizer states are saved by position: connector, embedding, ..., whichever part has which rate."""
    config = make_config("late", optim={"weight_decay": 0.1})
    model = build(config)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in build_optimizer(model, config).param_groups]
    assert [group[0] for group in groups] == [
        "connector.net.weight",
        "embedding.weight",
        "patch_position",
        "trunk.blocks.0.attention.key_norm.weight",
    ]
    assert groups[0][1].startswith("vision.vit.blocks.0")
    assert all(group == sorted(group) for group in groups)


def test_frozen_parameters_are_in_no_group(make_config: MakeConfig) -> None:
    config = make_config("late")
    model = build(config)
    model.vision.requires_grad_(False)
    optimizer = build_optimizer(model, config)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in model.named_parameters() if not name.startswith("vision.")}


@pytest.mark.parametrize(
    ("optim", "size", "peak"),
    [
        ({"lr": 0.02}, {"lr": 0.004}, 0.02),
        ({}, {"lr": 0.004}, 0.004),
        ({"lr_width": 0.5}, {}, 0.5 / 32),
    ],
    ids=["given", "of the size", "by the width"],
)
def test_where_the_learning_rate_comes_from(make_config: MakeConfig, optim: dict, size: dict, peak: float) -> None:
    config = make_config("early", "d32", optim=optim, size=size)
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
    optim = {"lr": 0.02, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay, "vision_lr_scale": 0.1}
    config = make_config("late", optim={**optim, "patch_lr_scale": 0.5})
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
            rate = share * 0.02 * part_scale(name, 0.1, 0.5)
            if is_matrix(name, parameter):
                expected[name] = expected[name] * (1 - decay * share)
            root = (second[name] / (1 - beta2**t)).sqrt() + eps
            expected[name] = expected[name] - rate * (first[name] / (1 - beta1**t)) / root
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6), name
