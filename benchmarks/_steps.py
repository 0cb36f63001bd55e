"""For the benchmarks of training steps: a module without Lightning's loop, rows of any geometry, clocks."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from nmm.batch import END_ID, IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.flops import resolve_budget
from nmm.model.build import build
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, choose, compile_blocks, recompute_blocks
from nmm.validation import validate

Seconds = tuple[float, float]  # wall, processor


def checked(config: RunConfig) -> RunConfig:
    """The config with its budget in steps, without any shards behind it."""
    return resolve_budget(validate(config))


def bare_module(config: RunConfig, device: torch.device, numerics: Numerics | None = None) -> TrainingModule:
    """A module whose ``training_step`` can be called in a plain loop; numerics by the rules of a run unless given."""
    numerics = numerics or choose(config)
    module = TrainingModule(config, build(config).to(device), numerics).to(device)
    if numerics.compiled:
        compile_blocks(module.model)
    if config.trainer.activation_checkpointing:
        recompute_blocks(module.model)
    trainer: Any = SimpleNamespace(world_size=1)
    module._trainer = trainer
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, misc]
    return module


def made_up_rows(config: RunConfig, rows: int, seed: int = 0) -> Batch:
    """Rows of documents of one image and some words, cut so that the share of patches is that of ``data.image_share``.

    Random words and pixels: what a step costs depends on the shapes alone (for experts, nearly).
    """
    data, M = config.data, config.tokens_per_image
    generator = torch.Generator().manual_seed(seed)
    T, length = data.context_length, max(M + 1, round(M / data.image_share))
    at = torch.arange(T)
    document, position = at // length, at % length
    is_patch = (position < M) & (document * length + M <= T)  # an image that would be cut is words instead
    tokens = torch.randint(END_ID + 1, data.vocab_size, (rows, T), generator=generator)
    tokens[:, is_patch] = IMAGE_ID
    ends = torch.cat((document[1:] != document[:-1], torch.ones(1, dtype=torch.bool)))
    scored = ~ends & ~torch.cat((is_patch[1:], torch.zeros(1, dtype=torch.bool)))
    images = int(is_patch.sum()) // M
    patch_at = (torch.arange(rows)[:, None] * T + is_patch.nonzero()[:, 0]).reshape(rows * images, M)
    values = data.channels * data.patch_size**2

    def every_row(row: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return row.to(dtype).expand(rows, T).contiguous()

    return Batch(
        tokens=tokens,
        patches=torch.randint(0, 256, (rows * images, M, values), dtype=torch.uint8, generator=generator),
        patch_at=patch_at,
        document=every_row(document, torch.int32),
        image=every_row(torch.where(is_patch, document, -1), torch.int32),
        position=every_row(position, torch.int64),
        targets=torch.roll(tokens, -1, dims=1) * scored,
        weights=every_row(scored, torch.float32),
        source=torch.zeros(rows, T, dtype=torch.int8),
        logprobs=torch.full((rows, T), float("nan")),
        classes=torch.zeros(rows, T, dtype=torch.uint8),
        row_ids=torch.arange(rows),
    )


def clocks() -> Seconds:
    """Now, after everything given to a GPU is done: (wall, processor)."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """Seconds since ``start``."""
    wall, processor = clocks()
    return wall - start[0], processor - start[1]
