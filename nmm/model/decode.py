"""Logits of the next token after prompts of any lengths, with keys and values cached, or all computed anew.

Shape legend: B rows, T positions of the longest prompt, N new tokens, S slots of a cache, V vocabulary, I images,
M patches an image, P values a patch.

A prompt is one document, and stands at the right end of its row, so that all rows go on in the same slot; the padding
before a shorter prompt is never seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nmm.batch import END_ID, IMAGE_ID, PAD_ID, Batch
from nmm.config import RunConfig
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.layers import Context, LayerCache
from nmm.params import pixels_per_position


@dataclass(frozen=True)
class Prompt:
    """The beginning of a document: ids, in which IMAGE_ID stands M times for every image, and what these images are.

    ``patches`` (I, M, P) uint8, array or tensor, in order of appearance; None without images.
    """

    tokens: Sequence[int]
    patches: Any = None


class Cached:
    """Reads the prompts once, then one token a step. At most ``steps`` tokens can be asked for."""

    def __init__(self, model: NativeMultimodalModel, prompts: Sequence[Prompt], steps: int) -> None:
        config, like = model.config, model.embedding.weight
        self.model, self.device = model, like.device
        self.prompts = prompt_batch(config, prompts).to(self.device)
        rows, self.slot = self.prompts.tokens.shape
        slots = self.slot + steps - 1
        self.caches = [
            LayerCache(rows, config.num_kv_heads, slots, config.head_dim, like) for _ in range(config.size.depth)
        ]
        position_BN = self.prompts.position[:, -1:] + torch.arange(1, max(steps, 2), device=self.device)
        self.text = _text_batch(self.prompts, position_BN)
        self.cos, self.sin = model.angles(self.text)
        padding_BT = self.prompts.document < 0
        self.mask_B11S = torch.zeros(rows, 1, 1, slots, device=self.device, dtype=like.dtype)
        self.mask_B11S[:, 0, 0, : self.slot].masked_fill_(padding_BT, -math.inf)
        self.is_text = torch.ones(rows, 1, device=self.device)
        self.is_image = torch.zeros(rows, 1, device=self.device, dtype=torch.bool)
        self.step = 0

    def start(self) -> Tensor:
        """(B, V) logits after the prompts."""
        x_BTD, _ = self.model.features(self.prompts, self.model.context(self.prompts), self.caches)
        return self.model.head(x_BTD[:, -1])

    @torch.inference_mode()  # 8 % faster; only where no vision encoder runs, which might keep a tensor for training
    def next(self, token_B: Tensor) -> Tensor:
        """(B, V) logits after one more token in every row."""
        step, self.step = self.step, self.step + 1
        self.slot += 1
        context = Context(
            mask=self.mask_B11S[..., : self.slot],
            cos=self.cos[:, :, step : step + 1],
            sin=self.sin[:, :, step : step + 1],
            valid=self.is_text,
            is_image=self.is_image,
        )
        x_B1D, _ = self.model.features(replace(self.text, tokens=token_B[:, None]), context, self.caches)
        return self.model.head(x_B1D[:, 0])

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""
        for cache in self.caches:
            cache.keep(rows_K)
        self.cos, self.sin, self.mask_B11S = self.cos[rows_K], self.sin[rows_K], self.mask_B11S[rows_K]
        self.is_text, self.is_image = self.is_text[rows_K], self.is_image[rows_K]


class Uncached:
    """The same logits from a whole forward pass a step."""

    def __init__(self, model: NativeMultimodalModel, prompts: Sequence[Prompt], steps: int) -> None:
        self.model, self.prompts, self.device = model, list(prompts), model.embedding.weight.device

    def start(self) -> Tensor:
        """(B, V) logits after what stands in the rows now."""
        x_BTD, _ = self.model.features(prompt_batch(self.model.config, self.prompts).to(self.device))
        return self.model.head(x_BTD[:, -1])

    def next(self, token_B: Tensor) -> Tensor:
        """(B, V) logits after one more token in every row."""
        pairs = zip(self.prompts, token_B.tolist(), strict=True)
        self.prompts = [Prompt((*prompt.tokens, token), prompt.patches) for prompt, token in pairs]
        return self.start()

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""
        self.prompts = [self.prompts[row] for row in rows_K.tolist()]


# ---------------------------------------------------------------------------------------------------------------------
# prompts


def prompt_batch(config: RunConfig, prompts: Sequence[Prompt]) -> Batch:
    """Prompts as the rows of a Batch, each one document at the right end of its row; nothing in it is a target."""
    length_B1 = torch.tensor([[len(prompt.tokens)] for prompt in prompts])
    B, T, M = len(prompts), int(length_B1.max()), config.tokens_per_image
    tokens = torch.full((B, T), PAD_ID)
    for row, prompt in enumerate(prompts):
        tokens[row, T - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
    position = torch.arange(T) - (T - length_B1)
    is_image = tokens == IMAGE_ID
    pixels = [torch.as_tensor(prompt.patches) for prompt in prompts if prompt.patches is not None]
    return Batch(
        tokens=tokens,
        patches=torch.cat([torch.zeros(0, M, pixels_per_position(config), dtype=torch.uint8), *pixels]),
        patch_at=is_image.reshape(-1).nonzero().reshape(-1, M),
        document=torch.where(position >= 0, 0, -1).int(),
        image=torch.where(is_image, (is_image.cumsum(dim=1) - 1) // M, -1).int(),
        position=position.clamp(min=0),
        targets=torch.zeros(B, T, dtype=torch.int64),
        weights=torch.zeros(B, T),
        source=torch.full((B, T), -1, dtype=torch.int8),
        logprobs=torch.full((B, T), math.nan),
        classes=torch.zeros(B, T, dtype=torch.uint8),
        row_ids=torch.zeros(B, dtype=torch.int64),
    )


def _text_batch(prompts: Batch, position_BN: Tensor) -> Batch:
    """A Batch of text alone at these positions, for angles and embeddings; what neither looks at is the prompts'."""
    return replace(
        prompts,
        tokens=torch.full_like(position_BN, END_ID),
        document=torch.zeros_like(position_BN, dtype=torch.int32),
        image=torch.full_like(position_BN, -1, dtype=torch.int32),
        position=position_BN,
        patches=prompts.patches[:0],
        patch_at=prompts.patch_at[:0],
    )


def check_prompt(prompt: Prompt, number: int, config: RunConfig) -> None:
    """Raise ValueError, naming the prompt by its number, unless a model of this config can read it."""
    data, tokens = config.data, prompt.tokens
    if not 0 < len(tokens) <= data.context_length:
        raise ValueError(
            f"prompt {number} has {len(tokens)} tokens, it needs 1..{data.context_length}: the model was trained with "
            f"data.context_length={data.context_length}"
        )
    wrong = [token for token in tokens if not 0 <= token < data.vocab_size or token == PAD_ID]
    if wrong:
        raise ValueError(f"prompt {number} holds token {wrong[0]}; allowed are 1..{data.vocab_size - 1}")
    M, shape = config.tokens_per_image, () if prompt.patches is None else tuple(prompt.patches.shape)
    images = shape[0] if shape else 0
    if shape and (shape[1:] != (M, pixels_per_position(config)) or not str(prompt.patches.dtype).endswith("uint8")):
        raise ValueError(
            f"prompt {number}: patches are {prompt.patches.dtype} of shape {shape}, they must be uint8 of shape "
            f"(images, {M}, {pixels_per_position(config)})"
        )
    runs = "".join("i" if token == IMAGE_ID else " " for token in tokens).split()
    if sum(map(len, runs)) != images * M or any(len(run) % M for run in runs):
        raise ValueError(
            f"prompt {number} has {images} images, but IMAGE_ID={IMAGE_ID} in runs of {[len(run) for run in runs]}; "
            f"every image is {M} of them in a row"
        )
