"""What the Unicode character database says about a character, as sentences in lower case.

Only what Python's ``unicodedata`` knows is said, so a sentence is true of the version in ``glyphs.json``.
"""

from __future__ import annotations

import unicodedata
from fractions import Fraction
from functools import lru_cache

CATEGORIES = {
    "Lu": "an uppercase letter",
    "Ll": "a lowercase letter",
    "Lt": "a titlecase letter",
    "Lm": "a modifier letter",
    "Lo": "a letter without case",
    "Mn": "a mark that takes no room of its own",
    "Mc": "a mark that takes room",
    "Me": "a mark that encloses its base",
    "Nd": "a decimal digit",
    "Nl": "a number in the form of a letter",
    "No": "a number that is no digit",
    "Pc": "a punctuation mark that connects words",
    "Pd": "a dash",
    "Ps": "an opening punctuation mark",
    "Pe": "a closing punctuation mark",
    "Pi": "an opening quotation mark",
    "Pf": "a closing quotation mark",
    "Po": "a punctuation mark",
    "Sm": "a mathematical symbol",
    "Sc": "a currency sign",
    "Sk": "a modifier symbol",
    "So": "a symbol",
}
DIRECTIONS = {
    "L": "it runs from left to right",
    "R": "it runs from right to left",
    "AL": "it runs from right to left, as arabic does",
    "EN": "it counts as a european number",
    "AN": "it counts as an arabic number",
    "ES": "it separates european numbers",
    "ET": "it ends european numbers",
    "CS": "it separates numbers",
    "NSM": "it runs as its base does",
    "ON": "it takes the direction of what is around it",
}
VARIANTS = {
    "<font>": "a font variant",
    "<circle>": "a circled form",
    "<super>": "a superscript form",
    "<sub>": "a subscript form",
    "<fraction>": "a fraction form",
    "<vertical>": "a vertical form",
    "<wide>": "a wide form",
    "<narrow>": "a narrow form",
    "<small>": "a small form",
    "<square>": "a squared form",
    "<initial>": "an initial form",
    "<medial>": "a medial form",
    "<final>": "a final form",
    "<isolated>": "an isolated form",
    "<noBreak>": "a form without a break",
    "<compat>": "a compatible form",
}
PLACES_OF_MARKS = {220: "below its base", 230: "above its base", 1: "over its base", 202: "attached below its base"}
_NOT_A_SCRIPT = frozenset(
    ("MODIFIER", "CAPITAL", "SMALL", "SCRIPT", "BLACK-LETTER", "DOUBLE-STRUCK", "TURNED", "MATHEMATICAL")
    + ("SUBSCRIPT", "SUPERSCRIPT", "EPIGRAPHIC")
)


def name_of(character: str) -> str:
    """The Unicode name in lower case, empty if it has none."""
    return unicodedata.name(character, "").lower()


def script_of(character: str) -> str:
    """The script of a letter, by the words its name starts with: "greek", "old italic"; empty if they name none."""
    before, found, _ = unicodedata.name(character, "").partition(" LETTER ")
    if not found or unicodedata.category(character)[0] != "L":
        return ""
    words = before.split()
    while words and words[-1] in ("CAPITAL", "SMALL"):
        words.pop()
    return "" if not words or _NOT_A_SCRIPT.intersection(words) else " ".join(words).lower()


def base_and_marks(character: str) -> tuple[str, ...]:
    """The characters of a canonical decomposition, one step of it; empty if there is none."""
    parts = unicodedata.decomposition(character).split()
    return () if not parts or parts[0].startswith("<") else tuple(chr(int(part, 16)) for part in parts)


def other_case(character: str) -> str:
    """The single character of the other case, empty if there is none that leads back."""
    other = character.swapcase()
    return other if len(other) == 1 and other != character and other.swapcase() == character else ""


@lru_cache(maxsize=1 << 14)
def facts(code: int) -> tuple[str, ...]:
    """Everything that can be said of a character after it has been named, each a clause about "it"."""
    character = chr(code)
    said = [f"it is {CATEGORIES[unicodedata.category(character)]}", f"its code point is u+{code:04x}"]
    direction = DIRECTIONS.get(unicodedata.bidirectional(character))
    said += [direction] if direction else []
    script = script_of(character)
    said += [f"it belongs to the {script} script"] if script else []
    said += _made_of(character)
    value = unicodedata.numeric(character, None)
    said += [f"its value is {Fraction(value).limit_denominator(1000)}"] if value is not None else []
    said += ["it is mirrored where text runs from right to left"] if unicodedata.mirrored(character) else []
    place = PLACES_OF_MARKS.get(unicodedata.combining(character))
    said += [f"it stands {place}"] if place else []
    other = other_case(character)
    if other:
        said.append(f"its {'capital' if character.islower() else 'small letter'} is {name_of(other)}")
    for step, relation in ((-1, "follows"), (1, "comes before")):
        neighbour = name_of(chr(code + step)) if 0 <= code + step < 0x110000 else ""
        said += [f"it {relation} {neighbour}"] if neighbour else []
    return tuple(said)


def _made_of(character: str) -> list[str]:
    parts = unicodedata.decomposition(character).split()
    if not parts:
        return []
    tag = parts.pop(0) if parts[0].startswith("<") else ""
    names = [name_of(chr(int(part, 16))) for part in parts]
    if not all(names) or len(names) > 3:
        return []
    listed = " and ".join(names)
    if tag:
        return [f"it is {VARIANTS[tag]} of {listed}"] if tag in VARIANTS else []
    return [f"it is the same as {listed}"] if len(names) == 1 else [f"it is made of {listed}"]
