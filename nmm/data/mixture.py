"""Which documents a window draws from each source: a pure function of the window's number.

Source s owes ``budget[s]`` tokens (image + text) to every window. By the end of window w it has delivered the fewest
whole documents that reach ``budget[s] * (w + 1)`` tokens, so each window's realised share is right to within one
document and the error never adds up. Finding a window costs a binary search in the epoch's running token count; that
count and the epoch's permutation are made once per epoch (about 0.2 s for a million samples) and two epochs are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nmm.batch import SOURCES
from nmm.data.order import epoch_order


def token_budgets(weights: Mapping[str, float], window_tokens: int) -> dict[str, int]:
    """Tokens each source owes a window, in the order of SOURCES; sources of weight 0 are left out.

    Raises ValueError for an unknown source, a negative weight, or weights that are all zero.
    """
    for source, weight in weights.items():
        if source not in SOURCES:
            raise ValueError(f"mixture names source {source!r}; allowed: {list(SOURCES)}")
        if not weight >= 0:
            raise ValueError(f"mixture weight of {source!r} is {weight}; weights must be >= 0")
    total = sum(weights.values())
    if not total > 0:
        raise ValueError(f"mixture={dict(weights)} needs at least one positive weight")
    used = [source for source in SOURCES if weights.get(source, 0) > 0]
    return {source: max(1, round(window_tokens * weights[source] / total)) for source in used}


class SourceStream:
    """The endless stream of one source: epoch after epoch, each a permutation of all its documents.

    Args:
        name: The source.
        lengths: (n,) positions each document occupies, in sample order.
        shard_samples: Samples in each shard, in manifest order (their sum is n).
        seed: Decides the permutations.
        once_in_order: End after one epoch, delivered in sample order (evaluation).
    """

    def __init__(
        self, name: str, lengths: np.ndarray, shard_samples: Sequence[int], seed: int, once_in_order: bool = False
    ) -> None:
        self.name, self.lengths, self.seed, self.once_in_order = name, lengths, seed, once_in_order
        self.shard_samples = tuple(shard_samples)
        self.samples = len(lengths)
        self.tokens = int(lengths.sum())
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) sample numbers in delivery order, and (n + 1,) tokens delivered before each of them."""
        if number not in self._epochs:
            if len(self._epochs) >= 2:
                self._epochs.pop(next(iter(self._epochs)))
            if self.once_in_order:
                order = np.arange(self.samples)
            else:
                order = epoch_order(self.shard_samples, self.seed, self.name, number)
            self._epochs[number] = (order, np.concatenate([[0], np.cumsum(self.lengths[order], dtype=np.int64)]))
        return self._epochs[number]

    def count_at(self, tokens: int) -> int:
        """The fewest documents, counted through the epochs, that hold at least ``tokens`` tokens."""
        if self.once_in_order and tokens >= self.tokens:
            return self.samples
        epoch, rest = divmod(tokens, self.tokens)
        return epoch * self.samples + int(np.searchsorted(self.epoch(epoch)[1], rest))

    def documents(self, first: int, last: int) -> np.ndarray:
        """(last - first,) sample numbers of documents first..last-1, counted through the epochs."""
        parts = [np.zeros(0, np.int64)]
        while first < last:
            epoch, start = divmod(first, self.samples)
            part = self.epoch(epoch)[0][start : start + last - first]
            parts.append(part)
            first += len(part)
        return np.concatenate(parts)
