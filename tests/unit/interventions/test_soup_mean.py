"""Arithmetic of soups: what means must be equal to, bit for bit, and what is never averaged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nmm.config import ConfigError, RunConfig
from nmm.interventions.soup_mean import PIECE, averaged, blend, fp32, ratio, stock
from nmm.model.build import build

NAMES = frozenset(("a", "b"))


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (2, PIECE // 2 + 15), "b": (7,)}  # one in several pieces
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def mean_of(*members: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mean = fp32(members[0], members[0])
    for count, member in enumerate(members[1:], start=1):
        blend(mean, mean, count, member, frozenset(mean))
    return mean


@pytest.mark.parametrize("count", range(1, 10))
def test_a_soup_of_equal_members_is_the_member_bit_for_bit(count: int) -> None:
    found = mean_of(*[weights(0)] * count)
    assert all(torch.equal(found[name], weights(0)[name]) for name in NAMES)


def test_the_mean_of_two_is_correctly_rounded_and_does_not_depend_on_their_order() -> None:
    one, two = weights(1), weights(2)
    found, turned = mean_of(one, two), mean_of(two, one)
    for name in NAMES:
        exact = (one[name].double() + two[name].double()) / 2
        assert torch.equal(found[name], exact.float()) and torch.equal(found[name], turned[name])


@pytest.mark.parametrize("count", (3, 8))
def test_the_mean_of_many_is_that_of_fp64_but_for_the_last_place(count: int) -> None:
    members = [weights(seed) for seed in range(count)]
    found = mean_of(*members)
    for name in NAMES:
        exact = torch.stack([m[name].double() for m in members]).mean(dim=0)
        assert torch.allclose(found[name].double(), exact, rtol=0, atol=count * 2.0**-24 * 4)


def test_members_in_bf16_are_averaged_in_fp32() -> None:
    one, two = weights(1, torch.bfloat16), weights(2, torch.bfloat16)
    found = mean_of(one, two)
    for name in NAMES:
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], (one[name].float() + two[name].float()) / 2)
    assert not torch.equal(found["a"], found["a"].bfloat16().float()), "a mean in bf16 would have lost digits"


def test_a_trial_leaves_the_running_mean_alone() -> None:
    mean, trial = fp32(weights(0), NAMES), fp32(weights(0), NAMES)
    blend(trial, mean, 1, weights(1), NAMES)
    assert torch.equal(mean["a"], weights(0)["a"])
    assert torch.equal(trial["a"], mean_of(weights(0), weights(1))["a"])


@pytest.mark.parametrize("buffer", (torch.tensor(7), torch.tensor([1.5, 2.0])))
def test_buffers_that_no_mean_is_meant_of_must_be_equal(buffer: torch.Tensor) -> None:
    one, two = {**weights(0), "seen": buffer}, {**weights(1), "seen": buffer.clone()}
    mean = fp32(one, one)
    blend(mean, mean, 1, two, NAMES)
    assert torch.equal(mean["seen"], buffer) and mean["seen"].dtype == buffer.dtype
    with pytest.raises(ConfigError, match="buffer seen .* differs between members"):
        blend(mean, mean, 2, {**two, "seen": buffer + 1}, NAMES)


def test_balancing_offsets_of_experts_are_averaged_with_their_routers(make_config: Callable[..., RunConfig]) -> None:
    biased = averaged(build(make_config("moe", arch={"balancing": "bias"})))
    offsets = {name for name in biased if name.endswith(".bias")}
    assert offsets and all(name.replace(".bias", ".router.weight") in biased for name in offsets)
    plain = build(make_config("early", block={"tied_head": True}))
    assert averaged(plain) == {name for name, _ in plain.state_dict().items()}, "both names of a tied head"


# ---------------------------------------------------------------------------------------------------------------------
# Model Stock


def test_two_members_of_model_stock_follow_the_formula_of_the_paper() -> None:
    anchor, one, two = (weights(seed) for seed in range(3))
    mean = mean_of(one, two)
    ratios = stock(mean, anchor, [one, two], NAMES)
    for name in NAMES:
        w0, w1, w2 = (m[name].double().numpy().ravel() for m in (anchor, one, two))
        cos = float((w1 - w0) @ (w2 - w0) / np.linalg.norm(w1 - w0) / np.linalg.norm(w2 - w0))
        t = 2 * cos / (1 + cos)
        assert ratios[name] == pytest.approx(t, rel=1e-9)
        expected = t * (w1 + w2) / 2 + (1 - t) * w0
        assert mean[name].numpy().ravel() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_ratio_goes_from_the_start_to_the_mean_as_members_agree() -> None:
    assert ratio(torch.ones(3, 3).double()) == pytest.approx(1.0)
    assert ratio(torch.eye(3).double()) == 0.0
    assert ratio(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]).double()) == 0.0, "no walk away from the mean"
    half = torch.full((4, 4), 0.5).double().fill_diagonal_(1.0)
    assert ratio(half) == pytest.approx(4 * 0.5 / (1 + 3 * 0.5))
    assert ratio(torch.zeros(2, 2).double()) == 0.0, "nobody has moved"
    assert ratio(torch.tensor([[2.0]]).double()) == 1.0, "one member is its own soup"
