"""Image bytes to patches.

Shape legend: H, W image height and width, C = 3 channels, M patches an image, P = C * patch_size^2 pixel values
a patch.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}


def decode_image(data: bytes, extension: str, image_size: int) -> np.ndarray:
    """Decode to (image_size, image_size, 3) uint8, any colour mode converted to RGB.

    Raises ValueError for bytes that are no such image and for any size but ``image_size``, which is read from the
    header: nothing larger is ever decoded.
    """
    if extension == "png" and (pixels := _unfiltered_png(data, image_size)) is not None:
        return pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Image.open(io.BytesIO(data), formats=(FORMATS[extension],)) as image:
                if image.size != (image_size, image_size):
                    found = f"{image.width} x {image.height}"
                    raise ValueError(f"image is {found} pixels, the manifest says {image_size} x {image_size}")
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            raise ValueError(f"not a readable {FORMATS[extension]} image: {error}") from error


def _unfiltered_png(data: bytes, side: int) -> np.ndarray | None:
    """Pixels of the simplest PNG, as the world writes it: 8-bit RGB, rows unfiltered, one data chunk. Else None.

    Pillow spends most of its time on a small image before it reaches the pixels; this is several times faster.
    """
    header = struct.pack(">8sI4sIIBBBBB", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
    size = int.from_bytes(data[33:37])
    if not data.startswith(header) or data[37:41] != b"IDAT" or len(data) != size + 57:
        return None
    unpacker, expected = zlib.decompressobj(), side * (1 + 3 * side)
    try:
        rows = np.frombuffer(unpacker.decompress(data[41 : 41 + size], expected + 1), np.uint8)
    except zlib.error:
        return None
    if len(rows) != expected or not unpacker.eof or rows[:: 1 + 3 * side].any():
        return None
    return rows.reshape(side, 1 + 3 * side)[:, 1:].reshape(side, side, 3)


def patchify(images: np.ndarray, patch_size: int) -> np.ndarray:
    """(..., H, W, C) to (..., M, P): patches in row-major order, values of a patch ordered (C, height, width).

    Raises ValueError when H or W is no multiple of ``patch_size``.
    """
    *lead, height, width, channels = images.shape
    check_patch_size(height, patch_size)
    check_patch_size(width, patch_size)
    down, across = height // patch_size, width // patch_size
    grid = images.reshape(-1, down, patch_size, across, patch_size, channels).transpose(0, 1, 3, 5, 2, 4)
    return grid.reshape(*lead, down * across, channels * patch_size * patch_size)


def check_patch_size(side: int, patch_size: int) -> None:
    """Raise ValueError unless ``side`` pixels are a whole number of patches."""
    if patch_size < 1 or side % patch_size:
        allowed = [size for size in range(1, side + 1) if side % size == 0]
        raise ValueError(f"patch_size={patch_size} does not divide an image side of {side} pixels; allowed: {allowed}")
