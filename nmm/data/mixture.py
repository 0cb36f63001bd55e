"""Which documents a window draws from each source: a pure function of the window's number.

By tokens, source s owes every window ``budget[s]`` tokens (image + text). By the end of window w it has delivered the
fewest whole documents that reach ``budget[s] * (w + 1)`` tokens, so each window's realised share is right to within one
document and the error never adds up. By samples it owes a (fractional) number of documents, in the same way.

Nothing here grows with the number of samples: finding a window costs a search in the running token count of blocks, and
one block of about 16,000 samples at a time is put in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from nmm.data.order import EpochOrder

KEPT_BLOCKS = 3


def shares(weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Weights that sum to 1, in the order of ``names``; sources of weight 0 are left out.

    Raises ValueError for an unknown source, a negative weight, or weights that are all zero.
    """
    for source, weight in weights.items():
        if source not in names and weight != 0:
            raise ValueError(f"mixture names source {source!r}; allowed: {list(names)}")
        if not weight >= 0:
            raise ValueError(f"mixture weight of {source!r} is {weight}; weights must be >= 0")
    total = sum(weights.values())
    if not total > 0:
        raise ValueError(f"mixture={dict(weights)} needs at least one positive weight")
    return {source: weights[source] / total for source in names if weights.get(source, 0) > 0}


class Block(NamedTuple):
    """(b,) sample numbers in delivery order, their records, and (b + 1,) the tokens delivered before each of them."""

    samples: np.ndarray
    records: np.ndarray
    before: np.ndarray


class SourceStream:
    """The endless stream of one source: epoch after epoch, each a permutation of all its documents.

    Args:
        name: The source.
        units: (U,) documents of every unit (see ``EpochOrder``).
        unit_tokens: (U,) positions they occupy.
        records: Sample numbers (n,) -> (n,) records, of which ``length`` is the positions each occupies. They are asked
            for a block at a time, and kept while it is in use.
        seed: Decides the permutations.
        once_in_order: End after one epoch, delivered in sample order (evaluation).
    """

    def __init__(
        self,
        name: str,
        units: Sequence[int] | np.ndarray,
        unit_tokens: Sequence[int] | np.ndarray,
        records: Callable[[np.ndarray], np.ndarray],
        seed: int,
        once_in_order: bool = False,
    ) -> None:
        self.name, self.seed, self.once_in_order = name, seed, once_in_order
        self.units, self.unit_tokens = np.asarray(units, np.int64), np.asarray(unit_tokens, np.int64)
        self.samples, self.tokens = int(self.units.sum()), int(self.unit_tokens.sum())
        self._records = records
        self._epochs: dict[int, tuple[EpochOrder, np.ndarray]] = {}
        self._blocks: dict[tuple[int, int], Block] = {}

    def epoch(self, number: int) -> EpochOrder:
        """The order of one epoch."""
        return self._epoch(number)[0]

    def block(self, epoch: int, number: int) -> Block:
        """One block of an epoch."""
        key = (epoch, number)
        if key not in self._blocks:
            if len(self._blocks) >= KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            samples = self.epoch(epoch).block(number)
            records = self._records(samples)
            self._blocks[key] = Block(
                samples, records, np.concatenate([[0], np.cumsum(records["length"], dtype=np.int64)])
            )
        return self._blocks[key]

    def count_at(self, tokens: int) -> int:
        """The fewest documents, counted through the epochs, that hold at least ``tokens`` tokens."""
        if self.once_in_order and tokens >= self.tokens:
            return self.samples
        epoch, rest = divmod(tokens, self.tokens)
        order, token_ends = self._epoch(epoch)
        number = int(np.searchsorted(token_ends, rest))
        before = int(token_ends[number - 1]) if number else 0
        inside = int(np.searchsorted(self.block(epoch, number).before, rest - before))
        return epoch * self.samples + order.start(number) + inside

    def documents(self, first: int, last: int) -> np.ndarray:
        """(last - first,) sample numbers of documents first..last-1, counted through the epochs."""
        parts = [block.samples[inside] for block, inside in self._parts(first, last)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def records(self, first: int, last: int) -> np.ndarray:
        """(last - first,) their records."""
        parts = [block.records[inside] for block, inside in self._parts(first, last)]
        return np.concatenate(parts) if parts else self._records(np.zeros(0, np.int64))

    def _parts(self, first: int, last: int) -> Iterator[tuple[Block, slice]]:
        """The blocks that hold documents first..last-1, and where in them."""
        while first < last:
            epoch, start = divmod(first, self.samples)
            order = self.epoch(epoch)
            number = int(np.searchsorted(order.ends, start, side="right"))
            block, offset = self.block(epoch, number), start - order.start(number)
            inside = slice(offset, min(offset + last - first, len(block.samples)))
            yield block, inside
            first += inside.stop - inside.start

    def _epoch(self, number: int) -> tuple[EpochOrder, np.ndarray]:
        """Its order, and (blocks,) the tokens delivered by the end of each block."""
        if number not in self._epochs:
            if len(self._epochs) >= 2:
                self._epochs.pop(next(iter(self._epochs)))
            order = EpochOrder(self.units, self.seed, self.name, number, shuffled=not self.once_in_order)
            self._epochs[number] = (order, np.cumsum(self.unit_tokens[order.units])[order.last_unit - 1])
        return self._epochs[number]


class Draw:
    """How many documents a source has delivered when a window begins.

    Args:
        stream: The source.
        tokens: What it owes a window, by tokens.
        samples: What it owes a window, by samples; exactly one of the two is given.
    """

    def __init__(self, stream: SourceStream, tokens: int | None = None, samples: Fraction | None = None) -> None:
        assert (tokens is None) != (samples is None)
        self.stream, self.tokens, self.samples = stream, tokens, samples

    def before(self, window: int) -> int:
        """Documents delivered before window number ``window``, counted through the epochs."""
        if self.tokens is not None:
            return self.stream.count_at(self.tokens * window)
        assert self.samples is not None
        return int(self.samples * window)


def draws(streams: Sequence[SourceStream], share: Mapping[str, float], window_tokens: int, weights: str) -> list[Draw]:
    """One Draw for every stream. ``weights``: the shares are of "tokens" or of "samples"."""
    if weights == "tokens":
        return [Draw(stream, tokens=max(1, round(window_tokens * share[stream.name]))) for stream in streams]
    mean = sum(share[stream.name] * stream.tokens / stream.samples for stream in streams)
    documents = window_tokens / mean
    # a fixed denominator keeps the running count exact however far the stream goes
    return [Draw(stream, samples=Fraction(round(documents * share[stream.name] * 2**20), 2**20)) for stream in streams]
