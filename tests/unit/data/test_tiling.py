"""Where the tiles of a picture lie: the rule of arXiv 2409.04828 as its authors' code has it, for many pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from nmm.data.tiling import image_counts, nearest_grid, tile

SIDE = 7
SIZES = [(width, height) for width in range(1, 71, 3) for height in range(1, 71, 3)]


@pytest.mark.parametrize("most", range(1, 10))
def test_windows_are_inside_and_every_pixel_is_in_one(most: int) -> None:
    for width, height in SIZES:
        tiling = tile(width, height, SIDE, most)
        seen = np.zeros((tiling.height, tiling.width), int)
        for left, upper in tiling.windows.tolist():
            assert 0 <= left <= tiling.width - SIDE and 0 <= upper <= tiling.height - SIDE, (width, height)
            seen[upper : upper + SIDE, left : left + SIDE] += 1
        assert seen.min() >= 1, (width, height)
        assert len(tiling.windows) == tiling.across * tiling.down <= most


@pytest.mark.parametrize("most", range(1, 10))
def test_windows_are_evenly_spaced_by_floor_division(most: int) -> None:
    for width, height in SIZES:
        tiling = tile(width, height, SIDE, most)
        windows = tiling.windows.reshape(tiling.down, tiling.across, 2)
        for axis, length, number in ((0, tiling.width, tiling.across), (1, tiling.height, tiling.down)):
            stride = (length - SIDE) // (number - 1) if number > 1 else 0
            assert tiling.strides[axis] == stride
            places = windows[0, :, 0] if axis == 0 else windows[:, 0, 1]
            assert places.tolist() == [stride * place for place in range(number)]


@pytest.mark.parametrize("most", range(1, 10))
def test_the_grid_is_as_extreme_as_the_picture_and_the_nearest_such(most: int) -> None:
    """Against all grids, written as the rule is told, with exact ratios."""
    for width, height in SIZES:
        wide, high = min(width, most * height), min(height, most * width)
        ratio, grid = Fraction(wide, high), nearest_grid(wide, high, SIDE, most)
        allowed = [
            (a, d)
            for a in range(1, most + 1)
            for d in range(1, most + 1)
            if a * d <= most and (ratio == 1 or (Fraction(a, d) >= ratio if ratio > 1 else Fraction(a, d) <= ratio))
        ]
        nearest = min(abs(Fraction(a, d) - ratio) for a, d in allowed)
        alike = [(a, d) for a, d in allowed if abs(Fraction(a, d) - ratio) == nearest]
        gaps = {(a, d): abs(Fraction(wide * high, SIDE * SIDE) - a * d) for a, d in alike}
        assert grid in alike and gaps[grid] == min(gaps.values()), (width, height)


@pytest.mark.parametrize("most", range(2, 10))
def test_the_aspect_is_kept_but_for_the_last_pixels(most: int) -> None:
    for width, height in SIZES:
        if not 1 / most <= width / height <= most:
            continue
        tiling = tile(width, height, SIDE, most)
        exact = Fraction(tiling.height * width, height) if width >= height else Fraction(tiling.width * height, width)
        longer, number = (tiling.width, tiling.across) if width >= height else (tiling.height, tiling.down)
        assert 0 <= exact - longer < max(1, number), "floor of the length, then of the stride"


@pytest.mark.parametrize(
    ("size", "side", "most", "grid", "resized", "strides"),
    [
        ((100, 40), 32, 8, (3, 1), (80, 32), (24, 0)),
        ((40, 100), 32, 8, (1, 3), (32, 80), (0, 24)),
        ((1300, 1000), 336, 8, (3, 2), (872, 672), (268, 336)),  # 873 in the authors' code, the last one unseen
        ((336, 336), 336, 8, (1, 1), (336, 336), (0, 0)),
        ((672, 672), 336, 8, (2, 2), (672, 672), (336, 336)),
        ((1000, 1000), 336, 8, (2, 2), (672, 672), (336, 336)),  # 3 x 3 would be more than 8
        ((1000, 1000), 336, 9, (3, 3), (1008, 1008), (336, 336)),
        ((530, 530), 336, 8, (1, 1), (336, 336), (0, 0)),  # 2.49 windows of area: one is nearer than four
        ((532, 532), 336, 8, (2, 2), (672, 672), (336, 336)),
        ((800, 100), 32, 8, (8, 1), (256, 32), (32, 0)),
        ((100, 800), 32, 8, (1, 8), (32, 256), (0, 32)),
        ((1600, 100), 32, 8, (8, 1), (256, 32), (32, 0)),  # squeezed to 8 : 1
        ((100, 1600), 32, 8, (1, 8), (32, 256), (0, 32)),
        ((101, 100), 32, 2, (2, 1), (32, 32), (0, 0)),  # two windows that hardly differ: so says the rule
        ((500, 300), 64, 1, (1, 1), (64, 64), (0, 0)),
    ],
)
def test_known_pictures(
    size: tuple[int, int],
    side: int,
    most: int,
    grid: tuple[int, int],
    resized: tuple[int, int],
    strides: tuple[int, int],
) -> None:
    found = tile(*size, side, most)
    assert (found.across, found.down) == grid
    assert (found.width, found.height) == resized
    assert found.strides == strides


def test_a_turned_picture_has_the_turned_grid() -> None:
    for width, height in SIZES:
        one, other = tile(width, height, SIDE, 8), tile(height, width, SIDE, 8)
        assert (one.across, one.down) == (other.down, other.across)
        assert (one.width, one.height) == (other.height, other.width)


def test_images_are_tiles_and_a_thumbnail_or_one() -> None:
    sizes = np.array([(64, 64), (32, 32), (100, 40), (64, 64)])
    assert image_counts(sizes, 32, 4).tolist() == [5, 1, 4, 5]
    assert image_counts(sizes.astype("<u2"), 32, 1).tolist() == [1, 1, 1, 1]
    assert image_counts(np.zeros((0, 2)), 32, 4).tolist() == []


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="width=0, height=3, side=2 and most=1 must all be at least 1"):
        tile(0, 3, 2, 1)
