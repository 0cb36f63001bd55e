"""Grouped experts against a loop over experts: values, every gradient, empty experts, one expert for all, top-2."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmm.model.moe import MoE, loop_over_experts

B, T, D, F = 3, 10, 16, 24


def make(num_experts: int = 4, top_k: int = 1, seed: int = 0, router_scale: float = 1.0) -> MoE:
    layer = MoE(D, F, num_experts, top_k)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(layer.named_parameters()):
        scale = router_scale if name.startswith("router") else 0.3
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return layer


def inputs(seed: int = 1, rows: int = B, width: int = T) -> Tensor:
    return torch.randn(rows, width, D, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def gradients(layer: MoE, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of a random projection of ``y`` with respect to the input and every parameter."""
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)
    names = ["input", *(name for name, _ in layer.named_parameters())]
    found = torch.autograd.grad((y * direction).sum(), [x, *layer.parameters()])
    return dict(zip(names, found, strict=True))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


def only(layer: MoE, experts: list[int], x: Tensor) -> MoE:
    """The layer with a router that sends every token of ``x`` to the first of ``experts``, then to the next."""
    with torch.no_grad():
        mean = x.detach().reshape(-1, D)
        layer.router.weight.zero_()
        mean[:, 0] = mean[:, 0].abs() + 1.0  # in place: a direction in which every token is positive
        for rank, expert in enumerate(experts):
            layer.router.weight[expert, 0] = float(10 - rank)
    return layer


@pytest.mark.parametrize("num_experts", [2, 4, 8])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grouped_is_the_loop(num_experts: int, top_k: int, seed: int) -> None:
    layer, x = make(num_experts, top_k, seed), inputs(seed + 10)
    grouped, looped = layer(x, torch.ones(B, T))[0], loop_over_experts(layer, x)
    assert relative(grouped, looped) <= 1e-5
    ours, theirs = gradients(layer, x, grouped), gradients(layer, x, looped)
    assert set(ours) == {"input", "router.weight", "up", "down"}
    for name in ours:
        assert theirs[name].abs().max() > 0
        assert relative(ours[name], theirs[name]) <= 1e-5, name


@pytest.mark.parametrize(("top_k", "experts"), [(1, [2]), (1, [0]), (1, [3]), (2, [3, 1])])
def test_all_tokens_to_one_expert_and_the_others_empty(top_k: int, experts: list[int]) -> None:
    x = inputs()
    layer = only(make(4, top_k), experts, x)
    grouped, routing = layer(x, torch.ones(B, T))
    assert [int(n) for n in routing.load] == [B * T if e in experts else 0 for e in range(4)]
    looped = loop_over_experts(layer, x)
    assert relative(grouped, looped) <= 1e-5
    ours, theirs = gradients(layer, x, grouped), gradients(layer, x, looped)
    for name in ours:
        assert relative(ours[name], theirs[name]) <= 1e-5, name
    for e in range(4):
        used = e in experts
        assert (ours["up"][e].abs().max() > 0) == used == bool(ours["down"][e].abs().max() > 0)


@pytest.mark.parametrize("rows", [1, 7])
def test_batches_of_one_token(rows: int) -> None:
    layer, x = make(8), inputs(rows=rows, width=1)
    assert relative(layer(x, torch.ones(rows, 1))[0], loop_over_experts(layer, x)) <= 1e-5


def test_bf16_is_the_loop_within_its_rounding() -> None:
    layer, x = make(4), inputs()
    exact = loop_over_experts(layer, x)
    low = layer.bfloat16()
    x16 = x.detach().bfloat16().requires_grad_()
    y16 = low(x16, torch.ones(B, T))[0]
    same_route = (
        (low.router(x16).float().argmax(-1) == make(4).router(x).argmax(-1)).float().mean()
    )  # a router in bf16 may flip near ties
    assert y16.dtype == torch.bfloat16
    assert same_route > 0.9
    agree = low.router(x16).float().argmax(-1) == make(4).router(x).argmax(-1)
    assert relative(y16.float()[agree], exact[agree]) <= 0.03
    assert all(g.isfinite().all() for g in gradients(low, x16, y16).values())


def test_autocast_runs_forward_and_backward() -> None:
    layer, x = make(4), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, torch.ones(B, T))[0]
    looped = loop_over_experts(layer, x)
    close = (y - looped).abs().amax(dim=-1) <= 0.03 * looped.abs().max()
    assert close.float().mean() > 0.9
    assert all(g.isfinite().all() for g in gradients(layer, x, y).values())


@pytest.mark.parametrize("top_k", [1, 2])
def test_no_token_is_dropped(top_k: int) -> None:
    """Every token gets its own expert's value, also when one expert takes nearly all of them."""
    x = inputs()
    layer = only(make(4, top_k), [1, 2][:top_k], x)
    y, routing = layer(x, torch.ones(B, T))
    assert int(routing.load.sum()) == B * T * top_k
    assert (y.abs().amax(dim=-1) > 0).all()
    alone = torch.cat([layer(x[b : b + 1, t : t + 1], torch.ones(1, 1))[0] for b in range(B) for t in range(T)])
    assert relative(y.reshape(-1, D), alone.reshape(-1, D)) <= 1e-5


def test_balance_loss_on_a_hand_example() -> None:
    """Two experts, one row of four tokens: three to expert 0 with probability 0.8, one to expert 1 with 0.9.

    f = (3/4, 1/4), P = ((3 * 0.8 + 0.1) / 4, (3 * 0.2 + 0.9) / 4) = (0.625, 0.375), loss = 2 * (f0 P0 + f1 P1).
    """
    layer = make(2)
    probability = torch.tensor([[[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]])
    chosen = torch.tensor([[[0], [0], [0], [1]]])
    routing = layer._statistics(probability, chosen, torch.ones(1, 4))
    assert routing.balance.tolist() == pytest.approx([2 * (0.75 * 0.625 + 0.25 * 0.375)])
    assert routing.load.tolist() == [3, 1]


def test_padding_counts_for_nothing_in_the_balance() -> None:
    layer = make(2)
    probability = torch.tensor([[[0.8, 0.2], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5]]])
    chosen = torch.tensor([[[0], [1], [0], [0]]])
    padded = layer._statistics(probability, chosen, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    short = layer._statistics(probability[:, :2], chosen[:, :2], torch.ones(1, 2))
    assert padded.balance.tolist() == pytest.approx(short.balance.tolist())
    assert padded.load.tolist() == short.load.tolist() == [1, 1]
    nothing = layer._statistics(probability, chosen, torch.zeros(1, 4))
    assert nothing.balance.tolist() == [0.0]


def test_balance_is_one_when_balanced_and_the_number_of_experts_when_collapsed() -> None:
    layer = make(4)
    uniform = torch.full((1, 4, 4), 0.25)
    assert layer._statistics(uniform, torch.arange(4).view(1, 4, 1), torch.ones(1, 4)).balance.item() == pytest.approx(
        1
    )
    collapsed = torch.nn.functional.one_hot(torch.zeros(1, 4, dtype=torch.long), 4).float()
    chosen = torch.zeros(1, 4, 1, dtype=torch.long)
    assert layer._statistics(collapsed, chosen, torch.ones(1, 4)).balance.item() == pytest.approx(4)


def test_balance_has_a_gradient_that_evens_the_load() -> None:
    """One step down the balance loss moves the router's mean probability away from the crowded expert."""
    x = inputs()
    layer = only(make(4), [2], x)
    layer.router.weight.data *= 0.05
    x = x.detach()
    balance = layer(x, torch.ones(B, T))[1].balance.sum()
    (gradient,) = torch.autograd.grad(balance, [layer.router.weight])
    before = layer.router(x).softmax(-1)[..., 2].mean()
    layer.router.weight.data -= 0.1 * gradient
    assert layer.router(x).softmax(-1)[..., 2].mean() < before
