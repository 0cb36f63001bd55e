"""Controls of a start: what each transform keeps and what it destroys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nmm.config import RunConfig
from nmm.model.build import build
from nmm.transform import FIRST_LAYER, transformed

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def weights(make_config: MakeConfig) -> dict[str, Tensor]:
    """A model that is not as it began: other gains, another head."""
    state = build(make_config("early", seed=5)).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: value * 1.3 + 0.02 * torch.randn(value.shape, generator=generator) ** 3 for name, value in state.items()
    }


@pytest.fixture(scope="module")
def initial(make_config: MakeConfig) -> dict[str, Tensor]:
    return build(make_config("early", seed=1)).state_dict()


def test_shuffling_keeps_every_tensor_s_values_and_no_place(weights: dict, initial: dict) -> None:
    found = transformed(weights, initial, "shuffle", 1)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name].flatten().sort().values, value.flatten().sort().values), name
        assert found[name].shape == value.shape
        assert (found[name] == value).float().mean() < 0.2, name
    rows = torch.linalg.svdvals(weights["trunk.blocks.0.attention.qkv.weight"])
    assert not torch.allclose(rows, torch.linalg.svdvals(found["trunk.blocks.0.attention.qkv.weight"]))


def test_rescaled_initial_weights_have_the_norms_of_the_start(weights: dict, initial: dict) -> None:
    found = transformed(weights, initial, "rescaled_random", 1)
    for name, value in weights.items():
        assert found[name].norm() == pytest.approx(value.norm().item(), rel=1e-5), name
        if initial[name].any():
            ratio = found[name].norm() / initial[name].norm()
            torch.testing.assert_close(found[name], initial[name] * ratio)
    assert found["head.weight"].std() > 0, "initially zero: drawn"


def test_covariance_is_matched_in_the_first_layer_alone(weights: dict) -> None:
    P = 12
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(P, P, generator=generator)
    rows = torch.randn(600, P, generator=generator) @ mixing + 2.0
    found = transformed({**weights, FIRST_LAYER: rows}, {}, "covariance", 0)
    assert found.keys() == {FIRST_LAYER}
    drawn = found[FIRST_LAYER]
    assert not torch.equal(drawn, rows)
    scale = torch.cov(rows.T).diagonal().sqrt()
    assert ((drawn.mean(0) - rows.mean(0)) / scale).abs().max() < 0.2
    error = (torch.cov(drawn.T) - torch.cov(rows.T)) / (scale[:, None] * scale[None])
    assert error.abs().max() < 0.2, "covariances of 600 draws"


@pytest.mark.parametrize("transform", ["shuffle", "rescaled_random", "covariance"])
def test_a_transform_depends_on_the_seed_alone(transform: str, weights: dict, initial: dict) -> None:
    once, again, other = (transformed(weights, initial, transform, seed) for seed in (1, 1, 2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    name = "head.weight" if transform != "covariance" else FIRST_LAYER
    assert not torch.equal(once[name], other[name])
