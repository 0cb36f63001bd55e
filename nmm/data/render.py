"""From scenes to pixels with integer arithmetic only.

    B  pictures      S  picture side in pixels      8  grid steps across a cell, 16 across a picture

A sprite is a grid of palette indices (0 is the background). Gain and noise are bounded, so every palette level stays
separable and a picture determines its scene with certainty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nmm.data import words
from nmm.data.catalogue import SHAPES, Catalogue
from nmm.data.counter_rng import CounterStream
from nmm.data.scene import CENTRED, NUM_JITTERS, Pictures
from nmm.data.world_config import BACKGROUND_LEVEL, CHANNEL_LEVELS, NUM_CELLS, NUM_PATTERNS, WorldConfig

GRID = 8

# Outlines as 3x3 blocks. The middle one always belongs to the body, for the badge sits there; two outlines differ by
# two blocks at least, so that a shape can be learned from few pictures.
_OUTLINES = {
    "square": "### ### ###",
    "star": "#.# .#. #.#",
    "cross": ".#. ### .#.",
    "hill": "... .#. ###",
    "funnel": "### .#. ...",
    "pillar": ".#. .#. .#.",
    "bolt": "##. .#. .##",
    "bar": "... ### ...",
}
_BLOCK_SIDES = ((1, 2, 1), (2, 2, 2))  # of the three blocks across, in a small (4x4) and a big (6x6) object


def _place(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask at the nine jittered places around the centre of a cell, shape (9, 8, 8)."""
    side = mask.shape[0]
    corner = (GRID - side) // 2
    out = np.zeros((NUM_JITTERS, GRID, GRID), dtype=bool)
    for jitter in range(NUM_JITTERS):
        row, column = corner + jitter // 3 - 1, corner + jitter % 3 - 1
        out[jitter, row : row + side, column : column + side] = mask
    return out


def _outline(drawing: str, sides: tuple[int, ...]) -> NDArray[np.bool_]:
    """A drawing with its blocks at these sides, shape (sum of sides, sum of sides)."""
    blocks = np.array([[mark == "#" for mark in row] for row in drawing.split()])
    return blocks.repeat(sides, axis=0).repeat(sides, axis=1)


def _bodies() -> NDArray[np.bool_]:
    """Body masks by (size, shape, jitter), shape (2, shapes, 9, 8, 8)."""
    return np.array([[_place(_outline(_OUTLINES[name], sides)) for name in SHAPES] for sides in _BLOCK_SIDES])


def _badges() -> NDArray[np.bool_]:
    """Badge masks by (pattern, jitter), shape (16, 9, 8, 8); bit b of a pattern is cell (b // 2, b % 2) of the 2x2."""
    bits = np.arange(NUM_PATTERNS + 1)[:, None] >> np.arange(4) & 1
    return np.array([_place(row.reshape(2, 2).astype(bool)) for row in bits])


BODIES = _bodies()
BADGES = _badges()


def sprite_grids(
    catalogue: Catalogue, entity: NDArray[np.int64], size: NDArray[np.int64], jitter: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Palette indices of sprites, shape (..., 8, 8) for index arrays of shape (...)."""
    body = BODIES[size, catalogue.shape[entity], jitter]
    badge = BADGES[catalogue.pattern[entity], jitter]
    colour = (catalogue.colour[entity] + 1).astype(np.uint8)[..., None, None]
    other = (catalogue.badge[entity] + 1).astype(np.uint8)[..., None, None]
    return np.where(badge, other, body * colour)


def palette(config: WorldConfig) -> NDArray[np.uint8]:
    """RGB levels by palette index, shape (1 + colours, 3): the background, then the colours."""
    colours = list(words.COLOURS.values())[: config.num_colours]
    levels = [[CHANNEL_LEVELS[level] for level in colour] for colour in colours]
    return np.array([[BACKGROUND_LEVEL] * 3, *levels], dtype=np.uint8)


def picture_grids(catalogue: Catalogue, pictures: Pictures) -> NDArray[np.uint8]:
    """Palette indices of whole pictures, shape (B, 16, 16)."""
    grids = np.zeros((len(pictures.count), 2, 2, GRID, GRID), dtype=np.uint8)
    for slot in range(NUM_CELLS):
        rows = np.flatnonzero((pictures.count > slot) & ~pictures.lone)
        cell = pictures.cell[rows, slot]
        look = (pictures.entity[rows, slot], pictures.size[rows, slot], pictures.jitter[rows, slot])
        grids[rows, cell // 2, cell % 2] = sprite_grids(catalogue, *look)
    whole = grids.transpose(0, 1, 3, 2, 4).reshape(-1, 2 * GRID, 2 * GRID)
    for jitter in range(NUM_JITTERS):
        rows = np.flatnonzero(pictures.lone & (pictures.jitter[:, 0] == jitter))
        whole[rows] = lone_grids(catalogue, pictures.entity[rows, 0], pictures.size[rows, 0], jitter)
    return whole


def lone_grids(
    catalogue: Catalogue, entity: NDArray[np.int64], size: NDArray[np.int64], jitter: int
) -> NDArray[np.uint8]:
    """Sprites of lone objects at twice the scale, moved by single steps, shape (..., 16, 16).

    The central 2x2 always straddles the middle, so that a lone object shows in all four cells.
    """
    centred = sprite_grids(catalogue, entity, size, np.full_like(entity, CENTRED))
    return np.roll(centred.repeat(2, axis=-2).repeat(2, axis=-1), (jitter // 3 - 1, jitter % 3 - 1), axis=(-2, -1))


def render(
    config: WorldConfig,
    catalogue: Catalogue,
    pictures: Pictures,
    noise: CounterStream,
    indices: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """The pictures as RGB bytes, shape (B, S, S, 3); `noise` is addressed by the documents' `indices`."""
    colours = palette(config)[picture_grids(catalogue, pictures)].astype(np.uint16)
    colours *= pictures.gain.astype(np.uint16)[:, None, None, None]
    colours >>= 8
    scale = config.image_size // (2 * GRID)
    pixels = colours.astype(np.int16).repeat(scale, axis=1).repeat(scale, axis=2)
    pixels += _noise(config, noise, indices)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _noise(config: WorldConfig, stream: CounterStream, indices: NDArray[np.int64]) -> NDArray[np.int16]:
    """Whole numbers from -noise..noise, one per pixel and channel, shape (B, S, S, 3): one hashed byte each."""
    side = config.image_size
    draws = np.arange(side * side * 3 // 8, dtype=np.int64)
    hashed = stream.bits(indices, draws).astype("<u8", copy=False).view(np.uint8)
    spread = hashed.astype(np.uint16)
    spread *= np.uint16(2 * config.noise + 1)
    spread >>= np.uint16(8)
    return (spread.view(np.int16) - np.int16(config.noise)).reshape(-1, side, side, 3)
