"""Counter-based randomness: every number is a hash of (seed, names, document index, draw number).

Nothing is carried from one draw to the next, so a document comes out the same, bit for bit, whichever chunk, process or
order it is made in. The hash is the SplitMix64 output function (Steele, Lea, Flood, 2014, "Fast splittable pseudorandom
number generators"), started from a state that is itself a hash of the key and the document index.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
TO_UNIT = 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser, element-wise and in place (the argument is consumed)."""
    state ^= state >> np.uint64(30)
    state *= MIX_A
    state ^= state >> np.uint64(27)
    state *= MIX_B
    state ^= state >> np.uint64(31)
    return state


class CounterStream:
    """One named stream of random numbers, addressed by (document index, draw number).

    Args:
        seed: The world's seed.
        names: What the stream is for, e.g. ("caption", "train", "scene"); different names give unrelated streams.
    """

    def __init__(self, seed: int, *names: str) -> None:
        digest = hashlib.blake2b("/".join((str(seed), *names)).encode(), digest_size=8).digest()
        self._key = np.uint64(int.from_bytes(digest, "little"))

    def bits(self, indices: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Raw 64-bit words, shape (len(indices), len(draws))."""
        start = indices.astype(np.uint64) * GOLDEN
        start ^= self._key
        state = _mix(start)[:, None] + (draws.astype(np.uint64) + np.uint64(1))[None, :] * GOLDEN
        return _mix(state)

    def uniform(self, indices: NDArray[np.int64], first_draw: int, num_draws: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1) with 53 random bits, shape (len(indices), num_draws)."""
        words = self.bits(indices, np.arange(first_draw, first_draw + num_draws, dtype=np.int64))
        return (words >> np.uint64(11)).astype(np.float64) * TO_UNIT

    def permutation(self, length: int) -> NDArray[np.int64]:
        """A random permutation of range(length), by sorting hashes (stable: ties cannot depend on the sort)."""
        words = self.bits(np.arange(length, dtype=np.int64), np.zeros(1, dtype=np.int64))[:, 0]
        return np.argsort(words, kind="stable").astype(np.int64)

    def integers(self, length: int, limit: int) -> NDArray[np.int64]:
        """`length` integers in range(limit), one per index 0..length-1."""
        unit = self.uniform(np.arange(length, dtype=np.int64), 0, 1)[:, 0]
        return np.minimum((unit * limit).astype(np.int64), limit - 1)
