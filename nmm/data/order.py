"""Sample order as a pure function of (seed, source, epoch), and the running hash that proves which order was delivered.

Every random number is a counter hash of (seed, purpose, index): no state, no global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from nmm.data.counter_rng import CounterStream

BLOCK_SAMPLES = 16_384
START = "0" * 32


def random_bits(count: int, seed: int, *names: str) -> np.ndarray:
    """(count,) uint64, a pure function of the arguments."""
    return CounterStream(seed, *names).bits(np.arange(count), np.zeros(1, np.int64))[:, 0]


def epoch_order(
    shard_samples: Sequence[int], seed: int, source: str, epoch: int, block: int = BLOCK_SAMPLES
) -> np.ndarray:
    """(n,) int64 sample numbers of one source in the order of one epoch, each exactly once.

    ``shard_samples[i]`` is the number of samples of shard i; samples are numbered through the shards in manifest order.
    Shards are permuted, then samples inside consecutive blocks of ``block`` samples: reads stay within a few shards.
    """
    sizes = np.asarray(shard_samples, np.int64)
    first = np.cumsum(sizes) - sizes
    shards = CounterStream(seed, "shards", source, str(epoch)).permutation(len(sizes))
    order = np.concatenate([np.arange(first[s], first[s] + sizes[s]) for s in shards])
    bits = random_bits(len(order), seed, "samples", source, str(epoch))
    for start in range(0, len(order), block):
        inside = slice(start, start + block)
        order[inside] = order[inside][np.argsort(bits[inside], kind="stable")]
    return order


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
