"""The built model holds, group by group, what the formulas say: every architecture, size and pairing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest
from lab import ARCHS, SIZES

from nmm.config import ConfigError, RunConfig
from nmm.flops import count_params
from nmm.model.build import build, is_vision
from nmm.model.fusion import NativeMultimodalModel

PAIRINGS = [(arch, pairing, "linear") for arch in ("early", "moe") for pairing in ("flops",)]
PAIRINGS += [("late", pairing, connector) for pairing in ("flops", "params", "none") for connector in ("linear", "mlp")]


def group_of(name: str, early: bool) -> str:
    """Which field of ``Params`` a parameter belongs to."""
    if name in ("embedding.weight", "head.weight"):
        return name.removesuffix(".weight")
    if name == "patch_position" or (early and name == "connector.weight"):
        return "patch"
    if name.startswith(("vision.", "connector.")):
        return name.split(".")[0]
    if name.endswith(("attention_norm.weight", "ffn_norm.weight")) or name == "trunk.norm.weight":
        return "norm"
    if ".attention." in name:
        return "attention"
    return {"router": "router", "up": "experts", "down": "experts"}[name.split(".ffn.")[1].split(".")[0]]


def counted(model: NativeMultimodalModel, config: RunConfig) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        group = group_of(name, config.arch.fusion == "early")
        if group == "experts" and not config.arch.num_experts:
            group = "ffn"
        counts[group] += parameter.numel()
    return counts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("arch", "pairing", "connector"), PAIRINGS)
def test_parameters_by_group(
    make_config: Callable[..., RunConfig], arch: str, size: str, pairing: str, connector: str
) -> None:
    config = make_config(arch, size, arch={"pairing": pairing, "connector": connector})
    try:
        params = count_params(config)
    except ConfigError as refused:
        assert (size, pairing, connector) in {("d16", "params", "mlp")}, refused
        return
    expected = {k: v for k, v in dataclasses.asdict(params).items() if k != "experts_active" and v}
    model = build(config)
    assert counted(model, config) == expected
    assert params.total == sum(p.numel() for p in model.parameters())
    assert params.non_embedding == params.total - 2 * config.data.vocab_size * config.size.width


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_active_parameters_are_those_one_token_passes(make_config: Callable[..., RunConfig], top_k: int) -> None:
    config = make_config("moe", arch={"top_k": top_k})
    params, model = count_params(config), build(config)
    expert = sum(p[0].numel() for name, p in model.named_parameters() if name.endswith((".up", ".down")))
    assert params.experts_active == top_k * expert
    assert params.active == params.total - (8 - top_k) * expert
    assert params.active_non_embedding == params.active - params.embedding - params.head


@pytest.mark.parametrize("arch", ARCHS)
def test_vision_parameters_are_named(make_config: Callable[..., RunConfig], arch: str) -> None:
    names = [name for name, _ in build(make_config(arch)).named_parameters()]
    vision = [name for name in names if is_vision(name)]
    assert "patch_position" in vision
    assert not any(name.startswith(("trunk.", "embedding.", "head.")) for name in vision)
    assert len(vision) == (2 if arch != "late" else len([n for n in names if n.startswith("vision.")]) + 2)


def test_a_vocabulary_that_was_never_read_is_refused(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match="data.vocab_size=0: it is read from the shards"):
        build(dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=0)))
