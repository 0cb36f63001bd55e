"""Text from a model, token by token: greedy, or drawn with a temperature from the likeliest tokens.

Shape legend: B rows, N new tokens, V vocabulary.

Only text is generated: IMAGE_ID and PAD_ID are never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nmm.batch import END_ID, IMAGE_ID, PAD_ID
from nmm.config import RunConfig
from nmm.data.counter_rng import CounterStream
from nmm.model.decode import Cached, Uncached, check_prompt
from nmm.model.decode import Prompt as Prompt
from nmm.model.fusion import NativeMultimodalModel


class Decoder(Protocol):
    """Logits of the next token in every row of a batch: of one model (``Cached``, ``Uncached``), or of several."""

    @property
    def device(self) -> torch.device:
        """Of the logits, and of the tokens it is given."""

    def start(self) -> Tensor:
        """(B, V) logits after the prompts."""

    def next(self, token_B: Tensor) -> Tensor:
        """(B, V) logits after one more token in every row."""

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""


class Configured(Protocol):
    """A model, or what stands for one that is elsewhere."""

    @property
    def config(self) -> RunConfig:
        """That it was made with."""


# prompts (their numbers) that are decoded together, and how many tokens at most -> what decodes them
MakeDecoder: TypeAlias = Callable[[Sequence[int], int], Decoder]
# after every choice: places in the batch of the rows that had not ended, their prompts' numbers, the tokens chosen
Watch: TypeAlias = Callable[[Sequence[int], Sequence[int], Sequence[int]], None]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when rows end: the options of ``generate``, which explains them.

    Raises ValueError for options that are impossible.
    """

    max_new_tokens: int
    stop_ids: Sequence[int] = (END_ID,)
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_rows: int = 64

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature} must be 0 (take the likeliest token) or a positive number"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]; 1 draws from all tokens")


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
    sampling = Sampling(max_new_tokens, stop_ids, temperature, top_p, seed, batch_rows)

    def decoder(chosen: Sequence[int], steps: int) -> Decoder:
        return (Cached if use_cache else Uncached)(model, [prompts[i] for i in chosen], steps)

    with evaluating(model):
        return continue_prompts(decoder, room_after(model, prompts), sampling)


def room_after(model: Configured, prompts: Sequence[Prompt]) -> list[int]:
    """How many new tokens each prompt leaves room for: what stands last is never read.

    Raises ValueError for a prompt that the model cannot read.
    """
    for number, prompt in enumerate(prompts):
        check_prompt(prompt, number, model.config)
    return [model.config.data.context_length + 1 - len(prompt.tokens) for prompt in prompts]


@contextmanager
def evaluating(*models: NativeMultimodalModel) -> Iterator[None]:
    """Uncompiled, without dropout or gradients; afterwards every model is in its own mode again."""
    modes = [(model, model.training) for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for model, was_training in modes:
            model.train(was_training)


def continue_prompts(
    make: MakeDecoder, room: Sequence[int], sampling: Sampling, watch: Watch | None = None
) -> list[list[int]]:
    """New tokens of every prompt, of which ``room`` says how many it can have; prompts of like length go together."""
    draws = CounterStream(sampling.seed, "generate").uniform(np.arange(len(room)), 0, sampling.max_new_tokens)
    by_length = sorted(range(len(room)), key=lambda i: -room[i])
    new: list[list[int]] = [[] for _ in room]
    for start in range(0, len(room), sampling.batch_rows):
        chosen = by_length[start : start + sampling.batch_rows]
        limits = [min(sampling.max_new_tokens, room[i]) for i in chosen]
        decoder = make(chosen, max(limits))
        sampler = Sampler(sampling.temperature, sampling.top_p, torch.from_numpy(draws[chosen]).to(decoder.device))
        said = _continue(decoder, sampler, chosen, limits, set(sampling.stop_ids), watch)
        for i, tokens in zip(chosen, said, strict=True):
            new[i] = tokens
    return new


def _continue(
    decoder: Decoder,
    sampler: Sampler,
    chosen: Sequence[int],
    limits: list[int],
    stop_ids: set[int],
    watch: Watch | None,
) -> list[list[int]]:
    """New tokens of every row, at most ``limits`` of them. Once half of the rows have ended they are dropped."""
    new: list[list[int]] = [[] for _ in limits]
    rows = list(range(len(limits)))
    running = set(rows)
    logits_BV = decoder.start()
    if not torch.isfinite(logits_BV.amax(dim=1)).all():  # a token may be ruled out by -inf, a row may not
        raise ValueError("the model's logits are not finite: its training diverged, or its weights are damaged")
    while True:
        token_B = sampler.choose(logits_BV)
        tokens = token_B.tolist()
        if watch is not None:
            at = [place for place, row in enumerate(rows) if row in running]
            watch(at, [chosen[rows[place]] for place in at], [tokens[place] for place in at])
        for row, token in zip(rows, tokens, strict=True):
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
