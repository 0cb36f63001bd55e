"""Batch.split and Batch.to: micro-batches are whole rows with their own images, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lab import training_batch

from nmm.batch import ARRAYS, IMAGE_ID, PAD_ID, Batch
from nmm.config import RunConfig


@pytest.fixture(scope="module")
def batch(make_config: Callable[..., RunConfig]) -> Batch:
    return training_batch(make_config(trainer={"rows_per_step": 7}))


@pytest.mark.parametrize(("parts", "sizes"), [(1, [7]), (2, [4, 3]), (3, [3, 3, 1]), (4, [2, 2, 2, 1]), (7, [1] * 7)])
def test_parts_are_whole_rows_and_together_the_batch(batch: Batch, parts: int, sizes: list[int]) -> None:
    cut = list(batch.split(parts))
    assert [len(part.tokens) for part in cut] == sizes
    for name in ARRAYS:
        if name != "patch_at":
            whole = torch.cat([getattr(part, name) for part in cut])
            assert torch.equal(whole.nan_to_num(nan=7.0), getattr(batch, name).nan_to_num(nan=7.0)), name


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_patches_stand_where_their_row_has_image_tokens(batch: Batch, parts: int) -> None:
    for part in batch.split(parts):
        at = part.patch_at.reshape(-1)
        assert torch.equal(at.sort().values, (part.tokens.reshape(-1) == IMAGE_ID).nonzero().squeeze(1))
        assert len(part.patches) == len(part.patch_at)


def test_more_parts_than_rows_yields_no_empty_part(batch: Batch) -> None:
    assert [len(part.tokens) for part in batch.split(20)] == [1] * 7


def test_rows_without_images_split_too(batch: Batch) -> None:
    tokens = torch.full_like(batch.tokens, PAD_ID)
    values = {name: getattr(batch, name) for name in ARRAYS} | {"tokens": tokens}
    values |= {"patches": batch.patches[:0], "patch_at": batch.patch_at[:0]}
    cut = list(Batch(**values).split(3))
    assert [len(part.tokens) for part in cut] == [3, 3, 1]
    assert all(len(part.patches) == 0 and len(part.patch_at) == 0 for part in cut)


def test_to_moves_every_tensor(batch: Batch) -> None:
    moved = batch.to("meta")
    assert {getattr(moved, name).device.type for name in ARRAYS} == {"meta"}
    assert moved.patches.shape == batch.patches.shape


def test_the_contract_of_a_real_batch(batch: Batch) -> None:
    """What nmm/batch.py promises and the model relies on."""
    rows, width = batch.tokens.shape
    same = (batch.document[:, 1:] == batch.document[:, :-1]) & (batch.document[:, 1:] >= 0)
    expected = torch.zeros(rows, width)
    expected[:, :-1] = (same & (batch.tokens[:, 1:] != IMAGE_ID)).float()
    assert torch.equal(batch.weights, expected)
    scored = batch.weights > 0
    assert torch.equal(batch.targets[scored], batch.tokens.roll(-1, dims=1)[scored])
    assert batch.logprobs[scored].isfinite().all() and batch.logprobs[~scored].isnan().all()
    assert torch.equal(batch.image >= 0, batch.tokens == IMAGE_ID)
    assert torch.equal(batch.document < 0, batch.source < 0)
    assert (batch.patches.dtype, batch.tokens.dtype) == (torch.uint8, torch.int64)
