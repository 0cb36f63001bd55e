"""Initial values: the table of nmm/model/init.py, measured, and that they come from the seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import ARCHS, training_batch

from nmm.config import RunConfig
from nmm.flops import ffn_hidden
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.init import init_weights

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "depth": {"block": {"init": "depth"}},
    "tied": {"block": {"tied_head": True}},
    "layer": {"block": {"norm": "layer", "qk_norm": "width"}},
    "swiglu": {"block": {"ffn": "swiglu", "vision": "swiglu", "init": "depth"}},
    "wide heads": {"size": {"num_heads": 3, "head_dim": 32, "num_kv_heads": 1}},
}


def expected_std(name: str, config: RunConfig) -> float | None:
    """The table, by name; None is a gain of one."""
    width, is_tied = config.size.width, config.block.tied_head
    if "norm" in name:
        return 0.0 if name.endswith("bias") else None
    if name.endswith("bias") or name == "head.weight":
        return 0.0
    fixed = {
        "embedding.weight": 1 / math.sqrt(width) if is_tied else 0.1,
        "patch_position": 0.3,
        "vision.vit.pos_embed": 0.3,
        "vision.vit.patch_embed.proj.weight": 1 / math.sqrt(192),
    }
    if name == "connector.weight":
        return 0.3 / math.sqrt(192)
    return fixed[name] if name in fixed else block_std(name, config)


def block_std(name: str, config: RunConfig) -> float:
    """Matrices of the trunk, the encoder's blocks and the connector."""
    size = config.size
    fan_in, depth, ends = size.width, size.depth, ("attention.out.weight", "ffn.down", "ffn.down.weight")
    if name.startswith("vision.") or name == "connector.net.weight":
        fan_in, depth, ends = size.vision_width, size.vision_depth, ("attn.proj.weight", "mlp.fc2.weight")
        if name.endswith("fc2.weight"):
            fan_in = config.vision_hidden
    elif name.endswith(("ffn.down", "ffn.down.weight")):
        fan_in = ffn_hidden(config)
    elif name.endswith("attention.out.weight"):
        fan_in = size.num_heads * config.head_dim
    is_smaller = config.block.init == "depth" and name.endswith(ends)
    return 1 / math.sqrt(fan_in * (2 * depth if is_smaller else 1))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_parameter_has_the_deviation_of_the_table(
    make_config: Callable[..., RunConfig], option: str, arch: str
) -> None:
    config = make_config(arch, "d64", **{"arch": {"pairing": "none"}, **OPTIONS[option]})
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
    assert len(seen) >= 5


def test_a_tied_head_begins_with_logits_of_deviation_one(make_config: Callable[..., RunConfig]) -> None:
    model = build(make_config(size={"width": 256, "num_heads": 4}, block={"tied_head": True}))
    normed = model.trunk.norm(torch.randn(500, 256, generator=torch.Generator().manual_seed(99)))
    assert model.head(normed).std().item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("depth", [2, 16])
def test_with_init_depth_the_stream_does_not_grow_with_depth(make_config: Callable[..., RunConfig], depth: int) -> None:
    """Mean square of what all blocks add to the stream: each block adds 1 / (2 depth) twice, by and large."""
    sums = {}
    for init in ("plain", "depth"):
        model = build(make_config(size={"width": 128, "depth": depth}, block={"init": init}))
        x = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(99))
        model.trunk.norm = torch.nn.Identity()
        sums[init] = (model.trunk(x, model.context(training_batch(model.config)))[0] - x).square().mean().item()
    assert sums["depth"] == pytest.approx(sums["plain"] / (2 * depth), rel=0.5)
    assert 0.2 < sums["depth"] < 2.5


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("option", ["plain", "swiglu", "tied"])
def test_nothing_keeps_what_was_there_before(make_config: Callable[..., RunConfig], option: str, arch: str) -> None:
    config = make_config(arch, **OPTIONS[option], **({"arch": {"balancing": "bias"}} if arch == "moe" else {}))
    model = NativeMultimodalModel(config)
    for tensor in (*model.parameters(), *model.trunk.buffers()):
        tensor.data.fill_(math.nan)
    init_weights(model, seed=0)
    assert all(tensor.isfinite().all() for tensor in (*model.parameters(), *model.buffers()))
    assert all((bias == 0).all() for bias in model.trunk.buffers())
    assert len(list(model.trunk.buffers())) == (config.size.depth if arch == "moe" else 0)


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
