"""Several answers drawn to every question at once, with the KV cache; a question is read once for all its answers.

Shape legend: B rows (an answer each), V vocabulary, K rows kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmm.generate import Decoder, Sampling, continue_prompts, evaluating, room_after
from nmm.model.decode import Cached, Prompt
from nmm.model.fusion import NativeMultimodalModel

BATCH_ROWS = 512


class Shared:
    """A decoder of many rows whose prompts are few: every prompt is read once, then its row is copied."""

    def __init__(self, model: NativeMultimodalModel, prompts: Sequence[Prompt], which: Sequence[int], steps: int):
        unique = sorted(set(which))
        self.inner = Cached(model, [prompts[number] for number in unique], steps)
        place = {number: at for at, number in enumerate(unique)}
        self.rows_B = torch.tensor([place[number] for number in which], device=self.inner.device)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.inner.device

    def start(self) -> Tensor:
        """(B, V) logits after the prompts."""
        logits_UV = self.inner.start()
        self.inner.keep(self.rows_B)
        return logits_UV[self.rows_B]

    def next(self, token_B: Tensor) -> Tensor:
        """(B, V) logits after one more token in every row."""
        return self.inner.next(token_B)

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""
        self.inner.keep(rows_K)


def draw_answers(
    model: NativeMultimodalModel,
    prompts: Sequence[Prompt],
    samples: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """``samples`` answers to every prompt; answer s to prompt p has number p * samples + s, and its draws depend on it
    and ``seed`` alone. An answer ends with the token that stopped it, if one did.
    """
    sampling = Sampling(max_new_tokens, stop_ids, temperature, seed=seed, batch_rows=BATCH_ROWS)
    room = [space for space in room_after(model, prompts) for _ in range(samples)]

    def make(chosen: Sequence[int], steps: int) -> Decoder:
        return Shared(model, prompts, [number // samples for number in chosen], steps)

    with evaluating(model):
        return continue_prompts(make, room, sampling)
