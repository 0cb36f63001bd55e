"""FLOPs of generation: what a prompt and every token after it cost with a cache, alone and guided. No torch.

A multiply-add is 2 FLOPs; counted is what ``nmm.flops`` counts, for the positions that are really computed: the head
once a token, attention over the slots that are filled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nmm.config import RunConfig
from nmm.flops import Flops, forward_flops


def prompt_flops(config: RunConfig, tokens: int, images: int = 0) -> float:
    """Reading a prompt of ``tokens`` positions (those of its ``images`` among them) and predicting what follows it."""
    share = images * config.tokens_per_image / tokens
    each = forward_flops(config, image_share=share, target_share=1 / tokens)
    return tokens * _over(config, each, tokens).total


def token_flops(config: RunConfig, slots: float) -> float:
    """Reading one more word, which is the ``slots``-th position of its row, and predicting the next."""
    return _over(config, forward_flops(config, image_share=0.0, target_share=1.0), slots).total


def _over(config: RunConfig, flops: Flops, slots: float) -> Flops:
    """Attention scores over so many slots in place of a whole context."""
    return replace(flops, attention_scores=flops.attention_scores * slots / config.data.context_length)


def generation_flops(config: RunConfig, prompt_tokens: int, new_tokens: int, images: int = 0) -> float:
    """One continuation: the prompt, then all new tokens but the last, which is never read."""
    mean_slots = prompt_tokens + new_tokens / 2  # FLOPs are linear in slots, which are prompt_tokens + 1 to + new - 1
    return prompt_flops(config, prompt_tokens, images) + (new_tokens - 1) * token_flops(config, mean_slots)


def guided_flops(configs: Iterable[RunConfig], prompt_tokens: int, new_tokens: int, images: int = 0) -> float:
    """One continuation of a base and its guides, which read the same prompt: their sum."""
    return sum(generation_flops(config, prompt_tokens, new_tokens, images) for config in configs)


def token_ratio(base: RunConfig, guides: Iterable[RunConfig], slots: float) -> float:
    """FLOPs a token of a base with its guides over those of the base alone: about 1 + 2 N_small / N_large."""
    alone = token_flops(base, slots)
    return 1 + sum(token_flops(guide, slots) for guide in guides) / alone
