"""Questions about pictures whose answers follow from the scene.

Each function lists every question of its kind that can be asked about a picture: (words asked, words of the answer,
weight). The asked words tell questions apart, so the answer is certain once the question has been read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from nmm.data import words
from nmm.data.catalogue import Catalogue
from nmm.data.scene import SceneObject
from nmm.data.world_config import QUESTION_KINDS, WorldConfig
from nmm.data.writer import Choice, TokenWriter, choice

Option = tuple[tuple[str, ...], tuple[str, ...], float]
Objects = Sequence[SceneObject]


class Question(NamedTuple):
    """A question of a document: its kind, and question and answer as text."""

    kind: str
    question: str
    answer: str


class Questioner:
    """Asks questions about one picture, or across the pictures of one document."""

    def __init__(self, config: WorldConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.catalogue = catalogue
        self._colours = list(words.COLOURS)[: config.num_colours]
        self._listing = {
            "count": self.count,
            "colour": self.colour,
            "left": self.left,
            "after": self.after,
            "same": self.same,
            "odd": self.odd,
        }
        self._menus: dict[tuple[str, ...], Choice] = {}

    def ask(self, writer: TokenWriter, objects: Objects) -> Question:
        """Write one question about a picture ("Q" has been written) and its answer; the kind is chosen by weight."""
        kinds = ["count", "colour"]
        if len(objects) > 1:
            kinds += ["left", "after", "same"]
        if self.odd(objects):
            kinds.append("odd")
        kind = kinds[writer.pick(self._menu(tuple(kinds)))]
        writer.emit(kind)
        return self._finish(writer, kind, self._listing[kind](objects))

    def _menu(self, kinds: tuple[str, ...]) -> Choice:
        if kinds not in self._menus:
            self._menus[kinds] = choice([self.config.question_kinds[QUESTION_KINDS.index(kind)] for kind in kinds])
        return self._menus[kinds]

    def ask_where(self, writer: TokenWriter, pictures: Sequence[Objects]) -> Question:
        """Write "where ORDINAL NAME" about one object of one of the pictures, and its location."""
        writer.emit("where")
        options: list[Option] = []
        for ordinal, objects in zip(words.ORDINALS, pictures, strict=False):
            for thing in objects:
                asked = (ordinal, *self.catalogue.names[thing.entity])
                options.append((asked, (words.LOCATIONS[thing.cell],), 1.0 / len(objects)))
        return self._finish(writer, "where", options)

    def _finish(self, writer: TokenWriter, kind: str, options: list[Option]) -> Question:
        number = writer.emit_one_of([o[0] for o in options], [o[2] for o in options])
        asked, answer, _ = options[number]
        writer.emit("A")
        for word in answer:
            writer.emit(word, "a")
        return Question(kind, " ".join((kind, *asked)), " ".join(answer))

    def count(self, objects: Objects) -> list[Option]:
        """How many objects have a colour."""
        present = [self.catalogue.colour_words[o.entity] for o in objects]
        anywhere = (1.0 - self.config.count_present) / len(self._colours)
        options: list[Option] = []
        for colour in self._colours:
            number = present.count(colour)
            weight = self.config.count_present * number / len(present) + anywhere
            options.append(((colour,), (words.NUMBERS[number],), weight))
        return options

    def colour(self, objects: Objects) -> list[Option]:
        """The colour of the object at a place."""
        return [((words.LOCATIONS[o.cell],), (self.catalogue.colour_words[o.entity],), 1.0) for o in objects]

    def left(self, objects: Objects) -> list[Option]:
        """Whether one named object stands in a column left of another's."""
        names = self.catalogue.names
        return [
            ((*names[a.entity], *names[b.entity]), ("yes" if a.cell % 2 < b.cell % 2 else "no",), 1.0)
            for a in objects
            for b in objects
            if a is not b
        ]

    def after(self, objects: Objects) -> list[Option]:
        """Colour and shape of the object that follows a named one in raster order."""
        names, colours, shapes = self.catalogue.names, self.catalogue.colour_words, self.catalogue.shape_words
        return [
            (names[a.entity], (colours[b.entity], shapes[b.entity]), 1.0)
            for a, b in zip(objects, objects[1:], strict=False)
        ]

    def same(self, objects: Objects) -> list[Option]:
        """Whether the objects at two places share their colour."""
        colours = self.catalogue.colour_words
        pairs = [(a, b, colours[a.entity] == colours[b.entity]) for a, b in combinations(objects, 2)]
        equal = sum(is_same for _, _, is_same in pairs)
        boost = self.config.same_balanced if equal else 0.0
        return [
            (
                (words.LOCATIONS[a.cell], words.LOCATIONS[b.cell]),
                ("yes" if is_same else "no",),
                (1.0 - boost) / len(pairs) + (boost / equal if is_same else 0.0),
            )
            for a, b, is_same in pairs
        ]

    def odd(self, objects: Objects) -> list[Option]:
        """Where the one object stands that differs in colour, shape or size while all others (two or more) agree."""
        columns = {
            "colour": [self.catalogue.colour_words[o.entity] for o in objects],
            "shape": [self.catalogue.shape_words[o.entity] for o in objects],
            "size": [words.SIZES[o.size] for o in objects],
        }
        options: list[Option] = []
        for attribute, values in columns.items():
            singles = [i for i, value in enumerate(values) if values.count(value) == 1]
            if len(values) > 2 and len(set(values)) == 2 and len(singles) == 1:
                options.append(((attribute,), (words.LOCATIONS[objects[singles[0]].cell],), 1.0))
        return options
