"""Norms, rotary positions, attention, caches and feed-forward nets against their definitions written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nmm.config import RunConfig, from_dict
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.layers import (
    Attention,
    Context,
    FeedForward,
    LayerCache,
    LayerNorm,
    RMSNorm,
    SwiGLU,
    activate,
    rotary_angles,
    rotate,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def filled(module: torch.nn.Module) -> torch.nn.Module:
    for number, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=number) / math.sqrt(parameter.shape[-1])
    return module


def attention(width: int, num_heads: int, size: dict[str, int] | None = None, **block: object) -> Attention:
    """The attention of a config, with random weights and gains."""
    values = {"size": {"width": width, "num_heads": num_heads, **(size or {})}, "block": block, "budget": {"steps": 1}}
    layer = filled(Attention(from_dict(values)))
    assert isinstance(layer, Attention)
    return layer


def causal_context(rows: int, width: int, head_dim: int, position: Tensor | None = None) -> Context:
    position = torch.arange(width).expand(rows, width) if position is None else position
    mask = torch.full((width, width), float("-inf")).triu(1).expand(rows, 1, width, width)
    is_image = torch.zeros(rows, width, dtype=torch.bool)
    return Context(mask, *rotary_angles(position, head_dim), torch.ones(rows, width), is_image)


# ------------------------------------------------------------------------------------------------------------ norms


def test_rms_norm_is_its_definition() -> None:
    norm = RMSNorm(6)
    norm.weight.data = random(6, seed=1)
    x = random(3, 6) * 5
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_layer_norm_is_its_definition() -> None:
    norm = LayerNorm(6)
    norm.weight.data = random(6, seed=1)
    x = random(3, 6) * 5 + 2
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_norms_keep_the_dtype_and_take_zeros(kind: Callable[[int], torch.nn.Module]) -> None:
    norm = kind(6)
    assert norm(random(3, 6).bfloat16()).dtype == torch.bfloat16
    assert norm(torch.zeros(1, 6)).isfinite().all()


@pytest.mark.parametrize(("norm", "kind"), [("rms", RMSNorm), ("layer", LayerNorm)])
def test_block_norm_is_the_norm_of_every_place(
    make_config: Callable[..., RunConfig], norm: str, kind: type[torch.nn.Module]
) -> None:
    model = NativeMultimodalModel(make_config(block={"norm": norm, "norm_eps": 1e-3}))
    norms = {name: module for name, module in model.named_modules() if name.endswith("norm")}
    assert len(norms) == 4 * model.config.size.depth + 1
    assert all(type(module) is kind and module.eps == 1e-3 for module in norms.values())


# ------------------------------------------------------------------------------------------------- rotary positions


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


def test_two_coordinates_turn_alternating_pairs() -> None:
    position = torch.tensor([[[3, 3], [5, 2]]])
    cos, sin = rotary_angles(position, 8, theta=100.0)
    for t, (row, column) in enumerate([(3, 3), (5, 2)]):
        for pair in range(4):
            angle = (row if pair % 2 == 0 else column) * 100.0 ** (-pair / 4)
            assert cos[0, 0, t, pair].item() == pytest.approx(math.cos(angle), abs=1e-6)
            assert sin[0, 0, t, pair].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_a_coordinate_given_twice_is_one_position_exactly() -> None:
    position = torch.arange(300).view(2, 150)
    twice = rotary_angles(position[..., None].repeat(1, 1, 2), 12)
    assert all(torch.equal(one, two) for one, two in zip(rotary_angles(position, 12), twice, strict=True))


# -------------------------------------------------------------------------------------------------------- attention


def heads_by_hand(layer: Attention, x: Tensor, context: Context, qk_norm: str) -> Tensor:
    """Attention written out head by head, for H query heads and G heads of keys and values."""
    B, T, _ = x.shape
    H, G, K = layer.num_heads, layer.num_kv_heads, layer.head_dim
    q, k, v = (x @ layer.qkv.weight.T).split((H * K, G * K, G * K), dim=-1)
    if qk_norm == "width":
        q, k = layer.query_norm(q), layer.key_norm(k)
    q, k, v = (y.view(B, T, -1, K) for y in (q, k, v))
    if qk_norm == "head":
        q, k = layer.query_norm(q), layer.key_norm(k)
    heads = []
    for h in range(H):
        g = h // (H // G)
        turned = [rotate(y[:, None], context.cos, context.sin)[:, 0] for y in (q[:, :, h], k[:, :, g])]
        scores = (turned[0] @ turned[1].mT / math.sqrt(K)).masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        heads.append(scores.softmax(-1) @ v[:, :, g])
    return torch.cat(heads, dim=-1) @ layer.out.weight.T


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("qk_norm", ["head", "width", "none"])
@pytest.mark.parametrize(
    ("num_heads", "size"),
    [(1, {}), (4, {}), (4, {"num_kv_heads": 2}), (4, {"num_kv_heads": 1}), (3, {"head_dim": 8, "num_kv_heads": 1})],
)
def test_attention_is_its_definition(num_heads: int, size: dict[str, int], qk_norm: str, norm: str) -> None:
    layer = attention(16, num_heads, size, qk_norm=qk_norm, norm=norm)
    x = random(2, 5, 16)
    context = causal_context(2, 5, layer.head_dim)
    assert torch.allclose(layer(x, context), heads_by_hand(layer, x, context, qk_norm), atol=1e-5)


@pytest.mark.parametrize("qk_norm", ["head", "width"])
def test_attention_ignores_the_scale_of_its_input_directions(qk_norm: str) -> None:
    """Queries and keys are normed, so scaling their weights changes nothing: attention scores cannot blow up."""
    layer = attention(8, 1, qk_norm=qk_norm)
    x, context = random(1, 4, 8), causal_context(1, 4, 8)
    before = layer(x, context)
    layer.qkv.weight.data[:16] *= 1000
    assert torch.allclose(layer(x, context), before, atol=1e-4)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_a_cache_holds_what_came_before(num_kv_heads: int) -> None:
    """In pieces of 3, 1 and 2 positions, each seeing the keys and values of all before it."""
    layer = attention(16, 4, {"num_kv_heads": num_kv_heads})
    x, context = random(2, 6, 16), causal_context(2, 6, 4)
    cache = LayerCache(2, num_kv_heads, 8, 4, like=x)
    pieces = []
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        part = Context(
            context.mask[:, :, start:stop, :stop],
            context.cos[:, :, start:stop],
            context.sin[:, :, start:stop],
            context.valid[:, start:stop],
            context.is_image[:, start:stop],
        )
        pieces.append(layer(x[:, start:stop], part, cache))
    assert cache.length == 6
    assert cache.keys.shape == (2, num_kv_heads, 8, 4)
    assert torch.allclose(torch.cat(pieces, dim=1), layer(x, context), atol=1e-6)


# --------------------------------------------------------------------------------------------- feed-forward nets


def test_feed_forward_is_squared_relu() -> None:
    layer = filled(FeedForward(4, 9))
    assert isinstance(layer, FeedForward)
    x = random(2, 3, 4)
    y, routing = layer(x, causal_context(2, 3, 4))
    assert routing is None
    assert torch.allclose(y, (x @ layer.up.weight.T).clamp(min=0) ** 2 @ layer.down.weight.T, atol=1e-6)
    assert {name: p.shape for name, p in layer.named_parameters()} == {"up.weight": (9, 4), "down.weight": (4, 9)}


def test_swiglu_is_its_definition() -> None:
    layer = filled(SwiGLU(4, 9))
    assert isinstance(layer, SwiGLU)
    x = random(2, 3, 4)
    gate, up = x @ layer.up.weight[:9].T, x @ layer.up.weight[9:].T
    expected = (gate / (1 + (-gate).exp()) * up) @ layer.down.weight.T
    y, routing = layer(x, causal_context(2, 3, 4))
    assert routing is None
    assert torch.allclose(y, expected, atol=1e-6)
    assert {name: p.shape for name, p in layer.named_parameters()} == {"up.weight": (18, 4), "down.weight": (4, 9)}


@pytest.mark.parametrize("ffn", ["relu2", "swiglu"])
def test_experts_have_the_nonlinearity_of_the_dense_net(ffn: str) -> None:
    layer = filled((SwiGLU if ffn == "swiglu" else FeedForward)(4, 9))
    x = random(2, 3, 4)
    hidden = activate(x @ layer.up.weight.T, ffn)  # type: ignore[union-attr, operator]
    assert torch.allclose(hidden @ layer.down.weight.T, layer(x, causal_context(2, 3, 4))[0], atol=1e-6)  # type: ignore[union-attr, operator]
