"""Sample order as a pure function of (seed, source, epoch), and the running hash that proves which order was delivered.

Every random number is a counter hash of (seed, purpose, index): no state, no global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from nmm.data.counter_rng import CounterStream

BLOCK_SAMPLES = 16_384
ORDER_VERSION = 2  # 2: blocks are whole units
START = "0" * 32


def random_bits(count: int, seed: int, *names: str) -> np.ndarray:
    """(count,) uint64, a pure function of the arguments."""
    return CounterStream(seed, *names).bits(np.arange(count), np.zeros(1, np.int64))[:, 0]


class EpochOrder:
    """The order of one epoch of one source, each of its n samples exactly once, in memory that does not grow with n.

    Samples are numbered through the units (a shard, or a jsonl member of one) in their listed order. Units are
    permuted; consecutive ones are grouped into blocks of at least ``block`` samples; samples are permuted inside a
    block, which is made when it is asked for: reads stay within a few shards.

    Args:
        units: (U,) samples of every unit.
        seed, source, epoch: Decide the order, and nothing else does.
        block: Fewest samples of a block; the last one takes what is left too.
        shuffled: False delivers the samples as they are numbered (evaluation).
    """

    def __init__(
        self,
        units: Sequence[int] | np.ndarray,
        seed: int,
        source: str,
        epoch: int,
        block: int = BLOCK_SAMPLES,
        shuffled: bool = True,
    ) -> None:
        sizes = np.asarray(units, np.int64)
        number = len(sizes)
        self.units = (
            CounterStream(seed, "shards", source, str(epoch)).permutation(number) if shuffled else np.arange(number)
        )
        self._stream = CounterStream(seed, "samples", source, str(epoch)) if shuffled else None
        self._sizes = sizes[self.units]
        self._first = (np.cumsum(sizes) - sizes)[self.units]
        self.last_unit = _block_ends(self._sizes, block)
        self.ends = np.cumsum(self._sizes)[self.last_unit - 1] if len(self.last_unit) else np.zeros(0, np.int64)

    def start(self, block: int) -> int:
        """How many samples come before block number ``block``."""
        return int(self.ends[block - 1]) if block else 0

    def block(self, number: int) -> np.ndarray:
        """(b,) int64 sample numbers of one block in the order of delivery."""
        units = slice(int(self.last_unit[number - 1]) if number else 0, int(self.last_unit[number]))
        spans = zip(self._first[units].tolist(), self._sizes[units].tolist(), strict=True)
        order = np.concatenate([np.arange(first, first + size) for first, size in spans])
        if self._stream is None:
            return order
        place = np.arange(self.start(number), self.ends[number])
        bits = self._stream.bits(place, np.zeros(1, np.int64))[:, 0]
        return order[np.argsort(bits, kind="stable")]


def _block_ends(sizes: np.ndarray, block: int) -> np.ndarray:
    """(blocks,) for every block the number of units up to its end."""
    ends, held = [], 0
    for number, size in enumerate(sizes.tolist(), 1):
        held += size
        if held >= block:
            ends.append(number)
            held = 0
    if held:  # too few for a block of their own
        ends = [*ends[:-1], len(sizes)]
    return np.array(ends, np.int64)


class OrderHash:
    """Chain of blake2b digests over row ids in global row order.

    The chain is advanced row by row, so it does not depend on how rows are grouped into batches; its whole state is
    ``hexdigest()``, and ``OrderHash(state)`` continues exactly there.
    """

    def __init__(self, state: str = START) -> None:
        if len(state) != len(START):
            raise ValueError(f"order hash state must be {len(START)} hex digits, got {state!r}")
        self._digest = bytes.fromhex(state)

    def update(self, row_ids: Iterable[int]) -> None:
        """Add rows: (B,) int64 as an array, a CPU tensor or a list."""
        data = np.asarray(row_ids, "<i8").tobytes()
        for start in range(0, len(data), 8):
            self._digest = hashlib.blake2b(self._digest + data[start : start + 8], digest_size=16).digest()

    def hexdigest(self) -> str:
        return self._digest.hex()
