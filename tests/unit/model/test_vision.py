"""The encoder sees the images our patches were cut from and has the sizes of the paper; frozen it stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from lab import conf, training_batch
from timm.models.vision_transformer import VisionTransformer

from nmm.config import Data, RunConfig, from_dict
from nmm.data.images import patchify
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel, pixels
from nmm.model.vision import Connector, VisionEncoder


@pytest.fixture(scope="module", params=["vit", "swiglu"])
def late(request: pytest.FixtureRequest, make_config: Callable[..., RunConfig]) -> NativeMultimodalModel:
    return build(make_config("late", "d48", block={"vision": request.param}))


# ------------------------------------------------------------------------------------------------------ pixels


def test_pixels_are_centred_on_the_background() -> None:
    grey = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert pixels(grey, Data()).flatten().tolist() == pytest.approx([-0.6, 0.0, 2.4], abs=1e-6)


def test_every_channel_has_its_own_mean_and_deviation() -> None:
    data = dataclasses.replace(Data(), pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.2, 0.25, 0.5))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = patchify(((image / 255.0 - data.pixel_mean) / data.pixel_std).astype(np.float32), 8)
    found = pixels(torch.from_numpy(patchify(image, 8))[None], data)
    assert found.shape == (1, 16, 192)
    assert np.allclose(found[0].numpy(), expected, atol=1e-5)


# ----------------------------------------------------------------------------------------- an encoder built to size


def test_patches_are_put_together_to_the_image_they_were_cut_from(late: NativeMultimodalModel) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    patches = torch.from_numpy(np.stack([patchify(one, 8) for one in image]))
    vision, data = late.vision, late.config.data
    assert isinstance(vision, VisionEncoder)
    assert isinstance(vision.vit, VisionTransformer)
    whole = pixels(torch.from_numpy(image).permute(0, 3, 1, 2).reshape(3, 1, -1), data).view(3, 3, 32, 32)
    assert torch.equal(vision(pixels(patches, data)), vision.vit.forward_features(whole))


def test_features_are_one_for_each_patch_in_the_order_of_the_patches(late: NativeMultimodalModel) -> None:
    generator = torch.Generator().manual_seed(0)
    patches = pixels(torch.randint(0, 256, (2, 16, 192), generator=generator), late.config.data)
    features = late.vision(patches)
    assert features.shape == (2, 16, 32)
    embedded = late.vision.vit.patch_embed(  # type: ignore[union-attr, operator]
        patches.view(2, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    )
    weight = late.vision.vit.patch_embed.proj.weight  # type: ignore[union-attr]
    assert torch.allclose(embedded, patches @ weight.flatten(1).T, atol=1e-5)


def test_images_do_not_see_each_other(late: NativeMultimodalModel) -> None:
    generator = torch.Generator().manual_seed(1)
    patches = pixels(torch.randint(0, 256, (3, 16, 192), generator=generator), late.config.data)
    assert torch.allclose(late.vision(patches)[1:2], late.vision(patches[1:2]), atol=1e-6)


def rms_normed(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def test_swiglu_encoder_is_its_definition(make_config: Callable[..., RunConfig]) -> None:
    """Patches, positions, one block and the final norm written out with the weights that timm's net holds."""
    block = {"vision": "swiglu", "hidden_multiple": 16}
    model = build(make_config("late", "d48", block=block, size={"mlp_ratio": 8 / 3}))
    generator = torch.Generator().manual_seed(2)
    for parameter in model.vision.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    w = {name.removeprefix("vit."): p for name, p in model.vision.named_parameters()}
    patches = torch.randn(2, 16, 192, generator=generator)
    x = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["pos_embed"]
    y = rms_normed(x, w["blocks.0.norm1.weight"]) @ w["blocks.0.attn.qkv.weight"].T
    q, k, v = y.view(2, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
    q, k = (rms_normed(t, w[f"blocks.0.attn.{n}_norm.weight"]) for n, t in (("q", q), ("k", k)))
    heads = (q @ k.mT / 4.0).softmax(dim=-1) @ v
    x = x + heads.transpose(1, 2).reshape(2, 16, 32) @ w["blocks.0.attn.proj.weight"].T
    y = rms_normed(x, w["blocks.0.norm2.weight"])
    gate, up = y @ w["blocks.0.mlp.fc1_g.weight"].T, y @ w["blocks.0.mlp.fc1_x.weight"].T
    assert gate.shape[-1] == 96, "8 / 3 of 32, rounded up to a multiple of 16"
    x = x + (torch.nn.functional.silu(gate) * up) @ w["blocks.0.mlp.fc2.weight"].T
    assert torch.allclose(model.vision(patches), rms_normed(x, w["norm.weight"]), atol=1e-4)
    assert len(w) == 12, "nothing else, no bias anywhere"


PAPER_ENCODERS = {  # size -> (width, hidden, matrices in millions): arXiv 2504.07951, table 6, and 24 (4 w^2 + 3 w h)
    "289m": (384, 1024, 42.5),
    "494m": (512, 1536, 81.8),
    "1b": (768, 2048, 169.9),
    "1.75b": (1024, 2816, 308.3),
    "2.4b": (1184, 3328, 418.3),
    "3.7b": (1536, 4096, 679.5),
}


@pytest.mark.parametrize("size", PAPER_ENCODERS)
def test_the_papers_encoders(size: str) -> None:
    width, hidden, millions = PAPER_ENCODERS[size]
    values = {"arch": conf("arch", "late"), "block": conf("block", "paper"), "size": conf("size", size)["size"]}
    config = from_dict({**values, "data": conf("data", "paper"), "budget": {"steps": 1}})
    with torch.device("meta"):
        encoder = VisionEncoder(config)
    assert encoder.width == width
    assert config.vision_hidden == hidden
    matrices = sum(p.numel() for name, p in encoder.named_parameters() if "blocks" in name and p.ndim == 2)
    assert matrices == 24 * (4 * width**2 + 3 * width * hidden)
    assert round(matrices / 1e6, 1) == millions
    assert not any(name.endswith("bias") for name, _ in encoder.named_parameters())
    assert encoder(torch.empty(2, 256, 588, device="meta")).shape == (2, 256, width)


# ------------------------------------------------------------------------------------------------------ frozen


@pytest.fixture
def frozen(make_config: Callable[..., RunConfig]) -> NativeMultimodalModel:
    config = make_config("late", "d48")
    return build(dataclasses.replace(config, arch=dataclasses.replace(config.arch, vision_frozen=True)))


def test_a_frozen_encoder_gives_the_same_features_without_a_gradient(
    frozen: NativeMultimodalModel, make_config: Callable[..., RunConfig]
) -> None:
    free = build(make_config("late", "d48"))
    batch = training_batch(free.config)
    patches = pixels(batch.patches, free.config.data)
    assert torch.equal(frozen.vision(patches), free.vision(patches))
    assert free.vision(patches).requires_grad
    assert not frozen.vision(patches).requires_grad
    assert not any(p.requires_grad for p in frozen.vision.parameters())
    torch.nn.init.normal_(frozen.head.weight)
    frozen(batch).logits.square().mean().backward()
    assert all(p.grad is None for p in frozen.vision.parameters())
    assert all(p.grad is not None for p in frozen.connector.parameters())


def test_a_frozen_encoder_never_trains(frozen: NativeMultimodalModel) -> None:
    assert not any(module.training for module in frozen.vision.modules())
    frozen.train()
    assert frozen.training
    assert frozen.trunk.training
    assert not any(module.training for module in frozen.vision.modules())


# --------------------------------------------------------------------------------------------------- connector


@pytest.mark.parametrize(("kind", "parameters"), [("linear", 5 * 7), ("mlp", 5 * 7 + 7 * 7)])
def test_connector(kind: str, parameters: int) -> None:
    connector = Connector(kind, 5, 7)
    assert sum(p.numel() for p in connector.parameters()) == parameters
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    matrices = list(connector.parameters())
    expected = x @ matrices[0].T
    if kind == "mlp":
        expected = torch.nn.functional.gelu(expected) @ matrices[1].T
    assert torch.allclose(connector(x), expected, atol=1e-6)


def test_unknown_connector_is_named() -> None:
    with pytest.raises(ValueError, match="arch.connector='attention' is not one of linear, mlp"):
        Connector("attention", 5, 7)
