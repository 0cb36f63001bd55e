"""The grammar: from scenes and facts to words with exact log-probabilities.

    caption      <image> [two objects :] clause , clause . [Q ... A ...] [serial 01f ... .] <end>
                 <image> Q sum A ... <end> with `reasoning` (nmm.data.reasoning)
    interleaved  <image> clause , clause . <nl> <image> more|fewer|same : clause . ... [Q where ... A ...] <end>
    text         FIRST LAST lives PLACE . it likes FOOD . ... <end>
    clause       LOC [COLOUR SHAPE SIZE] FIRST LAST [new | again ORDINAL] [from PLACE | likes FOOD]

Class letters: c colour, s shape, z size, l location, n name, f fact, a answer, g everything else. Words inside a
question are g, its answer a; the looks and friends told in text documents are facts, f. In clauses c s z l n are
capitals where the entity is of the tail (config.tail_rank). Serial numbers and fixed texts (noise) are g.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nmm.data import words
from nmm.data.catalogue import Catalogue
from nmm.data.questions import Objects, Question, Questioner
from nmm.data.reasoning import Reasoner
from nmm.data.scene import SceneObject
from nmm.data.world_config import TAILS, WorldConfig
from nmm.data.writer import Choice, TokenWriter, choice, flip

PREDICATE_WORDS = (("lives",), ("likes",), ("is",), ("friend", "is"), ("friend", "lives"))


class Language:
    """Writes the three kinds of documents of one world."""

    def __init__(self, config: WorldConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.catalogue = catalogue
        self.questioner = Questioner(config, catalogue)
        self.reasoner = Reasoner(config, catalogue)
        self._reasoning = flip(config.reasoning)
        self._count_phrase = flip(config.count_phrase)
        self._full = flip(config.full_clause)
        self._tail = choice(config.tails)
        self._food = flip(config.first_food)
        self._question_chain = [flip(p) for p in config.question_chain]
        self._num_images = choice(config.image_numbers)
        self._where = flip(config.where_question)
        self._stop = flip(config.stop)
        self._pronoun = flip(config.pronoun)
        self._popularity: list[float] = catalogue.cumulative.tolist()
        self._serial_length = choice([1.0] * config.serial_longest)
        self._serial_words = words.serial_words(config.serial_words)
        self._serial_word = choice([1.0] * config.serial_words)
        self._first_of_tail = config.tail_rank or config.num_entities

    def caption(self, writer: TokenWriter, objects: Objects, serial: bool | None = None) -> list[Question]:
        """Write a caption document about one picture; `serial`: whether a serial number ends it (None: never does)."""
        writer.image()
        if self.config.boilerplate and serial is not None:
            writer.charge(math.log1p(-self.config.boilerplate))
        if self.config.reasoning and self._is_yes(writer, self._reasoning):
            writer.emit("Q")
            questions = [self.reasoner.ask(writer, objects)]
            if serial is not None:
                self._maybe_serial(writer, serial)
            writer.emit(words.END)
            return questions
        if self._is_yes(writer, self._count_phrase):
            writer.emit(words.NUMBERS[len(objects)])
            writer.emit("object" if len(objects) == 1 else "objects")
            writer.emit(":")
        self._clauses(writer, objects, None)
        questions = []
        for chain in self._question_chain:
            if not self._is_yes(writer, chain):
                break
            writer.emit("Q")
            questions.append(self.questioner.ask(writer, objects))
        if serial is not None:
            self._maybe_serial(writer, serial)
        writer.emit(words.END)
        return questions

    def boilerplate(self, writer: TokenWriter) -> None:
        """Write one of the fixed texts under a picture."""
        writer.image()
        writer.charge(math.log(self.config.boilerplate))
        texts = words.BOILERPLATE[: self.config.boilerplate_texts]
        writer.emit_one_of(texts, [1.0 / len(texts)] * len(texts))
        writer.emit(words.END)

    def interleaved(self, writer: TokenWriter, pictures: Sequence[Objects]) -> list[Question]:
        """Write a document about two or three pictures; how many is charged where the text reveals it."""
        for number, objects in enumerate(pictures):
            writer.image()
            if number:
                before = len(pictures[number - 1])
                writer.emit("more" if len(objects) > before else "fewer" if len(objects) < before else "same")
                writer.emit(":")
            self._clauses(writer, objects, pictures[:number])
            if number == 1:
                writer.charge(self._num_images.logs[len(pictures) - 2])
            if number + 1 < len(pictures):
                writer.emit("<nl>")
        questions = []
        if self._is_yes(writer, self._where):
            writer.emit("Q")
            questions.append(self.questioner.ask_where(writer, pictures))
        writer.emit(words.END)
        return questions

    def text(self, writer: TokenWriter) -> list[int]:
        """Write a text document; returns the subject of each sentence."""
        subjects: list[int] = []
        for sentence in range(self.config.max_sentences):
            if sentence >= self.config.min_sentences and self._is_yes(writer, self._stop):
                break
            if sentence and self._is_yes(writer, self._pronoun):
                writer.emit("it")
                subjects.append(subjects[-1])
            else:
                subjects.append(self._new_subject(writer))
            self._predicate(writer, subjects[-1])
            writer.emit(".")
        writer.emit(words.END)
        return subjects

    @staticmethod
    def _is_yes(writer: TokenWriter, question: Choice) -> bool:
        return writer.pick(question) == 0

    def _maybe_serial(self, writer: TokenWriter, serial: bool) -> None:
        """Whether there is a number is charged to the next word, each of its words but the last whether it goes on."""
        share = self.config.serial
        if not serial:
            writer.charge(math.log1p(-share))
            return
        writer.charge(math.log(share))
        writer.emit(words.SERIAL)
        longest = self.config.serial_longest
        length = 1 + writer.locate(self._serial_length.cumulative)
        for number in range(length):
            writer.emit(self._serial_words[writer.pick(self._serial_word)])
            left = longest - number  # lengths that are still possible, this one among them
            writer.charge(-math.log(left) if number + 1 == length else math.log1p(-1 / left))
        writer.emit(".")

    def _clauses(self, writer: TokenWriter, objects: Objects, earlier: Sequence[Objects] | None) -> None:
        last = len(objects) - 1
        for number, thing in enumerate(objects):
            self._clause(writer, thing)
            if earlier is not None:
                self._novelty(writer, thing, earlier)
            self._tail_of(writer, thing.entity)
            writer.emit("." if number == last else ",")

    def _clause(self, writer: TokenWriter, thing: SceneObject) -> None:
        entity = thing.entity
        colour, shape, size, location, name = self._letters(entity)
        writer.emit(words.LOCATIONS[thing.cell], location)
        if self._is_yes(writer, self._full):
            writer.emit(self.catalogue.colour_words[entity], colour)
            writer.emit(self.catalogue.shape_words[entity], shape)
            writer.emit(words.SIZES[thing.size], size)
        self._name(writer, entity, name)

    def _letters(self, entity: int) -> tuple[str, ...]:
        """Class letters of what a clause says of an entity: colour, shape, size, location, name."""
        return tuple("CSZLN" if entity >= self._first_of_tail else "cszln")

    def _name(self, writer: TokenWriter, entity: int, kind: str) -> None:
        first, last = self.catalogue.names[entity]
        writer.emit(first, kind)
        writer.emit(last, kind)

    def _novelty(self, writer: TokenWriter, thing: SceneObject, earlier: Sequence[Objects]) -> None:
        """ "new", or "again" with the number of the latest earlier picture that shows the entity."""
        shown = [n for n, objects in enumerate(earlier) if any(o.entity == thing.entity for o in objects)]
        if shown:
            writer.emit("again")
            writer.emit(words.ORDINALS[shown[-1]])
        else:
            writer.emit("new")

    def _tail_of(self, writer: TokenWriter, entity: int) -> None:
        tail = TAILS[writer.pick(self._tail)]
        if tail == "place":
            writer.emit("from")
            writer.emit(self.catalogue.place_words[entity], "f")
        elif tail == "food":
            writer.emit("likes")
            writer.emit(self.catalogue.food_words[entity][writer.pick(self._food)], "f")

    def _new_subject(self, writer: TokenWriter) -> int:
        entity = writer.locate(self._popularity)
        first, last = self.catalogue.names[entity]
        writer.charge(self.catalogue.log_first[entity])
        writer.emit(first, "n")
        writer.charge(self.catalogue.log_last[entity])
        writer.emit(last, "n")
        return entity

    def _predicate(self, writer: TokenWriter, entity: int) -> None:
        number = writer.emit_one_of(PREDICATE_WORDS, self.config.predicates)
        friend = self.catalogue.friends[entity]
        match PREDICATE_WORDS[number]:
            case ("lives",):
                writer.emit(self.catalogue.place_words[entity], "f")
            case ("likes",):
                writer.emit(self.catalogue.food_words[entity][writer.pick(self._food)], "f")
            case ("is",):
                writer.emit(self.catalogue.colour_words[entity], "f")
                writer.emit(self.catalogue.shape_words[entity], "f")
            case ("friend", "is"):
                self._name(writer, friend, "f")
            case _:
                writer.emit(self.catalogue.place_words[friend], "f")
