"""Glyphs: pictures of characters with their Unicode names, as captions, interleaved documents and text.

    caption      <picture> big red greek small letter alpha with tonos, top left
    interleaved  <picture> is latin small letter a, and <picture> the same with grave
    text         sharp s ... it is a lowercase letter. its code point is u+00df.

Neither the shapes nor the words are ours: fonts draw the one, the Unicode database says the other. Random are the
character (long-tailed in the order of Unicode, so ASCII is frequent), font, size, place, colours and what is said.
Every document is a function of (seed, source, index).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from nmm.data.counter_rng import CounterStream
from nmm.data.glyph_fonts import Catalogue, Character
from nmm.data.glyph_pictures import Brush, Drawn, Draws
from nmm.data.glyph_text import base_and_marks, facts, other_case

SOURCES = ("caption", "interleaved", "text")
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


class Glyphs:
    """Makes documents. Holds opened fonts and masks, so it belongs to one process."""

    def __init__(self, config: GlyphConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.catalogue = catalogue
        self._brush = Brush(catalogue.fonts, config.image_size)
        ranks = np.arange(len(catalogue.characters)) + config.head
        weights = np.cumsum(ranks**-config.exponent)
        self._cumulative: list[float] = (weights / weights[-1]).tolist()
        self._place_of = {character.code: place for place, character in enumerate(catalogue.characters)}

    def documents(self, source: str, first: int, count: int) -> list[GlyphDocument]:
        """Documents first..first+count-1. Raises ValueError for an unknown source."""
        if source not in SOURCES:
            raise ValueError(f"source {source!r} is none of {', '.join(SOURCES)}")
        stream = CounterStream(self.config.seed, "glyphs", source)
        numbers = stream.uniform(np.arange(first, first + count, dtype=np.int64), 0, _DRAWS)
        make = {"caption": self._caption, "interleaved": self._interleaved, "text": self._text}[source]
        return [
            GlyphDocument(source, first + row, tuple(make(Draws(values))))
            for row, values in enumerate(numbers.tolist())
        ]

    def _caption(self, draws: Draws) -> list[Segment]:
        drawn = self._brush.draw(self._character(draws), draws)
        text = self._called(drawn, draws)
        text = f"{drawn.size} {text}" if drawn.size and draws.chance(0.4) else text
        text += f" on {drawn.ground}" if draws.chance(0.5) else ""
        text += f", {drawn.place}" if draws.chance(0.4) else ""
        text += f", in {drawn.font}" if draws.chance(0.1) else ""
        return [drawn, text]

    def _called(self, drawn: Drawn, draws: Draws) -> str:
        """The name, often with the colour, which is learned long before the names."""
        return f"{drawn.ink} {drawn.character.name}" if draws.chance(0.5) else drawn.character.name

    def _interleaved(self, draws: Draws) -> list[Segment]:
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

    def _listed(self, character: Character, draws: Draws) -> list[Segment]:
        """Neighbours in Unicode's order, one a line."""
        segments: list[Segment] = []
        for number, neighbour in enumerate(self._neighbours(character, 2 + draws.below(2)), 1):
            drawn = self._brush.draw(neighbour, draws)
            segments += [drawn, f"{number}. {self._called(drawn, draws)}\n"]
        return segments

    def _which(self, character: Character, draws: Draws) -> list[Segment]:
        """Two pictures, a question by name or colour, and which of them it is."""
        other = self._character(draws)
        first, second = self._brush.draw(character, draws), self._brush.draw(other, draws)
        words = (first.ink, second.ink) if draws.chance(0.5) else (character.name, other.name)
        if words[0] == words[1]:
            return [first, "and", second, f"are both {words[0]}."]
        asked = draws.below(2)
        answer = ("the first", "the second")[asked]
        return [first, second, f"which one is {words[asked]}? {answer}. the other is {words[1 - asked]}."]

    def _built(self, character: Character, draws: Draws) -> list[Segment]:
        """A letter, and the letter with its mark."""
        pair = self._pair(character, lambda c: base_and_marks(c)[:1], draws)
        if pair is None:
            return self._listed(character, draws)
        whole, base = pair
        rest = whole.name.removeprefix(base.name).strip()
        said = f"the same {rest}" if rest.startswith("with ") else whole.name
        return [self._brush.draw(base, draws), f"is {base.name}, and", self._brush.draw(whole, draws), f"is {said}."]

    def _cases(self, character: Character, draws: Draws) -> list[Segment]:
        """A letter and its other case."""
        pair = self._pair(character, other_case, draws)
        if pair is None:
            return self._listed(character, draws)
        one, other = pair
        kind = "capital" if chr(one.code).islower() else "small letter"
        return [self._brush.draw(one, draws), f"{one.name}, and its {kind}", self._brush.draw(other, draws), other.name]

    def _pair(
        self, character: Character, relative: Callable[[str], Sequence[str]], draws: Draws
    ) -> tuple[Character, Character] | None:
        """The character, or the first of a few others, that has a relative which can be drawn; with that relative."""
        for _ in range(TRIES):
            for found in relative(chr(character.code)):
                place = self._place_of.get(ord(found))
                if place is not None:
                    return character, self.catalogue.characters[place]
            character = self._character(draws)
        return None

    def _versions(self, character: Character, draws: Draws) -> list[Segment]:
        """The same character twice, and what differs."""
        first, second = self._brush.draw(character, draws), self._brush.draw(character, draws)
        said = f"{character.name}, once {first.ink} in {first.font}, once {second.ink} in {second.font}."
        return [first, second, said]

    def _text(self, draws: Draws) -> list[Segment]:
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

    def _character(self, draws: Draws) -> Character:
        place = bisect_right(self._cumulative, draws.unit())
        return self.catalogue.characters[min(place, len(self._cumulative) - 1)]

    def _neighbours(self, character: Character, count: int) -> Sequence[Character]:
        last = len(self.catalogue.characters) - count
        first = min(self._place_of[character.code], max(last, 0))
        return self.catalogue.characters[first : first + count]
