"""Noise of training captions: serial numbers, captions of other pictures, boilerplate, repeated samples.

arXiv 2409.04828 found serial numbers and stock-photo ids at the bad end of its ranking by perplexity. Here such noise
is drawn on purpose and labelled, so that what a filter keeps can be counted. Only training captions have it.

    B  documents of a chunk

Like everything of the world it is a pure function of (config, source, split, index), from streams of its own: what is
left clean is word for word what the world without noise tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmm.data.counter_rng import CounterStream
from nmm.data.world_config import WorldConfig

KINDS = ("serial", "wrong", "boilerplate", "repeated")
FIRST_REPEATED = 1 << 40  # the fixed samples are documents beyond all others


@dataclass(frozen=True)
class Noise:
    """What is wrong with each of B documents.

    drawn (B,) int64: the document whose picture and words are told, another one's for a repeated sample. The others are
    (B,) bool: the caption is another scene's, ends with a serial number, or is a fixed text (then it is nothing else).
    """

    drawn: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    serial: NDArray[np.bool_]
    boilerplate: NDArray[np.bool_]
    repeated: NDArray[np.bool_]

    def labels(self, row: int) -> tuple[str, ...]:
        """The kinds of noise of one document, in the order of KINDS."""
        return tuple(kind for kind in KINDS if getattr(self, kind)[row])


def is_noisy(config: WorldConfig, source: str, split: str) -> bool:
    """Whether documents of this source and split can be noisy."""
    return source == "caption" and split == "train" and any(getattr(config, kind) for kind in KINDS)


def entropy_is_known(config: WorldConfig, source: str, split: str) -> bool:
    """Whether log-probabilities stay exact. A caption of any scene at all has none that could be told; the picture of a
    fixed sample gives its whole caption away to who has seen it before.
    """
    return not (is_noisy(config, source, split) and (config.wrong or config.repeated))


def sample_noise(config: WorldConfig, source: str, split: str, indices: NDArray[np.int64]) -> Noise:
    """The noise of the documents `indices` of a source and split that ``is_noisy``."""
    copies = CounterStream(config.seed, source, split, "repeated").uniform(indices, 0, 2)
    repeated = copies[:, 0] < config.repeated
    fixed = FIRST_REPEATED + (copies[:, 1] * config.repeated_samples).astype(np.int64)
    drawn = np.where(repeated, fixed, indices)
    unit = CounterStream(config.seed, source, split, "caption noise").uniform(drawn, 0, 3)
    boilerplate = unit[:, 0] < config.boilerplate
    wrong = (unit[:, 1] < config.wrong) & ~boilerplate
    serial = (unit[:, 2] < config.serial) & ~boilerplate
    return Noise(drawn, wrong, serial, boilerplate, repeated)
