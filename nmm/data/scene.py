"""What stands in each picture, sampled for a whole chunk of documents at once.

    B  documents of the chunk      O = 4  object slots, filled from the front in raster order of their cells

Nothing drawn here is charged to a text token: a picture is given to the text that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmm.data.catalogue import Catalogue
from nmm.data.counter_rng import CounterStream
from nmm.data.world_config import GAIN_UNIT, MAX_IMAGES, NUM_CELLS, WorldConfig

MAX_ATTEMPTS = 64
NUM_JITTERS = 9
CENTRED = 4
NO_ENTITY = -1
DRAWS_PER_IMAGE = 1024


class SceneObject(NamedTuple):
    """One object: entity, cell 0..3 in raster order, size 0 small / 1 big, jitter 0..8 (3 x (row step + 1) + ...)."""

    entity: int
    cell: int
    size: int
    jitter: int


@dataclass(frozen=True)
class Pictures:
    """One picture for each of B documents.

    count (B,) objects; entity, cell, size, jitter (B, O) int64, meaningful in the first `count` slots (entity is -1
    beyond); gain (B,) brightness in units of 1/256; lone (B,) bool, the object fills all four cells.
    """

    count: NDArray[np.int64]
    entity: NDArray[np.int64]
    cell: NDArray[np.int64]
    size: NDArray[np.int64]
    jitter: NDArray[np.int64]
    gain: NDArray[np.int64]
    lone: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> Pictures:
        """The pictures of some of the documents."""
        return Pictures(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def objects(self) -> list[list[SceneObject]]:
        """Per document, its objects in raster order."""
        columns = (self.entity.tolist(), self.cell.tolist(), self.size.tolist(), self.jitter.tolist())
        counts = self.count.tolist()
        return [
            [SceneObject(e[j], c[j], s[j], t[j]) for j in range(n)]
            for n, e, c, s, t in zip(counts, *columns, strict=True)
        ]


def _cell_table() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(number of subsets, the subsets) of n = 0..4 cells, the latter (5, 6, O) padded with zeros."""
    subsets = [list(combinations(range(NUM_CELLS), n)) for n in range(NUM_CELLS + 1)]
    table = np.zeros((NUM_CELLS + 1, max(map(len, subsets)), NUM_CELLS), dtype=np.int64)
    for n, choices in enumerate(subsets):
        for row, choice in enumerate(choices):
            table[n, row, :n] = choice
    return np.array([len(choices) for choices in subsets]), table


_NUM_SUBSETS, _SUBSETS = _cell_table()


def sample_pictures(
    config: WorldConfig,
    catalogue: Catalogue,
    stream: CounterStream,
    indices: NDArray[np.int64],
    number: int,
    earlier: list[Pictures],
) -> Pictures:
    """Picture `number` (0, 1, ...) of the documents `indices`, given the documents' earlier pictures.

    An object of a later picture is, with probability `config.reuse`, one of the earlier ones; otherwise it is drawn by
    popularity. Entities are distinct inside a picture.
    """
    base = number * DRAWS_PER_IMAGE
    unit = stream.uniform(indices, base, 4 + 2 * NUM_CELLS)
    cumulative = np.cumsum(config.object_counts)[:-1]
    count = 1 + np.searchsorted(cumulative, unit[:, 0], side="right")
    subset = (unit[:, 1] * _NUM_SUBSETS[count]).astype(np.int64)
    cell = _SUBSETS[count, subset]
    lone = (count == 1) & config.lone_object_fills
    cell[lone] = 0
    gain = config.gain_min + (unit[:, 2] * (GAIN_UNIT + 1 - config.gain_min)).astype(np.int64)
    size = (unit[:, 4 : 4 + NUM_CELLS] < config.big_probability).astype(np.int64)
    draw = unit[:, 4 + NUM_CELLS :]
    moved = np.minimum(draw * (NUM_JITTERS / config.jitter if config.jitter else 0.0), NUM_JITTERS - 1).astype(np.int64)
    jitter = np.where(draw < config.jitter, moved, CENTRED)
    entity = _sample_entities(config, catalogue, stream, indices, base + 64, count, earlier)
    return Pictures(count, entity, cell, size, jitter, gain, lone)


def _sample_entities(
    config: WorldConfig,
    catalogue: Catalogue,
    stream: CounterStream,
    indices: NDArray[np.int64],
    first_draw: int,
    count: NDArray[np.int64],
    earlier: list[Pictures],
) -> NDArray[np.int64]:
    """Distinct entities for the filled slots, shape (B, O); a proposal already in the picture is drawn again."""
    entity = np.full((len(indices), NUM_CELLS), NO_ENTITY, dtype=np.int64)
    for slot in range(NUM_CELLS):
        rows = np.flatnonzero(count > slot)
        for attempt in range(MAX_ATTEMPTS):
            draw = first_draw + 3 * (slot * MAX_ATTEMPTS + attempt)
            proposal = _propose(config, catalogue, stream, indices, draw, rows, earlier)
            taken = (entity[rows, :slot] == proposal[:, None]).any(axis=1)
            entity[rows[~taken], slot] = proposal[~taken]
            rows = rows[taken]
            if not len(rows):
                break
        for row in rows:  # so steep a popularity that 64 draws named the same few: take the most popular one left
            entity[row, slot] = next(e for e in range(NUM_CELLS) if e not in entity[row, :slot])
    return entity


def _propose(
    config: WorldConfig,
    catalogue: Catalogue,
    stream: CounterStream,
    indices: NDArray[np.int64],
    draw: int,
    rows: NDArray[np.int64],
    earlier: list[Pictures],
) -> NDArray[np.int64]:
    """One proposed entity for each of `rows`, shape (len(rows),)."""
    unit = stream.uniform(indices[rows], draw, 3)
    proposal = catalogue.sample(unit[:, 0])
    if not earlier:
        return proposal
    filled = [picture.entity[rows] for picture in earlier]
    seen = np.concatenate(filled, axis=1)
    present = seen != NO_ENTITY
    which = (unit[:, 2] * present.sum(axis=1)).astype(np.int64)
    column = (np.cumsum(present, axis=1) <= which[:, None]).sum(axis=1)
    return np.where(unit[:, 1] < config.reuse, seen[np.arange(len(rows)), column], proposal)


def sample_num_images(config: WorldConfig, stream: CounterStream, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pictures (2..MAX_IMAGES) each interleaved document has, shape (B,)."""
    unit = stream.uniform(indices, MAX_IMAGES * DRAWS_PER_IMAGE, 1)[:, 0]
    return 2 + np.searchsorted(np.cumsum(config.image_numbers)[:-1], unit, side="right")
