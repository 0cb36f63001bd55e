"""RMSNorm, rotary positions, attention and FFN against their definitions written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nmm.model.layers import Attention, Context, FeedForward, RMSNorm, rotary_angles, rotate


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def filled(module: torch.nn.Module) -> torch.nn.Module:
    for number, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=number) / math.sqrt(parameter.shape[-1])
    return module


def causal_context(rows: int, width: int, head_dim: int, position: Tensor | None = None) -> Context:
    position = torch.arange(width).expand(rows, width) if position is None else position
    mask = torch.full((width, width), float("-inf")).triu(1).expand(rows, 1, width, width)
    return Context(mask, *rotary_angles(position, head_dim), torch.ones(rows, width))


def test_rms_norm_is_its_definition() -> None:
    norm = RMSNorm(6)
    norm.weight.data = random(6, seed=1)
    x = random(3, 6) * 5
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-6)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert norm(torch.zeros(1, 6)).isfinite().all()


def test_rotation_is_a_rotation_by_position_times_frequency() -> None:
    x = random(1, 1, 4, 6)
    position = torch.tensor([[0, 1, 5, 100]])
    cos, sin = rotary_angles(position, 6)
    assert cos.shape == sin.shape == (1, 1, 4, 3)
    turned = rotate(x, cos, sin)
    for t, p in enumerate([0, 1, 5, 100]):
        for pair in range(3):
            angle = p * 10_000.0 ** (-pair / 3)
            a, b = x[0, 0, t, pair].item(), x[0, 0, t, pair + 3].item()
            assert turned[0, 0, t, pair].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-4)
            assert turned[0, 0, t, pair + 3].item() == pytest.approx(
                a * math.sin(angle) + b * math.cos(angle), abs=1e-4
            )


def test_scores_depend_on_distance_alone() -> None:
    q, k = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=1)

    def score(at_q: int, at_k: int) -> float:
        turned = [rotate(x, *rotary_angles(torch.tensor([[at]]), 8)) for x, at in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(3, 7), abs=1e-2)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_is_its_definition(num_heads: int) -> None:
    B, T, D = 2, 5, 16
    layer = filled(Attention(D, num_heads))
    assert isinstance(layer, Attention)
    x, context, K = random(B, T, D), causal_context(B, T, D // num_heads), D // num_heads
    qkv = (x @ layer.qkv.weight.T).view(B, T, 3, num_heads, K)
    heads = torch.empty(B, T, num_heads, K)
    for h in range(num_heads):
        q, k = (layer_norm(qkv[:, :, i, h]) for i, layer_norm in enumerate((layer.query_norm, layer.key_norm)))
        q, k = (rotate(y[:, None], context.cos, context.sin)[:, 0] for y in (q, k))
        scores = (q @ k.mT / math.sqrt(K)).masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        heads[:, :, h] = scores.softmax(-1) @ qkv[:, :, 2, h]
    expected = heads.reshape(B, T, D) @ layer.out.weight.T
    assert torch.allclose(layer(x, context), expected, atol=1e-5)


def test_attention_ignores_the_scale_of_its_input_directions() -> None:
    """Queries and keys are normed, so scaling their weights changes nothing: attention scores cannot blow up."""
    layer = filled(Attention(8, 1))
    assert isinstance(layer, Attention)
    x, context = random(1, 4, 8), causal_context(1, 4, 8)
    before = layer(x, context)
    layer.qkv.weight.data[:16] *= 1000
    assert torch.allclose(layer(x, context), before, atol=1e-4)


def test_feed_forward_is_squared_relu() -> None:
    layer = filled(FeedForward(4, 9))
    assert isinstance(layer, FeedForward)
    x = random(2, 3, 4)
    y, routing = layer(x, torch.ones(2, 3))
    assert routing is None
    assert torch.allclose(y, (x @ layer.up.weight.T).clamp(min=0) ** 2 @ layer.down.weight.T, atol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["up.weight", "down.weight"]
