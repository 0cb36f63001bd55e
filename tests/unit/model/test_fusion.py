"""From a real batch to logits: where patches enter, what is scored, and that no row or document knows another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from lab import ARCHS, training_batch

from nmm.batch import IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel, pixels
from nmm.model.loss import balance_loss, target_losses

MakeConfig = Callable[..., RunConfig]


def loud(config: RunConfig) -> NativeMultimodalModel:
    """The built model with a head that is not zero, so that everything is heard in the logits."""
    model = build(config)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    return model


def without_images(batch: Batch) -> Batch:
    """The same rows, image tokens turned into words."""
    tokens = batch.tokens.masked_fill(batch.tokens == IMAGE_ID, 7)
    nothing = {"patches": batch.patches[:0], "patch_at": batch.patch_at[:0], "image": torch.full_like(batch.image, -1)}
    return dataclasses.replace(batch, tokens=tokens, **nothing)


@pytest.mark.parametrize("arch", ARCHS)
def test_patches_enter_where_image_tokens_stand(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    x = model.embed(batch)
    is_image = batch.tokens == IMAGE_ID
    assert torch.equal(x[~is_image], model.embedding(batch.tokens)[~is_image])
    features = model.connector(model.vision(pixels(batch.patches, config.data))) + model.patch_position
    for i, m in ((0, 0), (0, 15), (len(batch.patches) - 1, 6)):
        at = int(batch.patch_at[i, m])
        assert torch.equal(x[at // 128, at % 128], features[i, m])


@pytest.mark.parametrize("arch", ARCHS)
def test_exactly_text_targets_are_scored(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    output = model(batch)
    assert output.at.tolist() == [i for i, w in enumerate(batch.weights.reshape(-1).tolist()) if w]
    features = model.trunk(model.embed(batch), model.context(batch))[0]
    whole = model.head(features).reshape(-1, config.data.vocab_size)
    assert torch.allclose(output.logits, whole[output.at], atol=1e-5)
    assert len(output.routings) == (config.size.depth if arch == "moe" else 0)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_row_alone_gives_the_same_logits(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    together = model(batch)
    start = 0
    for row in batch.split(4):
        alone = model(row)
        part = together.logits[start : start + len(alone.at)]
        assert torch.allclose(alone.logits, part, atol=2e-5)
        start += len(alone.at)
    assert start == len(together.at)


@pytest.mark.parametrize("arch", ARCHS)
def test_documents_do_not_know_each_other(make_config: MakeConfig, arch: str) -> None:
    """Other words and other pictures in the first documents change nothing in the last one of the row."""
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    last = batch.document == batch.document.amax(dim=1, keepdim=True)
    row = int((batch.document.amax(dim=1) > 0).nonzero()[0])
    other_tokens = torch.where(last | (batch.tokens == IMAGE_ID), batch.tokens, batch.tokens.flip(0).clamp(min=3))
    in_last = last.reshape(-1)[batch.patch_at].any(dim=1)
    other_patches = torch.where(in_last[:, None, None], batch.patches, 255 - batch.patches)
    changed = dataclasses.replace(batch, tokens=other_tokens, patches=other_patches)
    before, after = (model.trunk(model.embed(b), model.context(b))[0] for b in (batch, changed))
    assert torch.allclose(before[row][last[row]], after[row][last[row]], atol=1e-5)
    assert not torch.allclose(before[row], after[row], atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_pictures_are_heard(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    dark = dataclasses.replace(batch, patches=torch.zeros_like(batch.patches))
    assert (model(batch).logits - model(dark).logits).abs().max() > 0.1


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_learns(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), training_batch(config)
    output = model(batch)
    (target_losses(output, batch).sum() + balance_loss(output)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("arch", ARCHS)
def test_a_batch_without_images(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    model, batch = loud(config), without_images(training_batch(config))
    assert torch.equal(model.embed(batch), model.embedding(batch.tokens))
    target_losses(model(batch), batch).sum().backward()
    assert all(p.grad is None for p in (*model.connector.parameters(), *model.vision.parameters()))
    assert model.patch_position.grad is None


def test_autocast_keeps_the_residual_stream_in_fp32(make_config: MakeConfig) -> None:
    for arch in ARCHS:
        config = make_config(arch)
        model, batch = loud(config), training_batch(config)
        exact = model(batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert model.trunk(model.embed(batch), model.context(batch))[0].dtype == torch.float32
            low = model(batch)
        error = (low.logits.float() - exact).abs()
        assert error.mean() < 0.05 * exact.abs().mean(), arch
        assert target_losses(low, batch).dtype == torch.float32
