"""A row of padding with a blank image changes no loss and no gradient, and reaches every parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from lab import ARCHS
from torch import Tensor

from nmm.batch import ARRAYS, IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.data.loader import to_torch
from nmm.model.build import build
from nmm.model.loss import loss_sums, objective
from nmm.training.exchange import has_images, same_parts, with_image
from nmm.training.run import rows_of, shards_of

MakeConfig = Callable[..., RunConfig]


def text_batch(config: RunConfig) -> Batch:
    """The first two rows of the run's order that hold no image."""
    rows = rows_of(shards_of(config), config)
    found = next(at for at in range(500) if not len(rows.rows_at(at, 2).patches))
    return to_torch(rows.rows_at(found, 2))


def two_ranks(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=2))


def gradients(config: RunConfig, batch: Batch) -> tuple[Tensor, dict[str, Tensor | None]]:
    model = build(config)
    with torch.no_grad():  # a head of zeros would let no gradient through
        model.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    loss = objective(loss_sums(model(batch), batch, config), batch.weights.sum(), config)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_blank_image_adds_nothing_and_uses_everything(make_config: MakeConfig, arch: str) -> None:
    config = make_config(
        arch, data={"mixture": {"text": 0.8, "caption": 0.2}}, optim={"z_loss_coef": 0.1}, arch={"router_z_coef": 0.1}
    )
    batch = text_batch(config)
    loss, alone = gradients(config, batch)
    padded = with_image(batch)
    same_loss, same = gradients(config, padded)
    torch.testing.assert_close(same_loss, loss, rtol=1e-6, atol=0)
    for name, gradient in same.items():
        assert gradient is not None, name
        if alone[name] is None:
            assert not gradient.any(), name
        else:
            torch.testing.assert_close(gradient, alone[name], rtol=1e-4, atol=1e-7, msg=name)
    assert [name for name, gradient in alone.items() if gradient is None]


def test_the_row_is_a_batch_like_any_other(make_config: MakeConfig) -> None:
    batch = text_batch(make_config(data={"mixture": {"text": 0.8, "caption": 0.2}}))
    padded = with_image(batch)
    for name in ARRAYS:
        before, after = getattr(batch, name), getattr(padded, name)
        assert (after.dtype, after.shape[1:]) == (before.dtype, before.shape[1:]), name
        assert len(after) == len(before) + 1
        assert torch.equal(after[:-1].nan_to_num(), before.nan_to_num()), name
    assert (padded.tokens.reshape(-1)[padded.patch_at[-1]] == IMAGE_ID).all()
    assert (padded.document[-1] == -1).all() and not padded.weights[-1].any()
    assert [len(part.patches) for part in padded.split(3)] == [0, 0, 1]


def test_it_is_added_only_where_ranks_could_part(make_config: MakeConfig) -> None:
    mixed = make_config(data={"mixture": {"text": 0.8, "caption": 0.2}})
    batch = text_batch(mixed)
    assert same_parts(batch, mixed) is batch  # one rank
    assert len(same_parts(batch, two_ranks(mixed)).tokens) == 3
    seeing = with_image(batch)
    assert same_parts(seeing, two_ranks(mixed)) is seeing
    reading = make_config(data={"mixture": {"text": 1.0, "caption": 0.0}})
    assert not has_images(reading)
    assert same_parts(batch, two_ranks(reading)) is batch
