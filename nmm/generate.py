"""Text from a model, token by token: greedy, or drawn with a temperature from the likeliest tokens.

Shape legend: B rows, N new tokens, V vocabulary.

Only text is generated: IMAGE_ID and PAD_ID are never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nmm.batch import END_ID, IMAGE_ID, PAD_ID
from nmm.data.counter_rng import CounterStream
from nmm.model.decode import Cached, Uncached, check_prompt
from nmm.model.decode import Prompt as Prompt
from nmm.model.fusion import NativeMultimodalModel


def generate(
    model: NativeMultimodalModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (END_ID,),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_rows: int = 64,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue every prompt; returns its new tokens only, the last of which is the stop token if one was reached.

    A continuation ends after ``max_new_tokens``, and before a position that the model's context length does not hold
    would be read. It depends on its own prompt, and with ``temperature`` > 0 on ``seed`` and the prompt's number; what
    else is generated, and in which batches, changes no more than the rounding of sums.

    Args:
        model: On any device; it runs uncompiled, without dropout or gradients, and is left in its own mode.
        prompts: Of any lengths.
        max_new_tokens: At least 1.
        stop_ids: Tokens that end a continuation; none: it goes on to its full length.
        temperature: 0 takes the likeliest token; else logits are divided by it and a token is drawn.
        top_p: Draw from the fewest likeliest tokens whose probability reaches this (arXiv 1904.09751).
        seed: Of the draws.
        batch_rows: Prompts decoded together.
        use_cache: False computes everything anew for every token: slow, and the same tokens.

    Raises ValueError for a prompt that is empty, too long, or whose images and IMAGE_IDs do not match, for impossible
    options, and for a model whose logits are not finite.
    """
    _check_options(max_new_tokens, temperature, top_p, batch_rows)
    for number, prompt in enumerate(prompts):
        check_prompt(prompt, number, model.config)
    draws = CounterStream(seed, "generate").uniform(np.arange(len(prompts)), 0, max_new_tokens)
    room = model.config.data.context_length + 1  # what stands last is never read
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    new: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for start in range(0, len(prompts), batch_rows):
            chosen = by_length[start : start + batch_rows]
            some = [prompts[i] for i in chosen]
            limits = [min(max_new_tokens, room - len(prompt.tokens)) for prompt in some]
            decoder = (Cached if use_cache else Uncached)(model, some, max(limits))
            sampler = Sampler(temperature, top_p, torch.from_numpy(draws[chosen]).to(decoder.device))
            for i, tokens in zip(chosen, _continue(decoder, sampler, limits, set(stop_ids)), strict=True):
                new[i] = tokens
    model.train(was_training)
    return new


def _continue(decoder: Cached | Uncached, sampler: Sampler, limits: list[int], stop_ids: set[int]) -> list[list[int]]:
    """New tokens of every row, at most ``limits`` of them. Once half of the rows have ended they are dropped."""
    new: list[list[int]] = [[] for _ in limits]
    rows = list(range(len(limits)))
    running = set(rows)
    logits_BV = decoder.start()
    if not torch.isfinite(logits_BV).all():
        raise ValueError("the model's logits are not finite: its training diverged, or its weights are damaged")
    while True:
        token_B = sampler.choose(logits_BV)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if row in running:
                new[row].append(token)
                if token in stop_ids or len(new[row]) == limits[row]:
                    running.remove(row)
        if not running:
            return new
        if 2 * len(running) <= len(rows):
            kept = torch.tensor([i for i, row in enumerate(rows) if row in running], device=decoder.device)
            decoder.keep(kept)
            sampler.keep(kept)
            token_B, rows = token_B[kept], [row for row in rows if row in running]
        logits_BV = decoder.next(token_B)


def _check_options(max_new_tokens: int, temperature: float, top_p: float, batch_rows: int) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_rows", batch_rows)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be 0 (take the likeliest token) or a positive number")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must lie in (0, 1]; 1 draws from all tokens")


# ---------------------------------------------------------------------------------------------------------------------
# choosing a token


class Sampler:
    """Chooses a token for every row and step from logits and (B, N) uniform numbers in [0, 1)."""

    def __init__(self, temperature: float, top_p: float, draws_BN: Tensor) -> None:
        self.temperature, self.top_p, self.draws_BN, self.step = temperature, top_p, draws_BN, 0
        self.not_text = torch.tensor([PAD_ID, IMAGE_ID], device=draws_BN.device)

    def choose(self, logits_BV: Tensor) -> Tensor:
        """(B,) ids of the next step."""
        logits_BV = logits_BV.index_fill(1, self.not_text, -math.inf)
        step, self.step = self.step, self.step + 1
        if self.temperature == 0:
            return logits_BV.argmax(dim=1)
        return draw(logits_BV, self.temperature, self.top_p, self.draws_BN[:, step])

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""
        self.draws_BN = self.draws_BN[rows_K]


def draw(logits_BV: Tensor, temperature: float, top_p: float, uniform_B: Tensor) -> Tensor:
    """(B,) ids by inverting the distribution function of the tokens in order of falling probability.

    Kept are the fewest tokens, likeliest first (of equals the lower id), whose probability reaches ``top_p``.
    """
    scaled_BV = (logits_BV.double() - logits_BV.amax(dim=1, keepdim=True)) / temperature
    probability_BV, token_BV = scaled_BV.softmax(dim=1).sort(dim=1, descending=True, stable=True)
    reached_BV = probability_BV.cumsum(dim=1)
    last_B1 = (reached_BV[:, :-1] < top_p).sum(dim=1, keepdim=True)
    threshold_B1 = uniform_B[:, None] * reached_BV.gather(1, last_B1)
    at_B1 = (reached_BV <= threshold_B1).sum(dim=1, keepdim=True).minimum(last_B1)
    return token_BV.gather(1, at_B1).squeeze(1)
