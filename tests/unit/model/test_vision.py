"""The encoder sees the images our patches were cut from, and the connector is what its name says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nmm.config import RunConfig
from nmm.data.images import patchify
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel, pixels
from nmm.model.vision import Connector, VisionEncoder


@pytest.fixture(scope="module")
def late(make_config: Callable[..., RunConfig]) -> NativeMultimodalModel:
    return build(make_config("late", "d48"))


def test_patches_are_put_together_to_the_image_they_were_cut_from(late: NativeMultimodalModel) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    patches = torch.from_numpy(np.stack([patchify(one, 8) for one in image]))
    vision = late.vision
    assert isinstance(vision, VisionEncoder)
    whole = pixels(torch.from_numpy(image)).permute(0, 3, 1, 2)
    assert torch.equal(vision(pixels(patches)), vision.vit.forward_features(whole))


def test_features_are_one_for_each_patch_in_the_order_of_the_patches(late: NativeMultimodalModel) -> None:
    generator = torch.Generator().manual_seed(0)
    patches = pixels(torch.randint(0, 256, (2, 16, 192), generator=generator))
    features = late.vision(patches)
    assert features.shape == (2, 16, 32)
    embedded = late.vision.vit.patch_embed(  # type: ignore[union-attr, operator]
        patches.view(2, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    )
    weight = late.vision.vit.patch_embed.proj.weight  # type: ignore[union-attr]
    assert torch.allclose(embedded, patches @ weight.flatten(1).T, atol=1e-5)


def test_pixels_are_centred_on_the_background() -> None:
    assert pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([-0.6, 0.0, 2.4], abs=1e-6)


def test_images_do_not_see_each_other(late: NativeMultimodalModel) -> None:
    generator = torch.Generator().manual_seed(1)
    patches = pixels(torch.randint(0, 256, (3, 16, 192), generator=generator))
    assert torch.allclose(late.vision(patches)[1:2], late.vision(patches[1:2]), atol=1e-6)


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
