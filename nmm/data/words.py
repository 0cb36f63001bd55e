"""The words of the procedural world: fixed lists, and made-up names built from syllables."""

from __future__ import annotations

PAD, IMAGE, END = "<pad>", "<image>", "<end>"
SPECIALS = (PAD, IMAGE, END)

NUMBERS = ("zero", "one", "two", "three", "four")
ORDINALS = ("first", "second", "third")
LOCATIONS = ("topleft", "topright", "bottomleft", "bottomright")
SIZES = ("small", "big")

# The first `num_colours` are used. Levels per channel: 0 none, 1 half, 2 full.
COLOURS = {
    "red": (2, 0, 0),
    "green": (0, 2, 0),
    "blue": (0, 0, 2),
    "yellow": (2, 2, 0),
    "cyan": (0, 2, 2),
    "pink": (2, 0, 2),
    "white": (2, 2, 2),
    "gray": (1, 1, 1),
    "tangerine": (2, 1, 0),
    "purple": (1, 0, 2),
    "lime": (1, 2, 0),
    "maroon": (1, 0, 0),
    "teal": (0, 1, 1),
    "navy": (0, 0, 1),
}

PLACES = (
    "oslo", "lisbon", "cairo", "quito", "dakar", "hanoi", "perth", "sofia", "turin", "kyoto", "delhi", "accra",
    "bergen", "cusco", "davos", "essen", "fargo", "ghent", "izmir", "jaipur", "kazan", "leeds", "milan", "nantes",
    "omaha", "porto", "reims", "seoul", "tunis", "utrecht", "vienna", "zagreb",
)  # fmt: skip

FOODS = (
    "rice", "bread", "plums", "soup", "beans", "cheese", "figs", "honey", "kale", "lentils", "mango", "noodles",
    "olives", "pasta", "quinoa", "radish", "salad", "tofu", "walnuts", "yoghurt", "apples", "berries", "carrots",
    "dates", "eggs", "grapes", "jam", "leeks", "melon", "oats", "pears", "waffles",
)  # fmt: skip

GRAMMAR = (
    "object", "objects", ":", ",", ".", "from", "likes", "Q", "A", "count", "colour", "left", "after", "same", "odd",
    "shape", "size", "yes", "no", "new", "again", "more", "fewer", "<nl>", "where", "it", "lives", "is", "friend",
)  # fmt: skip

# Questions whose answer takes several steps (nmm.data.reasoning).
MORE_NUMBERS = (
    "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
)  # fmt: skip
FAST, SLOW = "is", "since"
MAX_MODULUS = len(NUMBERS) + len(MORE_NUMBERS)

# Noise: the word before a serial number; fixed texts that say nothing of a picture, whose first words open no caption.
SERIAL = "serial"
MAX_SERIAL_WORDS = 4096
BOILERPLATE = (
    ("stock", "photo", "for", "editorial", "use", "only", "."),
    ("all", "rights", "reserved", "."),
    ("click", "here", "to", "enlarge", "the", "photo", "."),
    ("free", "shipping", "on", "all", "items", "."),
    ("sorry", ",", "this", "photo", "is", "not", "available", "."),
    ("photo", "by", "the", "author", "."),
)

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "st", "tr")
_FIRST_ENDINGS = ("ada", "ilo", "ova", "emi", "una", "iko", "aro", "ela", "oni", "ubi", "ima", "edo", "ora", "uli")
_LAST_ENDINGS = (
    "anberg", "elson", "inford", "oswick", "umley", "arden", "ekholt", "imstad", "ondale", "urwell", "asker",
    "engard", "ilwood", "orhus",
)  # fmt: skip
MAX_NAME_WORDS = len(_ONSETS) * len(_FIRST_ENDINGS)


def _names(endings: tuple[str, ...], count: int) -> list[str]:
    """The first `count` words onset + ending; the diagonal walk lets neighbours differ in both halves."""
    size = len(_ONSETS)
    return [_ONSETS[i % size] + endings[(i // size + i % size) % len(endings)] for i in range(count)]


def first_names(count: int) -> list[str]:
    """`count` distinct first names (count <= MAX_NAME_WORDS)."""
    return _names(_FIRST_ENDINGS, count)


def last_names(count: int) -> list[str]:
    """`count` distinct last names (count <= MAX_NAME_WORDS)."""
    return _names(_LAST_ENDINGS, count)


def numbers(count: int) -> tuple[str, ...]:
    """The words of 0..count-1 (count <= MAX_MODULUS)."""
    return (*NUMBERS, *MORE_NUMBERS)[:count]


def reasoning_words(modulus: int) -> list[str]:
    """The words that questions for a sum modulo ``modulus`` bring, in order."""
    return ["sum", SLOW, *numbers(modulus)[len(NUMBERS) :]]


def serial_words(count: int) -> list[str]:
    """`count` distinct words of serial numbers (count <= MAX_SERIAL_WORDS)."""
    return [f"{number:03x}" for number in range(count)]


def boilerplate_words(texts: int) -> list[str]:
    """The words of the first `texts` fixed texts that the grammar has not, each once."""
    return [word for word in dict.fromkeys(w for text in BOILERPLATE[:texts] for w in text) if word not in GRAMMAR]
