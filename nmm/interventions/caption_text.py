"""Captions of the world as clauses: what is seen, what is known of the world, and how much of it is true.

    <image> [two objects :] topleft red disc small Bada Fosk from Rome , topright ... . [Q count ...] [serial ...] <end>
                            ^ clause: what is seen          ^ fact of the world

CapFusion (arXiv 2310.20550, as arXiv 2409.04828 uses it) keeps the world facts of the web's caption and takes what is
seen from the captioner. Here a fact goes with a name; one whose name the new caption does not tell is left out, since
nobody has seen whom it is about, and a fact that the captioner made up is left out as well. What follows the clauses
(questions, serial numbers) is left out of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmm.data.words import END, IMAGE, LOCATIONS

# The version of what this file and captioner.py make of a model's words. It decides with the options which kept texts
# may be used again: a change of either file that changes a text needs the next number.
TELLER = 1
FACT_OPENS = ("from", "likes")


@dataclass(frozen=True)
class Clause:
    """``seen``: place, looks and name, the last two words; ``fact``: from "from" or "likes" on, or nothing."""

    seen: tuple[str, ...]
    fact: tuple[str, ...]

    @property
    def name(self) -> tuple[str, ...]:
        """First and last name."""
        return self.seen[-2:]


@dataclass(frozen=True)
class Caption:
    """``opening``: "two objects :" or nothing. ``clauses`` are none where a text is no caption, as a fixed one."""

    opening: tuple[str, ...]
    clauses: tuple[Clause, ...]

    @property
    def text(self) -> str:
        """All tokens, as a sample has them."""
        clauses = " , ".join(" ".join((*clause.seen, *clause.fact)) for clause in self.clauses)
        return " ".join(word for word in (IMAGE, *self.opening, clauses, ".", END) if word)


def parse(text: str) -> Caption:
    """The clauses up to the first full stop; none of a text that is not one of captions."""
    words = [word for word in text.split() if word != IMAGE]
    end = words.index(".") if "." in words else 0
    words = words[:end]
    opening: tuple[str, ...] = ()
    if ":" in words:
        opening, words = tuple(words[: words.index(":") + 1]), words[words.index(":") + 1 :]
    clauses = tuple(_clause(part.split()) for part in " ".join(words).split(" , ")) if words else ()
    if not clauses or any(len(clause.seen) < 3 or clause.seen[0] not in LOCATIONS for clause in clauses):
        return Caption((), ())
    return Caption(opening, clauses)


def _clause(words: Sequence[str]) -> Clause:
    at = next((n for n, word in enumerate(words) if word in FACT_OPENS), len(words))
    return Clause(tuple(words[:at]), tuple(words[at:]))


def fuse(original: str, said: str) -> str | None:
    """What ``said`` tells of the picture with the facts that ``original`` knows of the same names; None if ``said`` is
    no caption.
    """
    new = parse(said)
    if not new.clauses:
        return None
    facts = {clause.name: clause.fact for clause in parse(original).clauses}
    clauses = tuple(Clause(clause.seen, facts.get(clause.name, ())) for clause in new.clauses)
    return Caption(new.opening, clauses).text


def replaced(said: str) -> str | None:
    """``said`` alone, as a sample has it; None if it is no caption."""
    new = parse(said)
    return new.text if new.clauses else None


def count_truth(text: str, scene: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """(words of colour, shape, size and name that a caption tells, those that are true of the scene, facts it has).

    A clause is held against the object in its place; one of a place without an object is all wrong.
    """
    told = right = facts = 0
    there = {thing["location"]: thing for thing in scene}
    for clause in parse(text).clauses:
        thing = there.get(clause.seen[0], {})
        facts += bool(clause.fact)
        looks = clause.seen[1:-2]
        told += len(looks) + 2
        truth = {thing.get("colour"), thing.get("shape"), thing.get("size")}
        right += sum(word in truth for word in looks)
        right += sum(a == b for a, b in zip(clause.name, str(thing.get("name", "")).split(), strict=False))
    return told, right, facts
