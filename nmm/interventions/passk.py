"""Many answers to one question: pass@k, the answer by vote, and how many answers a budget buys. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer", bound=Hashable)


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k answers is right (arXiv 2107.03374, section 2.1).

    ``right`` of ``samples`` answers were right: 1 - C(samples - right, k) / C(samples, k). Raises ValueError unless
    0 <= right <= samples and 1 <= k <= samples.
    """
    if not 0 <= right <= samples:
        raise ValueError(f"right={right} must lie in 0..samples={samples}")
    if not 1 <= k <= samples:
        raise ValueError(f"k={k} must lie in 1..samples={samples}: draw at least k answers a question")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def mean_pass_at_k(right: Sequence[int], samples: int, ks: Sequence[int]) -> dict[int, float]:
    """The mean over questions, of each of which ``right[i]`` of ``samples`` answers were right, for every k."""
    if not right:
        raise ValueError("pass@k of no questions is not defined")
    return {k: sum(pass_at_k(each, samples, k) for each in right) / len(right) for k in ks}


def voted(answers: Sequence[Answer]) -> Answer:
    """The commonest of several answers; of equals the one that came first."""
    return Counter(answers).most_common(1)[0][0]


def samples_for(flops: float, flops_a_sample: float) -> int:
    """How many answers of one model cost no more than ``flops``, at least 1: best-of-n at equal cost."""
    if flops <= 0 or flops_a_sample <= 0:
        raise ValueError(f"flops={flops} and flops_a_sample={flops_a_sample} must be positive")
    return max(1, int(flops / flops_a_sample * (1 + 1e-12)))
