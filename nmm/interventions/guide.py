"""A large model guided, token by token, by a small tuned model and the small model that was tuned (arXiv 2505.24872).

Shape legend: B rows, V vocabulary of the base, W tokens that base and guides share, K rows kept.

    logits = base + alpha (expert - amateur)

Raw logits of the last position are added up in fp32. Only then are tokens ruled out that are never chosen, is the sum
divided by the temperature and cut to the likeliest tokens, and is one chosen (``nmm.generate``). Every model keeps its
own cache; all of them grow by the same token at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from nmm.batch import END_ID
from nmm.generate import Decoder, Sampling, Watch, continue_prompts, evaluating, room_after
from nmm.interventions.guide_parts import Guide, InThread, InTurn, OnStream
from nmm.interventions.guide_vocab import NONE, Vocabulary, same_vocabulary
from nmm.model.decode import Cached, Prompt, Uncached
from nmm.model.fusion import NativeMultimodalModel

# (B, W) difference of the guides, (B,) numbers of the prompts, step -> what is added in its place
Change: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Step:
    """Logits of one step, fp32: of every model (None: absent), what was added per unit of alpha, and the sum (B, V)."""

    number: int
    base: Tensor
    expert: Tensor | None
    amateur: Tensor | None
    delta: Tensor | None
    combined: Tensor


Listen: TypeAlias = Callable[[Step, Sequence[int], Sequence[int], Sequence[int]], None]


def guided(
    base: NativeMultimodalModel,
    expert: NativeMultimodalModel | None,
    amateur: NativeMultimodalModel | None,
    prompts: Sequence[Prompt],
    alpha: float,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (END_ID,),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_rows: int = 64,
    use_cache: bool = True,
    *,
    expert_prompts: Sequence[Prompt] | None = None,
    amateur_prompts: Sequence[Prompt] | None = None,
    vocabulary: Vocabulary | None = None,
    change: Change | None = None,
    parallel: str = "none",
    listen: Listen | None = None,
) -> list[list[int]]:
    """Continue every prompt by base + alpha (expert - amateur); the other options are those of ``generate``.

    Args:
        expert, amateur: None is left out of the sum: without an amateur it is base + alpha expert.
        prompts: What the base reads; the guides too, unless they get prompts of their own.
        expert_prompts, amateur_prompts: As many as ``prompts``, of any lengths, with any pictures.
        vocabulary: From ``guide_vocab.align``; None: all ids mean the same, and all models have as many.
        change: Replaces expert - amateur, for controls (``guide_controls``).
        parallel: none, or threads: guides compute beside the base (on a GPU: on streams of their own).
        listen: Told every step's logits, and which rows of them had not ended, their prompts' numbers, their tokens.

    Raises ValueError for impossible options, for a prompt that its model cannot read, and for logits that are not
    finite, naming the model.
    """
    sampling = Sampling(max_new_tokens, stop_ids, temperature, top_p, seed, batch_rows)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha} must be a finite number; 0 is the base alone")
    vocabulary = vocabulary or checked_same(base, expert, amateur)
    kind = Cached if use_cache else Uncached
    given = {"expert": (expert, expert_prompts), "amateur": (amateur, amateur_prompts)}
    guides = {
        name: (model, _prompts_of(name, own, prompts, vocabulary))
        for name, (model, own) in given.items()
        if model is not None
    }
    rooms = [room_after(base, prompts), *(_room_of(name, *guide) for name, guide in guides.items())]
    with evaluating(base, *(model for model, _ in guides.values())), _placing(parallel, len(guides)) as place:

        def make(chosen: Sequence[int], steps: int) -> Guided:
            def decoder(model: NativeMultimodalModel, its: Sequence[Prompt]) -> Decoder:
                return kind(model, [its[i] for i in chosen], steps)

            placed = {
                name: place(partial(decoder, model, its), model.embedding.weight.device)
                for name, (model, its) in guides.items()
            }
            return Guided(decoder(base, prompts), placed, alpha, vocabulary, chosen, change)

        return continue_guided(make, [min(each) for each in zip(*rooms, strict=True)], sampling, listen)


def continue_guided(
    make: Callable[[Sequence[int], int], Guided],
    room: Sequence[int],
    sampling: Sampling,
    listen: Listen | None = None,
) -> list[list[int]]:
    """``continue_prompts`` with somebody to listen to the logits of every step."""
    if listen is None:
        return continue_prompts(make, room, sampling)
    current: list[Guided] = []

    def made(chosen: Sequence[int], steps: int) -> Guided:
        current[:] = [make(chosen, steps)]
        return current[0]

    def watch(at: Sequence[int], numbers: Sequence[int], tokens: Sequence[int]) -> None:
        listen(current[0].last, at, numbers, tokens)

    heard: Watch = watch
    return continue_prompts(made, room, sampling, heard)


class Guided:
    """A decoder made of a base and its guides, which go through the same tokens in lockstep."""

    def __init__(
        self,
        base: Decoder,
        guides: Mapping[str, Guide],
        alpha: float,
        vocabulary: Vocabulary,
        numbers: Sequence[int],
        change: Change | None = None,
    ) -> None:
        self.base, self.guides, self.alpha, self.vocabulary, self.change = base, guides, alpha, vocabulary, change
        self.numbers_B = torch.tensor(numbers, device=base.device)
        self.shown = shown_tokens(vocabulary, base.device)
        self.step = 0
        self.last: Step

    @property
    def device(self) -> torch.device:
        """Of the base."""
        return self.base.device

    def start(self) -> Tensor:
        """(B, V) logits after the prompts. Raises ValueError naming a model whose logits are not finite."""
        waiting = {name: guide.start() for name, guide in self.guides.items()}
        base_BV = self.base.start()
        logits = {name: wait().to(base_BV.device) for name, wait in waiting.items()}
        for name, each in {"base": base_BV, **logits}.items():
            if not torch.isfinite(each).all():
                raise ValueError(
                    f"the logits of the {name} are not finite: its training diverged, or its weights are damaged"
                )
        return self._sum(base_BV, logits)

    def next(self, token_B: Tensor) -> Tensor:
        """(B, V) logits after one more token in every row."""
        shown_B = token_B if self.shown is None else self.shown[token_B]
        waiting = {name: guide.next(shown_B) for name, guide in self.guides.items()}
        base_BV = self.base.next(token_B)
        return self._sum(base_BV, {name: wait().to(base_BV.device) for name, wait in waiting.items()})

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""
        self.base.keep(rows_K)
        for guide in self.guides.values():
            guide.keep(rows_K)
        self.numbers_B = self.numbers_B[rows_K]

    def _sum(self, base_BV: Tensor, logits: dict[str, Tensor]) -> Tensor:
        base_BV, expert, amateur = base_BV.float(), logits.get("expert"), logits.get("amateur")
        delta_BW = difference(expert, amateur, self.vocabulary)
        if delta_BW is not None and self.change is not None:
            delta_BW = self.change(delta_BW, self.numbers_B, self.step)
        total_BV = combined(base_BV, delta_BW, self.alpha)
        self.last = Step(self.step, base_BV, expert, amateur, delta_BW, total_BV)
        self.step += 1
        return total_BV


def difference(expert: Tensor | None, amateur: Tensor | None, vocabulary: Vocabulary) -> Tensor | None:
    """(..., W) logits expert - amateur in the base's tokens, fp32; None without guides."""
    heads = [logits.shape[-1] for logits in (expert, amateur) if logits is not None]
    if not heads:
        return None
    width = min(heads) if vocabulary.counterpart else vocabulary.width
    delta = None if expert is None else expert[..., :width].float()
    if amateur is not None:
        minus = amateur[..., :width].float()
        delta = -minus if delta is None else delta - minus
    if delta is None or vocabulary.counterpart is None:
        return delta
    theirs = torch.tensor(vocabulary.counterpart, device=delta.device)
    return delta[..., theirs.clamp(min=0)].masked_fill(theirs == NONE, 0.0)


def combined(base: Tensor, delta: Tensor | None, alpha: float) -> Tensor:
    """(..., V) logits base + alpha delta, -inf for tokens of the base that lie beyond the (..., W) of the guides."""
    if delta is None:
        return base
    if delta.shape[-1] == base.shape[-1]:
        return torch.add(base, delta, alpha=alpha)
    shared = torch.add(base[..., : delta.shape[-1]], delta, alpha=alpha)
    return F.pad(shared, (0, base.shape[-1] - delta.shape[-1]), value=float("-inf"))


# ---------------------------------------------------------------------------------------------------------------------
# what the guides read, and where they compute


def checked_same(*models: NativeMultimodalModel | None) -> Vocabulary:
    widths = [model.config.data.vocab_size for model in models if model is not None]
    if len(set(widths)) > 1:
        raise ValueError(
            f"vocabularies of {', '.join(map(str, widths))} tokens: say how they correspond, with vocabulary=align(...)"
        )
    return same_vocabulary(widths[0])


def shown_tokens(vocabulary: Vocabulary, device: torch.device) -> Tensor | None:
    """(V,) what the guides are shown for every token of the base; None: the same."""
    if vocabulary.counterpart is None:
        return None
    return torch.tensor([vocabulary.shown(i) for i in range(vocabulary.width)], device=device)


def _prompts_of(
    name: str, own: Sequence[Prompt] | None, prompts: Sequence[Prompt], vocabulary: Vocabulary
) -> Sequence[Prompt]:
    if own is None:
        if vocabulary.counterpart is None:
            return prompts
        return [replace(prompt, tokens=[vocabulary.shown(token) for token in prompt.tokens]) for prompt in prompts]
    if len(own) != len(prompts):
        raise ValueError(f"{name}_prompts are {len(own)}, prompts {len(prompts)}; give one for each, or None")
    return own


def _room_of(name: str, model: NativeMultimodalModel, prompts: Sequence[Prompt]) -> list[int]:
    try:
        return room_after(model, prompts)
    except ValueError as error:
        raise ValueError(f"the {name} cannot read it: {error}") from error


@contextmanager
def _placing(parallel: str, guides: int) -> Iterator[Callable[[Callable[[], Decoder], torch.device], Guide]]:
    """How a guide on a device is made that computes as ``parallel`` says."""
    match parallel:
        case "none":
            yield lambda make, device: InTurn(make)
        case "threads":
            with ThreadPoolExecutor(max(guides, 1), "guide") as pool:
                yield lambda make, device: OnStream(make, device) if device.type == "cuda" else InThread(make, pool)
        case _:
            raise ValueError(f"parallel={parallel!r} is not one of none, threads")
