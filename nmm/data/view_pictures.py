"""Pictures for the page of ``nmm.data.view``: images put together from their patches, and who sees whom in a row.

Shape legend: M patches an image, P values a patch (channels x height x width), S side of an image in pixels, T
positions of a row.
"""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

NOBODY, PADDING, FIRST_SOURCE = 0, 1, 2


def picture(patches: np.ndarray, patch_size: int) -> np.ndarray:
    """(M, P) uint8 patches of one square image, as the model gets them, to (S, S, 3) uint8."""
    m, values = patches.shape
    side, channels = math.isqrt(m), values // patch_size**2
    grid = patches.reshape(side, side, channels, patch_size, patch_size).transpose(0, 3, 1, 4, 2)
    pixels = grid.reshape(side * patch_size, side * patch_size, channels)
    return pixels if channels == 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def visible(document: np.ndarray, image: np.ndarray, image_attention: str, document_mask: bool) -> np.ndarray:
    """(T,) document and image numbers of a row to (T, T) bool: the query (first) sees the key. As ``nmm.model.masks``.

    ``image_attention`` and ``document_mask`` as in ``nmm.config.Arch``.
    """
    at = np.arange(len(document))
    documents = document if document_mask else np.minimum(document, 0)
    seen = at[None, :] <= at[:, None]
    if image_attention == "bidirectional":
        seen |= (image[:, None] == image[None, :]) & (image[:, None] >= 0)
    return seen & (documents[:, None] == documents[None, :])


def mask_classes(seen: np.ndarray, source: np.ndarray) -> np.ndarray:
    """(T, T) uint8 colour numbers of a mask: nobody, padding, and by the query's source two shades each.

    ``source`` (T,) is -1 in padding. The second shade marks keys after their query, which only an image lets be seen.
    """
    later = np.triu(np.ones(seen.shape, bool), 1)
    shade = np.where(source[:, None] < 0, PADDING, FIRST_SOURCE + 2 * source[:, None].astype(np.int64) + later)
    return np.where(seen, shade, NOBODY).astype(np.uint8)


def mask_picture(classes: np.ndarray, colours: list[str]) -> str:
    """Colour numbers of ``mask_classes`` as a PNG data URI; ``colours`` are those of the sources, "#rrggbb"."""
    image = Image.fromarray(classes, "P")
    full = [_rgb(colour) for colour in colours]
    pairs = [tone for colour in full for tone in (_mixed(colour, 0.45), colour)]
    image.putpalette([value for tone in ((250, 250, 248), (205, 205, 200), *pairs) for value in tone])
    return _png(image)


def image_uri(pixels: np.ndarray) -> str:
    """(S, S, 3) uint8 as a PNG data URI."""
    return _png(Image.fromarray(pixels))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """The colour on white."""
    return tuple(round(255 + share * (value - 255)) for value in colour)
