"""A character as a picture: font, size, place and colours at random, and the truth about them.

Shape legend: S side of a picture in pixels, h, w sides of the ink.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nmm.data.glyph_fonts import Character, Font, Pen

COLOURS = {
    "black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (205, 40, 40),
    "green": (30, 130, 50), "blue": (40, 70, 200), "yellow": (240, 215, 60), "orange": (240, 140, 40),
    "purple": (125, 50, 160), "pink": (245, 150, 190),
}  # fmt: skip
LEAST_EM = 64  # pixels of the masks that pictures are resized from
CONTRAST = 80  # of brightness between ink and ground, out of 255
SHADES = 12  # colours vary by as much, up and down
SIZES = {"small": (0.35, 0.55), "": (0.55, 0.8), "big": (0.8, 1.1)}  # an em in picture sides
LEAST_INK = 0.15  # of the side: dots and commas are drawn that large at least
MOST_INK = 0.9


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture of a character, (S, S, 3) uint8, and the truth about it.

    ``box`` is left, top, width and height of the ink in pixels.
    """

    pixels: NDArray[np.uint8]
    character: Character
    font: str
    size: str
    place: str
    ink: str
    ground: str
    box: tuple[int, int, int, int]

    def truth(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: getattr(self, name) for name in ("font", "size", "place", "ink", "ground")}
        return {"codepoint": f"U+{self.character.code:04X}", "name": self.character.name, **named, "box": self.box}


class Draws:
    """The random numbers of one document, used from the front."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = iter(values)

    def unit(self) -> float:
        """The next one, in [0, 1)."""
        return next(self._values)

    def below(self, limit: int) -> int:
        """One of range(limit)."""
        return int(self.unit() * limit)

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.unit() < probability


class Brush:
    """Draws pictures of S = ``side`` pixels. Holds opened fonts and masks, so it belongs to one process."""

    def __init__(self, fonts: tuple[Font, ...], side: int) -> None:
        self._fonts = fonts
        self._side = side
        self._pen = Pen(fonts, max(LEAST_EM, side))
        self._pairs = _readable_pairs()

    def draw(self, character: Character, draws: Draws) -> Drawn:
        """Draw a character with a random font, size, place, ink and ground. Uses eight numbers."""
        side = self._side
        font = character.fonts[draws.below(len(character.fonts))]
        size = list(SIZES)[draws.below(len(SIZES))]
        low, high = SIZES[size]
        mask = self._resized(self._pen.mask(character.code, font), low + (high - low) * draws.unit())
        width, height = mask.size
        left, top = draws.below(side - width + 1), draws.below(side - height + 1)
        ink, ground = self._pairs[draws.below(len(self._pairs))]
        above, below = _shaded(ink, draws.unit()), _shaded(ground, draws.unit())
        pixels = np.full((side, side, 3), below, np.uint8)
        cover = np.asarray(mask, np.int32)[:, :, None]
        pixels[top : top + height, left : left + width] = (cover * above + (255 - cover) * below + 127) // 255
        place = _place((left + width / 2) / side, (top + height / 2) / side)
        box = (left, top, width, height)
        return Drawn(pixels, character, self._fonts[font].title, size, place, ink, ground, box)

    def _resized(self, mask: Image.Image, em: float) -> Image.Image:
        """The mask for an em of ``em`` picture sides, within the bounds on the ink."""
        side = self._side
        longest = max(mask.size)
        scale = min(max(em * side / self._pen.em, LEAST_INK * side / longest), MOST_INK * side / longest)
        width, height = (max(1, round(length * scale)) for length in mask.size)
        return mask.resize((width, height), Image.Resampling.BILINEAR)


def _shaded(colour: str, unit: float) -> NDArray[np.int32]:
    """(3,) the colour, a little lighter or darker."""
    shift = round((2 * unit - 1) * SHADES)
    return np.array([min(max(level + shift, 0), 255) for level in COLOURS[colour]], np.int32)


def _place(across: float, down: float) -> str:
    """Where a point lies, in words, by thirds of the picture."""
    row, column = ("top", "", "bottom")[int(down * 3)], ("left", "", "right")[int(across * 3)]
    return " ".join(word for word in (row, column) if word) or "in the middle"


def _readable_pairs() -> list[tuple[str, str]]:
    """Ink and ground of enough contrast, by the brightness of Rec. 601."""
    grey = {name: 0.299 * red + 0.587 * green + 0.114 * blue for name, (red, green, blue) in COLOURS.items()}
    return [
        (ink, ground) for ink, ground in itertools.permutations(COLOURS, 2) if abs(grey[ink] - grey[ground]) >= CONTRAST
    ]
