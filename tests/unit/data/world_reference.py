"""An independent reading of the world's grammar: what may come next, and what the answers are.

Written against the description of the language, not against the generator: it takes a finished document, walks its
words, and says for every text token which words were possible there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import combinations, permutations

from nmm.data import words
from nmm.data.scene import SceneObject
from nmm.data.world import Document, World

Step = tuple[str, set[str]]  # (context, possible words)


def digest(documents: list[Document]) -> str:
    """One hash over everything the documents hold."""
    total = hashlib.sha256()
    for d in documents:
        total.update(repr((d.text, d.index, d.classes, d.questions, d.scene, d.subjects)).encode())
        total.update(d.logprobs.tobytes() + d.images.tobytes())
    return total.hexdigest()


class Reader:
    """Reads one document and yields (context, possible next words) for each of its text tokens."""

    def __init__(self, world: World, document: Document) -> None:
        self.world = world
        self.catalogue = world.catalogue
        self.document = document
        self.position = 0

    @property
    def word(self) -> str:
        """The word last stepped over."""
        return self.document.words[self.position - 1]

    def steps(self) -> Iterator[Step]:
        """All steps, in order; fails if the document's words do not follow the grammar."""
        body = {"caption": self.caption, "interleaved": self.interleaved, "text": self.text}[self.document.source]
        for context, possible in body():
            while self.document.words[self.position] == words.IMAGE:
                self.position += 1
            self.position += 1
            assert self.word in possible, (context, self.word, possible, self.document.text)
            yield context, possible
        assert self.position == len(self.document.words) and self.word == words.END

    def caption(self) -> Iterator[Step]:
        objects = self.document.scene[0]
        start = words.LOCATIONS[objects[0].cell]
        yield "caption start", {start, words.NUMBERS[len(objects)]}
        if self.word != start:
            yield "count phrase", {"object" if len(objects) == 1 else "objects"}
            yield "count phrase", {":"}
            yield "first place", {start}
        yield from self.clauses(objects, [], started=True)
        for question in range(len(self.world.config.question_chain)):
            yield f"after {question} questions", {"Q", words.END}
            if self.word == words.END:
                return
            yield f"kind of {len(objects)}", self.kinds(objects)
            yield from self.question(self.word, self.listing(self.word, objects))
        yield "end", {words.END}

    def interleaved(self) -> Iterator[Step]:
        scene = self.document.scene
        for number, objects in enumerate(scene):
            if number:
                sign = len(objects) - len(scene[number - 1])
                yield "comparison", {"more" if sign > 0 else "fewer" if sign < 0 else "same"}
                yield "comparison", {":"}
            yield from self.clauses(objects, list(scene[:number]), started=False)
            if number == 0:
                yield "second picture", {"<nl>"}
            elif number == 1:
                yield "third picture or not", {"<nl>", "Q", words.END}
        if len(scene) == 3:
            yield "after three pictures", {"Q", words.END}
        if self.word == "Q":
            yield "where", {"where"}
            asked = [
                ((words.ORDINALS[number], *self.catalogue.names[thing.entity]), (words.LOCATIONS[thing.cell],))
                for number, objects in enumerate(scene)
                for thing in objects
            ]
            yield from self.question("where", asked)
            yield "end", {words.END}

    def text(self) -> Iterator[Step]:
        config = self.world.config
        subject = -1
        starts = {first for first, _ in self.catalogue.names}
        for sentence in range(config.max_sentences):
            possible = set(starts)
            possible |= {"it"} if sentence else set()
            possible |= {words.END} if sentence >= config.min_sentences else set()
            yield f"sentence {min(sentence, 2)}", possible
            if self.word == words.END:
                return
            if self.word != "it":
                first = self.word
                yield "last name", {last for start, last in self.catalogue.names if start == first}
                subject = self.catalogue.names.index((first, self.word))
            yield from self.predicate(subject)
            yield "full stop", {"."}
        yield "end", {words.END}

    def predicate(self, subject: int) -> Iterator[Step]:
        catalogue = self.catalogue
        friend = int(catalogue.friend[subject])
        yield "predicate", {"lives", "likes", "is", "friend"}
        if self.word == "lives":
            yield "home", {words.PLACES[catalogue.place[subject]]}
        elif self.word == "likes":
            yield "food", {words.FOODS[food] for food in catalogue.foods[subject]}
        elif self.word == "is":
            yield "look", {list(words.COLOURS)[catalogue.colour[subject]]}
            yield "look", {catalogue.shape_words[subject]}
        else:
            yield "friend", {"is", "lives"}
            if self.word == "lives":
                yield "friend's home", {words.PLACES[catalogue.place[friend]]}
            else:
                for name in catalogue.names[friend]:
                    yield "friend's name", {name}

    def clauses(self, objects: list[SceneObject], earlier: list[list[SceneObject]], started: bool) -> Iterator[Step]:
        catalogue = self.catalogue
        for number, thing in enumerate(objects):
            first, last = catalogue.names[thing.entity]
            if number or not started:
                yield "place", {words.LOCATIONS[thing.cell]}
            colour = list(words.COLOURS)[catalogue.colour[thing.entity]]
            yield "clause form", {colour, first}
            if self.word == colour:
                yield "shape", {catalogue.shape_words[thing.entity]}
                yield "size", {("small", "big")[thing.size]}
                yield "first name", {first}
            yield "name's second word", {last}
            if self.document.source == "interleaved":
                yield from self.novelty(thing.entity, earlier)
            stop = "." if number + 1 == len(objects) else ","
            yield "tail", {"from", "likes", stop}
            if self.word == "from":
                yield "home", {words.PLACES[catalogue.place[thing.entity]]}
                yield "clause end", {stop}
            elif self.word == "likes":
                yield "food", {words.FOODS[food] for food in catalogue.foods[thing.entity]}
                yield "clause end", {stop}

    def novelty(self, entity: int, earlier: list[list[SceneObject]]) -> Iterator[Step]:
        seen = [entity in {o.entity for o in objects} for objects in earlier]
        if not any(seen):
            yield "novelty", {"new"}
            return
        yield "novelty", {"again"}
        yield "novelty", {words.ORDINALS[len(seen) - 1 - seen[::-1].index(True)]}

    def question(self, kind: str, listing: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> Iterator[Step]:
        read: tuple[str, ...] = ()
        alive = listing
        while any(len(asked) > len(read) for asked, _ in alive):
            yield f"question {kind}", {asked[len(read)] for asked, _ in alive}
            read += (self.word,)
            alive = [(asked, answer) for asked, answer in alive if asked[: len(read)] == read]
        yield "answer mark", {"A"}
        answers = {answer for _, answer in alive}
        assert len(answers) == 1, "a question with two answers"
        for word in answers.pop():
            yield "answer", {word}

    def kinds(self, objects: list[SceneObject]) -> set[str]:
        kinds = {"count", "colour"}
        if len(objects) > 1:
            kinds |= {"left", "after", "same"}
        return kinds | ({"odd"} if self.listing("odd", objects) else set())

    def listing(self, kind: str, objects: list[SceneObject]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Every question of a kind with its answer, solved from the scene."""
        catalogue, place = self.catalogue, words.LOCATIONS
        palette = list(words.COLOURS)[: self.world.config.num_colours]
        colour = [palette[catalogue.colour[o.entity]] for o in objects]
        shape = [catalogue.shape_words[o.entity] for o in objects]
        name = [catalogue.names[o.entity] for o in objects]
        spot = [place[o.cell] for o in objects]
        indices = range(len(objects))
        match kind:
            case "count":
                return [((c,), (words.NUMBERS[sum(c == other for other in colour)],)) for c in palette]
            case "colour":
                return [((spot[i],), (colour[i],)) for i in indices]
            case "left":
                left = ("topleft", "bottomleft")
                truth = {(i, j): spot[i] in left and spot[j] not in left for i, j in permutations(indices, 2)}
                return [((*name[i], *name[j]), ("yes" if yes else "no",)) for (i, j), yes in truth.items()]
            case "after":
                return [(name[i], (colour[i + 1], shape[i + 1])) for i in indices if i + 1 in indices]
            case "same":
                pairs = combinations(indices, 2)
                return [((spot[i], spot[j]), ("yes" if colour[i] == colour[j] else "no",)) for i, j in pairs]
            case _:
                size = [o.size for o in objects]
                found = {"colour": loner(colour), "shape": loner(shape), "size": loner(size)}
                return [((what,), (spot[i],)) for what, i in found.items() if i is not None]


def loner(values: list) -> int | None:
    """The position of the one value that differs from all others, which agree and are at least two."""
    for i in range(len(values)):
        rest = values[:i] + values[i + 1 :]
        if len(rest) > 1 and len(set(rest)) == 1 and values[i] != rest[0]:
            return i
    return None
