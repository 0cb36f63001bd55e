"""What keeps the ranks together inside one optimizer step: when gradients travel, and that all use the same parameters.

Shape legend: T positions of a row, M patches an image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from nmm.batch import IMAGE_ID, PAD_ID, Batch
from nmm.config import RunConfig


@contextlib.contextmanager
def reducing(wrapper: nn.Module, model: nn.Module, last: bool) -> Iterator[None]:
    """Around forward and backward of a micro-batch: gradients are summed over ranks only in the step's ``last`` one.

    ``wrapper`` is what is called, ``model`` the model in it. Until the last micro-batch every rank holds its own whole
    gradient, under FSDP2 as well: memory is the price of one exchange a step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    with wrapper.no_sync() if isinstance(wrapper, DistributedDataParallel) and not last else contextlib.nullcontext():
        yield


def same_parts(batch: Batch, config: RunConfig) -> Batch:
    """``batch``, with a row of padding and one blank image added where it has no image but other ranks' may have one.

    Ranks gather and reduce parameters together, so all must use the same ones. The row has no targets and no valid
    position: it adds exactly nothing to any loss, load or gradient.
    """
    if config.trainer.world_size == 1 or len(batch.patches) or not has_images(config):
        return batch
    return with_image(batch)


def has_images(config: RunConfig) -> bool:
    """False only for training on pure text, where no rank ever uses what images need."""
    if config.data.sources:
        return config.data.image_share > 0
    return any(weight > 0 for source, weight in config.data.mixture.items() if source != "text")


def with_image(batch: Batch) -> Batch:
    """``batch`` and one more row, all padding, with a black image at its left end."""
    rows, T = batch.tokens.shape
    M = batch.patch_at.shape[1]
    at = torch.arange(T, device=batch.tokens.device)
    inside = at < M
    row = {
        "tokens": torch.where(inside, IMAGE_ID, PAD_ID),
        "document": torch.full_like(at, -1),
        "image": torch.where(inside, 0, -1),
        "position": at,
        "targets": torch.zeros_like(at),
        "weights": torch.zeros_like(at),
        "source": torch.full_like(at, -1),
        "logprobs": torch.full_like(at, float("nan"), dtype=torch.float32),
        "classes": torch.zeros_like(at),
        "row_ids": torch.zeros((), device=at.device),
        "patches": batch.patches.new_zeros(batch.patches.shape[1:]),
        "patch_at": rows * T + at[:M],
    }
    longer: dict[str, Any] = {name: _append(getattr(batch, name), value) for name, value in row.items()}
    return Batch(**longer)


def _append(values: Tensor, last: Tensor) -> Tensor:
    return torch.cat((values, last.to(values.dtype)[None]))
