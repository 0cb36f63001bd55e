"""Glyphs: pictures of characters with their Unicode names, as captions, interleaved documents and text.

    caption      <picture> big red greek small letter alpha with tonos, top left
    interleaved  <picture> is latin small letter a, and <picture> the same with grave
    text         sharp s ... it is a lowercase letter. its code point is u+00df.

Shape legend: S side of a picture in pixels, h, w sides of the ink.

Neither the shapes nor the words are ours: fonts draw the one, the Unicode database says the other. Random are the
character (long-tailed in the order of Unicode, so ASCII is frequent), font, size, place, colours and what is said.
Every document is a function of (seed, source, index).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nmm.data.counter_rng import CounterStream
from nmm.data.glyph_fonts import MASTER, Catalogue, Character, Pen
from nmm.data.glyph_text import base_and_marks, facts, other_case

SOURCES = ("caption", "interleaved", "text")
COLOURS = {
    "black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (205, 40, 40),
    "green": (30, 130, 50), "blue": (40, 70, 200), "yellow": (240, 215, 60), "orange": (240, 140, 40),
    "purple": (125, 50, 160), "pink": (245, 150, 190),
}  # fmt: skip
CONTRAST = 80  # of brightness between ink and ground, out of 255
SHADES = 12  # colours vary by as much, up and down
SIZES = {"small": (0.35, 0.55), "": (0.55, 0.8), "big": (0.8, 1.1)}  # an em in picture sides
LEAST_INK = 0.15  # of the side: dots and commas are drawn that large at least
MOST_INK = 0.9
TRIES = 4  # characters, to find one with a relative
_DRAWS = 40  # random numbers a document has; none needs more


@dataclass(frozen=True)
class GlyphConfig:
    """What decides every document, with the fonts and the Unicode version.

    The k-th character of Unicode's order is drawn with probability in proportion to (k + head) ** -exponent.
    """

    seed: int = 0
    image_size: int = 32
    head: float = 20.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size={self.image_size} must be at least 8 for glyphs to be told apart")
        if self.head <= 0 or self.exponent < 0:
            raise ValueError(f"head={self.head} must be positive and exponent={self.exponent} not negative")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GlyphConfig:
        """Raises ValueError for an unknown field."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"data.world.{name} is no field of glyphs; allowed: {', '.join(known)}")
        return cls(**values)


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


Segment: TypeAlias = str | Drawn


@dataclass(frozen=True, eq=False)
class GlyphDocument:
    """One document: text and pictures in order."""

    source: str
    index: int
    segments: tuple[Segment, ...]

    @property
    def pictures(self) -> list[Drawn]:
        return [segment for segment in self.segments if isinstance(segment, Drawn)]

    @property
    def text(self) -> str:
        return "".join(segment for segment in self.segments if isinstance(segment, str))


class _Draws:
    """The random numbers of one document, used from the front."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = iter(values)

    def unit(self) -> float:
        return next(self._values)

    def below(self, limit: int) -> int:
        return int(self.unit() * limit)

    def chance(self, probability: float) -> bool:
        return self.unit() < probability


class Glyphs:
    """Makes documents. Holds opened fonts and masks, so it belongs to one process."""

    def __init__(self, config: GlyphConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.catalogue = catalogue
        self._pen = Pen(catalogue.fonts)
        ranks = np.arange(len(catalogue.characters)) + config.head
        weights = np.cumsum(ranks**-config.exponent)
        self._cumulative: list[float] = (weights / weights[-1]).tolist()
        self._place_of = {character.code: place for place, character in enumerate(catalogue.characters)}
        self._pairs = _readable_pairs()

    def documents(self, source: str, first: int, count: int) -> list[GlyphDocument]:
        """Documents first..first+count-1. Raises ValueError for an unknown source."""
        if source not in SOURCES:
            raise ValueError(f"source {source!r} is none of {', '.join(SOURCES)}")
        stream = CounterStream(self.config.seed, "glyphs", source)
        numbers = stream.uniform(np.arange(first, first + count, dtype=np.int64), 0, _DRAWS)
        make = {"caption": self._caption, "interleaved": self._interleaved, "text": self._text}[source]
        return [
            GlyphDocument(source, first + row, tuple(make(_Draws(values))))
            for row, values in enumerate(numbers.tolist())
        ]

    # -- what is said -------------------------------------------------------------------------------------------------

    def _caption(self, draws: _Draws) -> list[Segment]:
        drawn = self._draw(self._character(draws), draws)
        text = self._called(drawn, draws)
        text = f"{drawn.size} {text}" if drawn.size and draws.chance(0.4) else text
        text += f" on {drawn.ground}" if draws.chance(0.5) else ""
        text += f", {drawn.place}" if draws.chance(0.4) else ""
        text += f", in {drawn.font}" if draws.chance(0.1) else ""
        return [drawn, text]

    def _called(self, drawn: Drawn, draws: _Draws) -> str:
        """The name, often with the colour, which is learned long before the names."""
        return f"{drawn.ink} {drawn.character.name}" if draws.chance(0.5) else drawn.character.name

    def _interleaved(self, draws: _Draws) -> list[Segment]:
        form = draws.below(5)
        character = self._character(draws)
        match form:
            case 0:
                return self._listed(character, draws)
            case 1:
                return self._which(character, draws)
            case 2:
                return self._built(character, draws)
            case 3:
                return self._cases(character, draws)
            case _:
                return self._versions(character, draws)

    def _listed(self, character: Character, draws: _Draws) -> list[Segment]:
        """Neighbours in Unicode's order, one a line."""
        segments: list[Segment] = []
        for number, neighbour in enumerate(self._neighbours(character, 2 + draws.below(2)), 1):
            drawn = self._draw(neighbour, draws)
            segments += [drawn, f"{number}. {self._called(drawn, draws)}\n"]
        return segments

    def _which(self, character: Character, draws: _Draws) -> list[Segment]:
        """Two pictures, a question by name or colour, and which of them it is."""
        other = self._character(draws)
        first, second = self._draw(character, draws), self._draw(other, draws)
        words = (first.ink, second.ink) if draws.chance(0.5) else (character.name, other.name)
        if words[0] == words[1]:
            return [first, "and", second, f"are both {words[0]}."]
        asked = draws.below(2)
        answer = ("the first", "the second")[asked]
        return [first, second, f"which one is {words[asked]}? {answer}. the other is {words[1 - asked]}."]

    def _built(self, character: Character, draws: _Draws) -> list[Segment]:
        """A letter, and the letter with its mark."""
        pair = self._pair(character, lambda c: base_and_marks(c)[:1], draws)
        if pair is None:
            return self._listed(character, draws)
        whole, base = pair
        rest = whole.name.removeprefix(base.name).strip()
        said = f"the same {rest}" if rest.startswith("with ") else whole.name
        return [self._draw(base, draws), f"is {base.name}, and", self._draw(whole, draws), f"is {said}."]

    def _cases(self, character: Character, draws: _Draws) -> list[Segment]:
        """A letter and its other case."""
        pair = self._pair(character, other_case, draws)
        if pair is None:
            return self._listed(character, draws)
        one, other = pair
        kind = "capital" if chr(one.code).islower() else "small letter"
        return [self._draw(one, draws), f"{one.name}, and its {kind}", self._draw(other, draws), other.name]

    def _pair(
        self, character: Character, relative: Callable[[str], Sequence[str]], draws: _Draws
    ) -> tuple[Character, Character] | None:
        """The character, or the first of a few others, that has a relative which can be drawn; with that relative."""
        for _ in range(TRIES):
            for found in relative(chr(character.code)):
                place = self._place_of.get(ord(found))
                if place is not None:
                    return character, self.catalogue.characters[place]
            character = self._character(draws)
        return None

    def _versions(self, character: Character, draws: _Draws) -> list[Segment]:
        """The same character twice, and what differs."""
        first, second = self._draw(character, draws), self._draw(character, draws)
        said = f"{character.name}, once {first.ink} in {first.font}, once {second.ink} in {second.font}."
        return [first, second, said]

    def _text(self, draws: _Draws) -> list[Segment]:
        """One character with up to three facts, or two with up to two each."""
        sentences = []
        count = 1 + draws.chance(0.4)
        for _ in range(count):
            character = self._character(draws)
            clauses = list(facts(character.code))
            wanted = 1 + draws.below(4 - count)
            chosen = [clauses.pop(draws.below(len(clauses))) for _ in range(min(len(clauses), wanted))]
            sentences.append(f"{character.name}: {', '.join(chosen)}.")
        return [" ".join(sentences)]

    # -- what is drawn ------------------------------------------------------------------------------------------------

    def _character(self, draws: _Draws) -> Character:
        place = bisect_right(self._cumulative, draws.unit())
        return self.catalogue.characters[min(place, len(self._cumulative) - 1)]

    def _neighbours(self, character: Character, count: int) -> Sequence[Character]:
        last = len(self.catalogue.characters) - count
        first = min(self._place_of[character.code], max(last, 0))
        return self.catalogue.characters[first : first + count]

    def _draw(self, character: Character, draws: _Draws) -> Drawn:
        """Draw a character with a random font, size, place, ink and ground. Uses eight numbers."""
        side = self.config.image_size
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
        return Drawn(pixels, character, self.catalogue.fonts[font].title, size, place, ink, ground, box)

    def _resized(self, mask: Image.Image, em: float) -> Image.Image:
        """The mask for an em of ``em`` picture sides, within the bounds on the ink."""
        side = self.config.image_size
        longest = max(mask.size)
        scale = min(max(em * side / MASTER, LEAST_INK * side / longest), MOST_INK * side / longest)
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
