"""A picture becomes its tiles and a thumbnail: exact where nothing is resized, upright, mirrored before it is cut."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from nmm.data.images import decode_picture
from nmm.data.reasons import BadSample
from nmm.data.tiles import decode_tiles, tile_picture
from nmm.data.tiling import tile

SIDE = 16


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def test_a_picture_of_whole_windows_is_cut_bit_for_bit() -> None:
    pixels = noise(3 * SIDE, 2 * SIDE)
    images = decode_tiles(png(pixels), "png", SIDE, 6)
    assert images.shape == (7, SIDE, SIDE, 3) and images.dtype == np.uint8
    for number in range(6):
        row, column = divmod(number, 3)
        window = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        assert np.array_equal(images[number], window)
    assert np.array_equal(images[6], resized(pixels, SIDE, SIDE)), "the thumbnail is last, squeezed to a square"
    assert np.array_equal(images, tile_picture(pixels, SIDE, 6))


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (37, 91), (23, 20), (16, 16), (200, 20), (20, 390)])
def test_windows_are_those_of_the_plan(size: tuple[int, int]) -> None:
    pixels, plan = noise(*size), tile(*size, SIDE, 8)
    whole = resized(pixels, plan.width, plan.height) if size != (plan.width, plan.height) else pixels
    images = decode_tiles(png(pixels), "png", SIDE, 8)
    assert len(images) == plan.images
    for image, (left, upper) in zip(images, plan.windows.tolist(), strict=False):
        assert np.array_equal(image, whole[upper : upper + SIDE, left : left + SIDE])


def test_a_picture_of_one_tile_is_that_tile_alone() -> None:
    pixels = noise(SIDE, SIDE)
    assert np.array_equal(decode_tiles(png(pixels), "png", SIDE, 8), pixels[None])
    assert np.array_equal(decode_tiles(png(pixels), "png", SIDE, 8)[0], decode_picture(png(pixels), "png", SIDE))
    larger = noise(2 * SIDE, 2 * SIDE)
    assert np.array_equal(tile_picture(larger, SIDE, 1), resized(larger, SIDE, SIDE)[None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_before_it_is_cut(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(3 * SIDE, 2 * SIDE)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(png(stored, exif=exif)))))
    images = decode_tiles(png(stored, exif=exif), "png", SIDE, 6)
    assert np.array_equal(images[:6], tile_picture(upright, SIDE, 6)[:6])


def test_a_mirrored_picture_is_mirrored_whole() -> None:
    pixels = noise(3 * SIDE, 2 * SIDE)
    mirrored = decode_tiles(png(pixels), "png", SIDE, 6, mirrored=True)
    assert np.array_equal(mirrored, tile_picture(np.ascontiguousarray(pixels[:, ::-1]), SIDE, 6))
    assert np.array_equal(mirrored[0], pixels[:SIDE, : 2 * SIDE - 1 : -1][:, :SIDE])


def test_a_large_jpeg_is_decoded_smaller_and_looks_alike() -> None:
    picture = Image.fromarray(noise(9, 6)).resize((960, 640), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    images = decode_tiles(buffer.getvalue(), "jpg", SIDE, 6)
    expected = tile_picture(np.asarray(picture), SIDE, 6)
    assert images.shape == expected.shape == (7, SIDE, SIDE, 3)
    assert np.abs(images.astype(int) - expected.astype(int)).mean() < 3


def test_a_damaged_picture_is_a_bad_sample() -> None:
    with pytest.raises(BadSample):
        decode_tiles(png(noise(40, 40))[:200], "png", SIDE, 4)
