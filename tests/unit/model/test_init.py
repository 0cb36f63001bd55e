"""Initial values: the table of nmm/model/init.py, measured, and that they come from the seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lab import ARCHS

from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.init import init_weights


def expected_std(name: str, config: RunConfig) -> float | None:
    """The table, by name; None is a gain of one."""
    width, vision = config.size.width, config.size.vision_width
    if "norm" in name:
        return 0.0 if name.endswith("bias") else None
    if name.endswith("bias") or name == "head.weight":
        return 0.0
    fixed = {"embedding.weight": 0.1, "patch_position": 0.3, "vision.vit.pos_embed": 0.3}
    if name in fixed:
        return fixed[name]
    if name == "connector.weight":
        return 0.3 / math.sqrt(192)
    if name == "vision.vit.patch_embed.proj.weight":
        return 1 / math.sqrt(192)
    fan_in = width
    if name.startswith("vision.") or name == "connector.net.weight":
        fan_in = 4 * vision if name.endswith("fc2.weight") else vision
    elif name.endswith(("ffn.down", "ffn.down.weight")):
        fan_in = round(config.size.mlp_ratio * width)
    return 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_the_deviation_of_the_table(make_config: Callable[..., RunConfig], arch: str) -> None:
    config = make_config(arch, "d64", arch={"pairing": "none"})
    seen = set()
    for name, parameter in build(config).named_parameters():
        std = expected_std(name, config)
        seen.add(std)
        if std is None:
            assert (parameter == 1).all(), name
        elif std == 0.0:
            assert (parameter == 0).all(), name
        else:
            tolerance = 5 / math.sqrt(2 * parameter.numel())  # five standard errors
            assert parameter.std().item() == pytest.approx(std, rel=tolerance), name
            assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name
    assert len(seen) >= 6


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_keeps_what_was_there_before(make_config: Callable[..., RunConfig], arch: str) -> None:
    config = make_config(arch)
    model = NativeMultimodalModel(config)
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    init_weights(model, seed=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in build(config).named_parameters()}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_seed_alone_decides(make_config: Callable[..., RunConfig], arch: str) -> None:
    torch.manual_seed(1)
    first = weights(make_config(arch, seed=3))
    torch.manual_seed(2)
    again = weights(make_config(arch, seed=3, trainer={"micro_batches": 2}, out="elsewhere"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights(make_config(arch, seed=4))
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
