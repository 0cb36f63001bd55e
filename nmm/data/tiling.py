"""Where the tiles of a picture lie: consistent-aspect-ratio dynamic tiling (arXiv 2409.04828, section 2.1). Arithmetic.

    picture 100 x 40, windows of 32, at most 8:   ratio 2.5 -> grid 3 x 1 -> 80 x 32 -> windows at 0, 24, 48

Shape legend: n pictures, K windows of one of them.

The printed equation has misprints; the rule here is that of the authors' code: of the grids that are at least as far
from a square as the picture, in its direction, the one of the nearest ratio, then of the nearest area. The picture is
resized to fill the grid's shorter side and keeps its aspect, so that windows overlap along the longer one. Two details
differ: the resized picture ends where the last window does (there up to K - 2 pixels at its end are in no window), and
there are exactly as many windows as the grid has places.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Tiling:
    """A grid of ``across`` x ``down`` windows of ``side`` pixels on a picture resized to ``width`` x ``height``."""

    across: int
    down: int
    side: int
    width: int
    height: int

    @property
    def strides(self) -> tuple[int, int]:
        """Pixels from one window to the next, across and down; 0 where there is only one."""
        return _stride(self.width, self.across, self.side), _stride(self.height, self.down, self.side)

    @property
    def windows(self) -> np.ndarray:
        """(K, 2) int64: left and upper edge of every window, row by row."""
        x, y = self.strides
        places = [(x * column, y * row) for row in range(self.down) for column in range(self.across)]
        return np.array(places, np.int64)

    @property
    def images(self) -> int:
        """Images that the picture becomes: its tiles and a thumbnail; one tile would be the thumbnail once more."""
        tiles = self.across * self.down
        return tiles + 1 if tiles > 1 else 1


@functools.lru_cache(maxsize=1 << 16)
def tile(width: int, height: int, side: int, most: int) -> Tiling:
    """How a picture of ``width`` x ``height`` pixels is cut into at most ``most`` windows of ``side`` pixels.

    A picture longer than ``most`` times its width, or wider than that times its height, is squeezed to that aspect.
    Raises ValueError for sizes below 1.
    """
    if min(width, height, side, most) < 1:
        raise ValueError(f"width={width}, height={height}, side={side} and most={most} must all be at least 1")
    width, height = min(width, most * height), min(height, most * width)
    across, down = nearest_grid(width, height, side, most)
    if width < height:
        wide, high = across * side, height * across * side // width
    else:
        wide, high = width * down * side // height, down * side
    return Tiling(across, down, side, _reached(wide, across, side), _reached(high, down, side))


def nearest_grid(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """(across, down) for a picture whose aspect is within 1 : ``most`` and ``most`` : 1."""
    ratio = Fraction(width, height)
    grids = [(a, d) for a in range(1, most + 1) for d in range(1, most // a + 1)]
    if ratio < 1:
        grids = [(a, d) for a, d in grids if Fraction(a, d) <= ratio]
    elif ratio > 1:
        grids = [(a, d) for a, d in grids if Fraction(a, d) >= ratio]

    def distance(grid: tuple[int, int]) -> tuple[Fraction, int, int]:
        tiles = grid[0] * grid[1]
        return abs(Fraction(*grid) - ratio), abs(tiles * side * side - width * height), tiles

    return min(grids, key=distance)


def image_counts(sizes: np.ndarray, side: int, most: int) -> np.ndarray:
    """(n,) int64 images that pictures of (n, 2) ``sizes`` (width, height) become."""
    different, place = np.unique(sizes.reshape(-1, 2).astype(np.int64), axis=0, return_inverse=True)
    counts = [tile(width, height, side, most).images for width, height in different.tolist()]
    return np.array(counts, np.int64)[place.reshape(-1)]


def _stride(length: int, number: int, side: int) -> int:
    return (length - side) // (number - 1) if number > 1 else 0


def _reached(length: int, number: int, side: int) -> int:
    """Where the last of ``number`` windows on ``length`` pixels ends."""
    return side + _stride(length, number, side) * (number - 1)
