"""Image bytes become patches in one documented order."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nmm.data import images
from nmm.data.images import decode_image, patchify


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("patch_size", [1, 3, 4, 12])
def test_patchify_equals_four_loops(pixels: np.ndarray, patch_size: int) -> None:
    side = 12 // patch_size
    expected = [
        [
            pixels[row * patch_size + h, column * patch_size + w, c]
            for c in range(3)
            for h in range(patch_size)
            for w in range(patch_size)
        ]
        for row in range(side)
        for column in range(side)
    ]
    assert np.array_equal(patchify(pixels, patch_size), np.array(expected, np.uint8))
    together = patchify(np.stack([pixels, pixels[::-1]]), patch_size)
    assert np.array_equal(together[0], patchify(pixels, patch_size))
    assert np.array_equal(together[1], patchify(pixels[::-1], patch_size))


@pytest.mark.parametrize("patch_size", [0, 5, 24])
def test_patch_size_must_divide(pixels: np.ndarray, patch_size: int) -> None:
    with pytest.raises(ValueError, match=r"does not divide.*\[1, 2, 3, 4, 6, 12\]"):
        patchify(pixels, patch_size)


def unfiltered(pixels: np.ndarray) -> bytes:
    """The simplest PNG of (H, W, 3) pixels, written by hand."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes())),
    ]
    parts = [
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_simple_png_takes_the_short_way_to_the_same_pixels(pixels: np.ndarray) -> None:
    data = unfiltered(pixels)
    assert np.array_equal(images._unfiltered_png(data, 12), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(decode_image(data, "png", 12), pixels)


def test_other_pngs_take_the_long_way(pixels: np.ndarray) -> None:
    smooth = np.repeat(np.arange(0, 240, 20, dtype=np.uint8), 12 * 3).reshape(12, 12, 3)
    assert images._unfiltered_png(encoded(smooth), 12) is None
    assert np.array_equal(decode_image(encoded(smooth), "png", 12), smooth)
    data = unfiltered(pixels)
    middle = len(data) // 2
    for broken in (
        data[:-13] + data[-12:],
        data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        data[:45],
    ):
        assert images._unfiltered_png(broken, 12) is None
    for side in (11, 13):
        assert images._unfiltered_png(data, side) is None


def test_png_is_exact_and_jpeg_is_close(pixels: np.ndarray) -> None:
    assert np.array_equal(decode_image(encoded(pixels), "png", 12), pixels)
    smooth = np.full_like(pixels, 100)
    assert np.abs(decode_image(encoded(smooth, "JPEG"), "jpg", 12).astype(int) - 100).max() < 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(pixels: np.ndarray, mode: str) -> None:
    data = encoded(pixels[:, :, 0].astype(np.uint16)) if mode == "I;16" else encoded(pixels, mode=mode)
    decoded = decode_image(data, "png", 12)
    assert (decoded.shape, decoded.dtype) == ((12, 12, 3), np.uint8)


def test_bad_bytes_are_refused(pixels: np.ndarray) -> None:
    data = encoded(pixels)
    for broken in (b"", b"no image", data[:40], data[: len(data) // 2], data[:10] + bytes(20) + data[30:]):
        with pytest.raises(ValueError, match="not a readable PNG"):
            decode_image(broken, "png", 12)
    with pytest.raises(ValueError, match="not a readable JPEG"):
        decode_image(data, "jpg", 12)


def test_wrong_size_is_refused_before_decoding(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="12 x 12 pixels, the manifest says 16 x 16"):
        decode_image(encoded(pixels), "png", 16)
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    with pytest.raises(ValueError, match=r"decompression bomb|12000 x 12000"):
        decode_image(bomb.getvalue(), "png", 12)
