"""The built model holds, group by group, what the formulas say: every architecture, size and pairing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import ALL_ARCHS, ARCHS, PAPER_SIZES, SIZES, composed

from nmm.config import ConfigError, RunConfig, from_dict
from nmm.flops import count_params, has_experts
from nmm.model.build import build, is_encoder, is_patch
from nmm.model.fusion import NativeMultimodalModel
from nmm.params import PARTS

MakeConfig = Callable[..., RunConfig]

SWIGLU = {"ffn": "swiglu", "vision": "swiglu", "hidden_multiple": 16}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((arch, {}) for arch in ALL_ARCHS),
    *(
        ("late", {"arch": {"pairing": p, "connector": c}})
        for p in ("flops", "params", "none")
        for c in ("linear", "mlp")
    ),
    *((arch, {"block": SWIGLU}) for arch in ("early", "late", "moe_fine")),
    ("early", {"block": {"qk_norm": "none", "norm": "layer", "patch_position": False, "tied_head": True}}),
    ("early", {"block": {"qk_norm": "width"}, "size": {"num_kv_heads": 1, "head_dim": 12, "hidden": 30}}),
    ("moe", {"arch": {"top_k": 2, "granularity": 2, "shared_experts": 3}}),
    ("moe", {"arch": {"shared_experts": 1, "balancing": "bias"}, "block": SWIGLU}),
    ("moe_aware_matched", {"arch": {"top_k": 2, "granularity": 2}}),
]


def group_of(name: str, config: RunConfig) -> str:
    """Which field of ``Params`` a parameter belongs to."""
    if name in ("embedding.weight", "head.weight"):
        return name.removesuffix(".weight")
    if name == "patch_position" or (name == "connector.weight" and config.arch.fusion == "early"):
        return "patch"
    if name.startswith(("vision.", "connector.")):
        return name.split(".")[0]
    if "norm" in name.split(".")[-2]:
        return "norm"
    if ".attention." in name:
        return "attention"
    if ".ffn.router" in name:
        return "router"
    return "experts" if has_experts(config, int(name.split(".")[2])) else "ffn"


def counted(model: NativeMultimodalModel) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[group_of(name, model.config)] += parameter.numel()
    return counts


def expected(config: RunConfig) -> dict[str, int]:
    """Groups that hold anything."""
    return {name: value for name, value in vars(count_params(config)).items() if value and name not in PARTS}


def meta(config: RunConfig) -> NativeMultimodalModel:
    """The model without memory or values."""
    with torch.device("meta"):
        return NativeMultimodalModel(config)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", ALL_ARCHS)
def test_parameters_by_group_of_the_ladder(make_config: MakeConfig, arch: str, size: str) -> None:
    config = make_config(arch, size)
    assert counted(meta(config)) == expected(config)


@pytest.mark.parametrize(("arch", "groups"), OPTIONS, ids=lambda value: str(value).replace("'", ""))
def test_parameters_by_group_of_every_option(make_config: MakeConfig, arch: str, groups: dict[str, Any]) -> None:
    config = make_config(arch, "d48", **groups)
    assert counted(build(config)) == expected(config)


@pytest.mark.parametrize("size", PAPER_SIZES)
@pytest.mark.parametrize("arch", ["early", "late", "moe"])
def test_parameters_by_group_at_the_paper_s_sizes(arch: str, size: str) -> None:
    config = from_dict(composed(arch=arch, size=size) | {"budget": {"steps": 1}})
    model = meta(config)
    assert counted(model) == expected(config)
    matrices = [p for name, p in model.named_parameters() if name.startswith("vision.vit.blocks.") and p.ndim == 2]
    assert sum(p.numel() for p in matrices) == count_params(config).vision_matrices


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_active_parameters_are_those_one_token_passes(make_config: MakeConfig, top_k: int) -> None:
    config = make_config("moe", arch={"top_k": top_k})
    params, model = count_params(config), build(config)
    expert = sum(p[0].numel() for name, p in model.named_parameters() if name.endswith((".up", ".down")))
    assert params.experts_active == top_k * expert
    assert params.active == params.total - (8 - top_k) * expert
    assert params.active_non_embedding == params.active - params.embedding - params.head


@pytest.mark.parametrize("arch", ARCHS)
def test_vision_parameters_are_named(make_config: MakeConfig, arch: str) -> None:
    names = [name for name, _ in build(make_config(arch)).named_parameters()]
    vision = [name for name in names if is_encoder(name) or is_patch(name)]
    assert "patch_position" in vision
    assert not any(name.startswith(("trunk.", "embedding.", "head.")) for name in vision)
    assert len(vision) == (2 if arch != "late" else len([n for n in names if n.startswith("vision.")]) + 2)


def test_a_vocabulary_that_was_never_read_is_refused(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match="data.vocab_size=0: it is read from the shards"):
        build(dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=0)))
