"""A question about a picture whose answer takes several steps, and the two styles in which it is answered.

Every object stands for a number, by its colour or by its shape; asked is the sum of all of them modulo m.

    fast  Q sum A is seven
    slow  Q sum A since topleft three three topright four seven bottomleft nine six bottomright one seven is seven

A slow answer gives each object's place, its number and the sum so far, then the answer. The style is revealed by the
word after "A" and charged to it; everything else follows from the picture and costs nothing.
"""

from __future__ import annotations

from nmm.data import words
from nmm.data.catalogue import Catalogue
from nmm.data.questions import Objects, Question
from nmm.data.world_config import WorldConfig
from nmm.data.writer import TokenWriter, flip

KIND = "sum"
FAST, SLOW = words.FAST, words.SLOW
ANSWER_WORD = words.FAST  # the answer follows it, in both styles


class Reasoner:
    """Asks for sums, and answers in one of the two styles."""

    def __init__(self, config: WorldConfig, catalogue: Catalogue) -> None:
        self._modulus = config.reasoning_modulus
        codes = catalogue.shape if config.reasoning_shapes else catalogue.colour
        self._values: list[int] = (codes % self._modulus).tolist()
        self._names = words.numbers(self._modulus)
        self._fast = flip(config.reasoning_fast)

    def numbers(self, objects: Objects) -> list[int]:
        """What the objects stand for."""
        return [self._values[thing.entity] for thing in objects]

    def answer(self, objects: Objects) -> str:
        """The word of the sum."""
        return self._names[sum(self.numbers(objects)) % self._modulus]

    def ask(self, writer: TokenWriter, objects: Objects) -> Question:
        """Write the question ("Q" has been written) and its answer."""
        writer.emit(KIND)
        writer.emit("A")
        is_fast = writer.pick(self._fast) == 0
        if not is_fast:
            writer.emit(SLOW)
            for word in self.steps(objects):
                writer.emit(word)
        writer.emit(ANSWER_WORD)
        answer = self.answer(objects)
        writer.emit(answer, "a")
        return Question(KIND, KIND, answer)

    def steps(self, objects: Objects) -> list[str]:
        """Place, number and running sum of every object, in raster order."""
        told, total = [], 0
        for thing, number in zip(objects, self.numbers(objects), strict=True):
            total = (total + number) % self._modulus
            told += [words.LOCATIONS[thing.cell], self._names[number], self._names[total]]
        return told
