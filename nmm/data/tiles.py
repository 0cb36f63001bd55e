"""A picture as the images a model sees: its tiles, and last a thumbnail of all of it.

Shape legend: K images of a picture, S side of an image in pixels, H, W height and width of a picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from nmm.data.image_header import read_header
from nmm.data.images import REDUCING_GAP, decode_upright
from nmm.data.tiling import Tiling, tile


def decode_tiles(data: bytes, extension: str, image_size: int, most: int, mirrored: bool = False) -> np.ndarray:
    """Decode anybody's picture to (K, S, S, 3) uint8, see ``cut``; ``mirrored`` turns left and right first.

    Raises BadSample as ``nmm.data.images.decode_picture`` does.
    """
    header = read_header(data, extension)
    tiling = tile(*header.size, image_size, most)
    pixels = decode_upright(data, header, (0, 0, *header.size), (tiling.width, tiling.height))
    return cut(pixels[:, ::-1] if mirrored else pixels, tiling)


def tile_picture(pixels: np.ndarray, image_size: int, most: int) -> np.ndarray:
    """(H, W, 3) uint8 to (K, S, S, 3); with ``most`` 1 the picture resized."""
    height, width, _ = pixels.shape
    tiling = tile(width, height, image_size, most)
    return cut(_resized(pixels, tiling.width, tiling.height), tiling)


def cut(pixels: np.ndarray, tiling: Tiling) -> np.ndarray:
    """(K, S, S, 3) images of a picture that is resized already: its tiles row by row, then its thumbnail.

    The thumbnail shows the whole picture, squeezed to a square. A picture of one tile is that tile alone.
    """
    side = tiling.side
    tiles = [pixels[upper : upper + side, left : left + side] for left, upper in tiling.windows.tolist()]
    if len(tiles) > 1:
        tiles.append(_resized(pixels, side, side))
    return np.stack(tiles)


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP))
