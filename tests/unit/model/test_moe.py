"""Grouped experts against a loop over experts, with every option: values, every gradient, empty experts, bf16."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nmm.config import Arch, Block, ConfigError, RunConfig, Size
from nmm.model.layers import Context
from nmm.model.moe import MoE, Routing, loop_over_experts

B, T, D, F = 3, 10, 16, 32
NO_ANGLES = torch.empty(0)

OPTIONS: dict[str, dict[str, Any]] = {
    "top-1": {},
    "top-2": {"top_k": 2},
    "two experts": {"num_experts": 2},
    "fine-grained": {"granularity": 4},
    "fine-grained top-2": {"num_experts": 8, "granularity": 2, "top_k": 2},
    "shared": {"shared_experts": 1},
    "shared and fine-grained": {"shared_experts": 3, "granularity": 2},
    "swiglu": {"ffn": "swiglu"},
    "aware": {"routing": "aware", "image_experts": 1},
    "hard-wired": {"num_experts": 2, "routing": "aware", "image_experts": 1},
    "bias": {"balancing": "bias"},
    "everything": {
        "num_experts": 6,
        "top_k": 2,
        "granularity": 2,
        "shared_experts": 2,
        "routing": "aware",
        "image_experts": 2,
        "balancing": "bias",
        "ffn": "swiglu",
    },
}


def config_of(num_experts: int = 4, ffn: str = "relu2", width: int = D, hidden: int = F, **arch: Any) -> RunConfig:
    return RunConfig(
        arch=Arch(num_experts=num_experts, **arch), block=Block(ffn=ffn), size=Size(width=width, hidden=hidden)
    )


def make(seed: int = 0, router_scale: float = 1.0, **options: Any) -> MoE:
    """A layer with random weights, and random biases where it has some."""
    layer = MoE(config_of(**options))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(layer.named_parameters()):
        scale = router_scale if name.startswith("router") else 0.3
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    if layer.bias is not None:
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.3)
    return layer


def inputs(seed: int = 1, rows: int = B, width: int = T) -> Tensor:
    return torch.randn(rows, width, D, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def context(rows: int = B, width: int = T, valid: Tensor | None = None, image: Tensor | None = None) -> Context:
    """About every third position an image's, unless given."""
    if image is None:
        image = (torch.arange(rows * width) % 3 == 1).view(rows, width)
    return Context(NO_ANGLES, NO_ANGLES, NO_ANGLES, torch.ones(rows, width) if valid is None else valid, image)


def gradients(layer: MoE, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of a random projection of ``y`` with respect to the input and every parameter; 0 where there is no way."""
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)
    names = ["input", *(name for name, _ in layer.named_parameters())]
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad((y * direction).sum(), wanted, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, wanted, found, strict=True)}


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


def assert_is_the_loop(layer: MoE, x: Tensor, where: Context) -> dict[str, Tensor]:
    """Equal to rounding, forward and backward; returns the gradients."""
    grouped, looped = layer(x, where)[0], loop_over_experts(layer, x, where)
    assert looped.abs().max() > 0
    assert relative(grouped, looped) <= 1e-5
    ours, theirs = gradients(layer, x, grouped), gradients(layer, x, looped)
    for name in ours:
        assert relative(ours[name], theirs[name]) <= 1e-5, name
    return ours


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_grouped_is_the_loop(name: str, seed: int) -> None:
    layer, x = make(seed, **OPTIONS[name]), inputs(seed + 10)
    found = assert_is_the_loop(layer, x, context())
    shared = {"shared.up.weight", "shared.down.weight"} if OPTIONS[name].get("shared_experts") else set()
    assert set(found) == {"input", "router.weight", "up", "down"} | shared
    for key, gradient in found.items():
        assert (gradient.abs().max() > 0) == (key != "router.weight" or name != "hard-wired")


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rows", [1, 7])
def test_batches_of_one_position(name: str, rows: int) -> None:
    assert_is_the_loop(make(**OPTIONS[name]), inputs(rows=rows, width=1), context(rows, 1))


@pytest.mark.parametrize("name", OPTIONS)
def test_batches_of_one_modality(name: str) -> None:
    """With modality-aware routing the experts of the other modality are all empty."""
    layer, x = make(**OPTIONS[name]), inputs()
    for image in (torch.zeros(B, T, dtype=torch.bool), torch.ones(B, T, dtype=torch.bool)):
        assert_is_the_loop(layer, x, context(image=image))


def only(layer: MoE, experts: list[int], x: Tensor) -> MoE:
    """The layer with a router that sends every position of ``x`` to the first of ``experts``, then to the next."""
    with torch.no_grad():
        flat = x.detach().reshape(-1, D)
        layer.router.weight.zero_()
        flat[:, 0] = flat[:, 0].abs() + 1.0  # in place: a direction in which every position is positive
        for rank, expert in enumerate(experts):
            layer.router.weight[expert, 0] = float(10 - rank)
    return layer


@pytest.mark.parametrize(
    ("experts", "options"),
    [
        ([2], {}),
        ([0], {"ffn": "swiglu"}),
        ([3], {"shared_experts": 1}),
        ([3, 1], {"top_k": 2}),
        ([1, 2], {"num_experts": 2, "granularity": 2}),
    ],
)
def test_all_positions_to_the_same_experts_and_the_others_empty(experts: list[int], options: dict[str, Any]) -> None:
    x = inputs()
    layer = only(make(**options), experts, x)
    ends = layer(x, context())[1].ends.tolist()
    assert [end - start for start, end in zip([0, *ends], ends, strict=False)] == [
        B * T if e in experts else 0 for e in range(4)
    ]
    found = assert_is_the_loop(layer, x, context())
    for e in range(4):
        assert (found["up"][e].abs().max() > 0) == (e in experts) == bool(found["down"][e].abs().max() > 0)


@pytest.mark.parametrize("top_k", [1, 2])
def test_no_position_is_dropped(top_k: int) -> None:
    """Every position gets its own expert's value, also when one expert takes all of them."""
    x = inputs()
    layer = only(make(top_k=top_k), [1, 2][:top_k], x)
    y, routing = layer(x, context())
    assert int(routing.ends[-1]) == B * T * top_k
    assert (y.abs().amax(dim=-1) > 0).all()
    alone = [layer(x[b : b + 1, t : t + 1], context(1, 1))[0] for b in range(B) for t in range(T)]
    assert relative(y.reshape(-1, D), torch.cat(alone).reshape(-1, D)) <= 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# what the options mean


def test_granularity_cuts_experts_without_adding_parameters_or_work() -> None:
    whole, cut = make(top_k=2), make(top_k=2, granularity=4)
    assert (cut.num_experts, cut.top_k) == (16, 8)
    assert cut.up.shape == (16, D, F // 4) and cut.down.shape == (16, F // 4, D)
    assert cut.up.numel() == whole.up.numel() and cut.down.numel() == whole.down.numel()
    assert cut.top_k * cut.up[0].numel() == whole.top_k * whole.up[0].numel()


def test_an_expert_cut_in_two_is_the_whole_when_both_halves_are_chosen_alike() -> None:
    """Halves of expert e are 2 e and 2 e + 1 here, with equal logits: half the probability each."""
    whole, cut = make(), make(granularity=2)
    with torch.no_grad():
        cut.router.weight.copy_(whole.router.weight.repeat_interleave(2, dim=0))
        cut.up.copy_(whole.up.view(4, D, 2, F // 2).transpose(1, 2).reshape(8, D, F // 2))
        cut.down.copy_(whole.down.view(8, F // 2, D))
    x = inputs()
    assert relative(2 * cut(x, context())[0], whole(x, context())[0]) <= 1e-5


def test_shared_experts_are_one_dense_ffn_added_to_the_rest() -> None:
    layer, x = make(shared_experts=3, granularity=2), inputs()
    assert layer.shared is not None
    assert layer.shared.up.weight.shape == (3 * F // 2, D)
    both = layer(x, context())[0]
    dense = torch.relu(x @ layer.shared.up.weight.T).square() @ layer.shared.down.weight.T
    layer.shared = None
    assert relative(both, layer(x, context())[0] + dense) <= 1e-6


def test_aware_routing_keeps_the_modalities_apart() -> None:
    layer, x, where = make(num_experts=6, routing="aware", image_experts=2, top_k=2), inputs(), context()
    routing = layer(x, where)[1]
    image, text = routing.expert[where.is_image], routing.expert[~where.is_image]
    assert image.unique().tolist() == [0, 1]
    assert text.unique().tolist() == [2, 3, 4, 5]
    assert torch.allclose(routing.probability.sum(dim=-1), torch.ones(B, T))
    assert (routing.probability[where.is_image][:, 2:] == 0).all()
    assert (routing.probability[~where.is_image][:, :2] == 0).all()


def test_one_expert_a_modality_is_the_hard_wired_baseline() -> None:
    """Each position passes through the FFN of its modality, with weight exactly 1."""
    layer, x, where = make(num_experts=2, routing="aware", image_experts=1), inputs(), context()
    image, text = (torch.relu(x @ layer.up[e]).square() @ layer.down[e] for e in (0, 1))
    y, routing = layer(x, where)
    assert relative(y, torch.where(where.is_image[..., None], image, text)) <= 1e-6
    assert routing.probability.max(dim=-1).values.eq(1).all()


def test_a_bias_changes_the_choice_but_not_the_weight() -> None:
    layer, x = make(balancing="bias"), inputs()
    layer.bias.zero_()
    free = layer(x, context())[1]
    layer.bias[2] = 2.0  # no probability reaches it
    y, biased = layer(x, context())
    assert (biased.expert == 2).all() and not (free.expert == 2).all()
    assert torch.equal(biased.probability, free.probability)
    expert = torch.relu(x @ layer.up[2]).square() @ layer.down[2]
    assert relative(y, free.probability[..., 2:3] * expert) <= 1e-6


def test_a_bias_lifts_no_expert_of_the_other_modality() -> None:
    layer, x, where = make(balancing="bias", routing="aware", image_experts=2), inputs(), context()
    layer.bias.copy_(torch.tensor([9.0, -9.0, -9.0, -9.0]))
    routing = layer(x, where)[1]
    assert (routing.expert[where.is_image] == 0).all()
    assert set(routing.expert[~where.is_image].unique().tolist()) <= {2, 3}


def test_biases_are_saved_and_only_where_they_are_used() -> None:
    assert "bias" in make(balancing="bias").state_dict()
    assert "bias" not in make(balancing="loss").state_dict()


# ---------------------------------------------------------------------------------------------------------------------
# bf16


def agreeing(low: Routing, exact: Routing) -> Tensor:
    """(B, T) positions that chose the same experts in both; rounding may flip near ties."""
    agree = (low.expert == exact.expert).all(dim=-1)
    assert agree.float().mean() > 0.8
    return agree


@pytest.mark.parametrize("name", OPTIONS)
def test_autocast_runs_the_experts_in_bf16_and_returns_what_a_linear_returns(name: str) -> None:
    layer, x = make(**OPTIONS[name]), inputs()
    exact, routed = layer(x, context())
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x, context())
        assert y.dtype == torch.nn.functional.linear(x, x[0]).dtype == torch.bfloat16
    assert routing.probability.dtype == torch.float32
    assert torch.equal(routing.probability, routed.probability)  # the router is left in fp32
    assert 0 < relative(y.float(), exact) <= 0.03
    found, exact_found = gradients(layer, x, y), gradients(layer, x, exact)
    for key in found:
        assert found[key].dtype == torch.float32
        assert relative(found[key], exact_found[key]) <= 0.05, key


@pytest.mark.parametrize("name", OPTIONS)
def test_a_bf16_layer_is_the_loop_within_its_rounding(name: str) -> None:
    layer, x = make(**OPTIONS[name]), inputs()
    exact, routed = layer(x, context())
    low, x16 = layer.bfloat16(), x.detach().bfloat16().requires_grad_()
    y16, routing = low(x16, context())
    assert y16.dtype == torch.bfloat16
    agree = agreeing(routing, routed)
    assert relative(y16.float()[agree], exact[agree]) <= 0.05
    assert all(g.isfinite().all() for g in gradients(low, x16, y16).values())


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ({"granularity": 3}, {}, "arch.granularity=3 does not divide 64"),
        ({"granularity": 16}, {}, "experts of hidden width 4: grouped products need multiples of 8"),
        ({}, {"hidden": 60}, "experts of hidden width 60: grouped products need multiples of 8"),
        ({"top_k": 9}, {}, "arch.top_k=9 must lie in 1..8"),
        ({"routing": "aware", "image_experts": 8}, {}, "arch.image_experts=8 must lie in 1..7"),
        ({"routing": "aware", "image_experts": 3, "top_k": 4}, {}, "arch.top_k=4 must lie in 1..3"),
        ({"image_experts": 1}, {}, "arch.image_experts=1 needs arch.routing=aware"),
    ],
)
def test_impossible_experts_are_refused(
    make_config: Callable[..., RunConfig], arch: dict[str, Any], size: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_config("moe", arch=arch, size=size)
