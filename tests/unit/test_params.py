"""Parameters by formula: the sizes that arXiv 2504.07951 prints, and the rules the counts follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from lab import ALL_ARCHS, PAPER_SIZES, SIZES, composed

from nmm.config import ConfigError, RunConfig, from_dict, hidden_width
from nmm.flops import count_params, expert_hidden, ffn_hidden, has_experts
from nmm.params import Params, vision_encoder

MakeConfig = Callable[..., RunConfig]

# size -> FFN hidden width, N and N without embeddings in millions, and in billions N with eight experts in every block
EARLY = {
    "275m": (2304, "274.8", "194.2", "1.20"),
    "464m": (3072, "464.0", "354.3", "2.15"),
    "932m": (4352, "931.7", "767.1", "4.51"),
    "1.6b": (5888, "1626.8", "1404.1", "8.18"),
    "2.3b": (7168, "2279.9", "2015.2", "11.76"),
    "3.4b": (8704, "3354.2", "3028.3", "17.53"),
    "8b": (13824, "8129.1", "7612.7", ""),
}
# size -> millions in the encoder, in the decoder, in both (3.7b: the rounded parts add up to 3707.3, the counts do not)
LATE = {
    "289m": ("42.5", "247.3", "289.8"),
    "494m": ("81.8", "411.6", "493.4"),
    "1b": ("169.9", "834.4", "1004.3"),
    "1.75b": ("308.3", "1439.7", "1748.0"),
    "2.4b": ("418.3", "2012.2", "2430.5"),
    "3.7b": ("679.5", "3027.8", "3707.2"),
}


def paper(arch: str, size: str) -> RunConfig:
    return from_dict(composed(arch=arch, size=size) | {"budget": {"steps": 1}})


def millions(count: int) -> str:
    return f"{count / 1e6:.1f}"


def test_every_size_of_the_paper_is_in_a_table() -> None:
    assert sorted([*EARLY, *LATE]) == sorted(PAPER_SIZES)


@pytest.mark.parametrize("size", EARLY)
def test_early_sizes_are_those_of_the_paper(size: str) -> None:
    config = paper("early", size)
    params = count_params(config)
    found = (ffn_hidden(config), millions(params.paper), millions(params.paper_non_embedding))
    assert found == EARLY[size][:3]
    assert config.data.vocab_size == 50_432
    assert params.paper == params.paper_stored < params.total < 1.005 * params.paper


@pytest.mark.parametrize("size", EARLY)
def test_experts_have_the_totals_of_the_paper(size: str) -> None:
    params, dense = count_params(paper("moe", size)), count_params(paper("early", size))
    assert params.paper == dense.paper
    if EARLY[size][3]:  # no MoE of 8b is printed
        assert f"{params.paper_stored / 1e9:.2f}" == EARLY[size][3]


@pytest.mark.parametrize("size", LATE)
def test_late_sizes_are_those_of_the_paper(size: str) -> None:
    params = count_params(paper("late", size))
    both = params.vision_matrices + params.paper
    assert (millions(params.vision_matrices), millions(params.paper), millions(both)) == LATE[size]


@pytest.mark.parametrize("size", EARLY)
def test_a_late_model_of_an_early_size_has_half_its_width_in_the_encoder(size: str) -> None:
    config = paper("late", size)
    assert (2 * config.size.vision_width, config.size.vision_depth) == (config.size.width, config.size.depth)
    assert 0 < ffn_hidden(config) < config.hidden  # paired by FLOPs


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "expected"),
    [
        (64, 4.0, 1, 256),
        (50, 2.5, 1, 125),
        (37, 2.7, 1, 100),  # 99.9
        (800, 8 / 3, 256, 2304),  # floor 2133
        (768, 8 / 3, 256, 2048),  # no step up from a whole multiple
        (96, 8 / 3, 256, 256),
        (97, 8 / 3, 256, 512),  # floor 258
    ],
)
def test_hidden_width(width: int, ratio: float, multiple: int, expected: int) -> None:
    assert hidden_width(width, ratio, multiple) == expected


def test_a_given_hidden_width_wins(make_config: MakeConfig) -> None:
    config = make_config("early", "d32", size={"hidden": 77})
    assert ffn_hidden(config) == config.hidden == 77
    assert count_params(config).ffn == 2 * 2 * 32 * 77
    assert ffn_hidden(make_config("late", "d32", size={"hidden": 77}, arch={"pairing": "none"})) == 77


def without(params: Params, *names: str) -> dict[str, int]:
    return {name: value for name, value in dataclasses.asdict(params).items() if name not in names}


@pytest.mark.parametrize(
    ("groups", "changed"),
    [
        ({"block": {"ffn": "swiglu"}}, {"ffn": 3 * 4 * 64 * 256}),
        ({"block": {"qk_norm": "none"}}, {"norm": 9 * 64}),
        ({"block": {"qk_norm": "width"}}, {"norm": 9 * 64 + 4 * 128}),
        ({"block": {"norm": "layer"}}, {}),
        ({"block": {"rope": "2d", "init": "depth"}}, {}),
        ({"block": {"tied_head": True}}, {"head": 0}),
        ({"block": {"patch_position": False}}, {"patch": 192 * 64}),
        ({"size": {"num_kv_heads": 2}}, {"attention": 4 * 64 * 64 * 3}),
        ({"size": {"head_dim": 32}}, {"attention": 4 * 64 * 128 * 4, "norm": 9 * 64 + 4 * 2 * 32}),
        ({"size": {"num_kv_heads": 1}, "block": {"qk_norm": "width"}}, {"attention": 4 * 64 * 16 * 10,
                                                                        "norm": 9 * 64 + 4 * 5 * 16}),
    ],
)  # fmt: skip
def test_an_option_changes_only_its_own_groups(
    make_config: MakeConfig, groups: dict[str, Any], changed: dict[str, int]
) -> None:
    before, after = (count_params(make_config("early", "d64", **g)) for g in ({}, groups))
    assert {name: getattr(after, name) for name in changed} == changed
    assert without(after, *changed) == without(before, *changed)


@pytest.mark.parametrize("size", SIZES)
def test_moe_is_early_with_experts(make_config: MakeConfig, size: str) -> None:
    early, moe = count_params(make_config("early", size)), count_params(make_config("moe", size))
    assert moe.active - moe.router == early.total == early.active
    assert moe.experts == 8 * moe.experts_active == 8 * early.ffn
    assert moe.total - moe.active == 7 * early.ffn
    assert moe.active_non_embedding - moe.router == early.non_embedding
    assert (early.experts, early.router, moe.ffn) == (0, 0, 0)


def test_finer_experts_cost_the_same_but_for_the_router(make_config: MakeConfig) -> None:
    coarse, fine = count_params(make_config("moe", "d64")), count_params(make_config("moe_fine", "d64"))
    assert without(fine, "router") == without(coarse, "router")
    assert fine.router == 4 * coarse.router == 4 * 64 * 32
    assert expert_hidden(make_config("moe_fine", "d64")) == 64


def test_shared_experts_are_stored_and_active(make_config: MakeConfig) -> None:
    plain = count_params(make_config("moe_fine", "d64"))
    shared = count_params(make_config("moe_fine", "d64", arch={"shared_experts": 2}))
    two = 4 * 2 * 2 * 64 * 64
    assert (shared.experts - plain.experts, shared.experts_active - plain.experts_active) == (two, two)
    assert shared.router == plain.router


def test_every_second_block_is_dense(make_config: MakeConfig) -> None:
    config = make_config("moe", "d64", arch={"moe_every": 2})
    assert [has_experts(config, layer) for layer in range(4)] == [False, True, False, True]
    params, all_sparse = count_params(config), count_params(make_config("moe", "d64"))
    assert params.ffn == params.experts_active == params.experts // 8 == 2 * 2 * 64 * 256
    assert params.router == all_sparse.router // 2
    assert params.paper == all_sparse.paper


def test_routing_by_modality_counts_like_any_other(make_config: MakeConfig) -> None:
    matched, moe = count_params(make_config("moe_aware_matched", "d64")), count_params(make_config("moe", "d64"))
    assert matched == moe
    aware = count_params(make_config("moe_aware", "d64"))
    assert (aware.experts, aware.experts_active) == (moe.experts // 4, moe.experts_active)


@pytest.mark.parametrize("arch", ALL_ARCHS)
def test_the_sums(make_config: MakeConfig, arch: str) -> None:
    params = count_params(make_config(arch, "d64"))
    parts = without(params, "experts_active", "vision_matrices")
    assert params.total == sum(parts.values())
    assert params.non_embedding == params.total - params.embedding - params.head
    assert params.paper_stored - params.paper == params.total - params.active
    aside = params.norm + params.router + params.patch + params.vision + params.connector
    assert params.active - params.paper == aside


def test_a_timm_model_must_be_counted_first() -> None:
    arch = {"fusion": "late", "pairing": "none", "vision_model": "vit_tiny_patch16_224"}
    config = from_dict({"arch": arch, "budget": {"steps": 1}})
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224' has not been counted yet; call nmm.resolve.count_enc"):
        count_params(config)
    facts = {
        "width": 192.0,
        "params": 5e6,
        "matrices": 4e6,
        "blocks": 12.0,
        "forward": 1e9,
        "backward": 2e9,
        "saved": 1e6,
    }
    config = from_dict({"arch": arch | {"vision_facts": facts}, "budget": {"steps": 1}})
    assert (vision_encoder(config).params, count_params(config).vision) == (5_000_000, 5_000_000)
    assert count_params(config).connector == 192 * 32
