"""Every number that defines a procedural world, as one frozen value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmm.data import words

SOURCES = ("caption", "interleaved", "text")
SPLITS = ("train", "val", "test")

NUM_CELLS = 4
NUM_PATTERNS = 15  # non-empty 2x2 bitmaps
NUM_SHAPES = 8
MAX_IMAGES = 3
MAX_SENTENCES = 6
TAILS = ("place", "food", "none")
PREDICATES = ("lives", "likes", "looks", "friend_is", "friend_lives")
QUESTION_KINDS = ("count", "colour", "left", "after", "same", "odd")
# Fields younger than the first worlds. At its default such a field is left out of `to_dict`, so that a world which does
# not use it keeps its fingerprint; the words it brings join the vocabulary, at its end, only when it is used.
ADDED = (
    "serial", "serial_longest", "serial_words", "wrong", "boilerplate", "boilerplate_texts", "repeated",
    "repeated_samples", "tail_rank", "reasoning", "reasoning_modulus", "reasoning_fast", "reasoning_shapes",
)  # fmt: skip

# Integer pixel levels of a palette channel (none, half, full), of the background, and the unit of gain.
CHANNEL_LEVELS = (0, 128, 255)
BACKGROUND_LEVEL = 26
GAIN_UNIT = 256


@dataclass(frozen=True)
class WorldConfig:
    """A procedural world: catalogue, scenes, pixels and grammar.

    Probabilities that belong together are tuples that sum to one; the comment gives their order. Choices that the text
    reveals add to the known entropy; those of scenes (object counts, sizes, re-use) do not.
    """

    seed: int = 0

    # Catalogue: entities with unique looks, unique names and random facts; popularity ~ (rank + 1 + shift)^-exponent.
    num_entities: int = 10_000
    name_words: int = 100
    num_colours: int = 10
    num_places: int = 32
    num_foods: int = 32
    zipf_exponent: float = 1.5
    zipf_shift: float = 5.0

    # Scenes and pixels.
    object_counts: tuple[float, ...] = (0.6, 0.2, 0.13, 0.07)  # 1, 2, 3, 4 objects
    lone_object_fills: bool = True
    big_probability: float = 0.5
    jitter: float = 0.0  # probability that an object is moved, by -1..1 grid steps each way
    image_size: int = 32
    gain_min: int = 218  # of 256: the brightness of an image is drawn from gain_min..256
    noise: int = 7  # of 255: every channel of every pixel gets a whole number from -noise..noise

    # Captions and interleaved documents.
    count_phrase: float = 0.25  # a caption opens with "two objects :"
    full_clause: float = 0.8  # colour, shape and size come before the name
    tails: tuple[float, ...] = (0.6, 0.15, 0.25)  # from PLACE, likes FOOD, nothing
    first_food: float = 0.8  # which of an entity's two foods
    question_chain: tuple[float, ...] = (0.6, 0.3)  # P(a first question), P(a second | a first), ...
    question_kinds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # weights: count colour left after same odd
    count_present: float = 0.7  # ask for the count of a present object's colour, else of any colour
    same_balanced: float = 0.5  # ask about a pair that does share its colour, where there is one
    image_numbers: tuple[float, ...] = (0.6, 0.4)  # 2 or 3 images in an interleaved document
    reuse: float = 0.5  # an object of a later image is one seen before
    where_question: float = 0.5  # an interleaved document ends with a question across images

    # Text documents.
    min_sentences: int = 2
    max_sentences: int = 6
    stop: float = 0.25  # end after each sentence from min_sentences on
    pronoun: float = 0.6  # "it" instead of a new subject
    predicates: tuple[float, ...] = (0.25, 0.2, 0.2, 0.15, 0.2)  # lives, likes, looks, friend is, friend lives

    # Noise of training captions (nmm.data.noise); validation and test stay clean.
    serial: float = 0.0  # a caption ends with 1..serial_longest words that nobody can guess
    serial_longest: int = 6
    serial_words: int = 64  # to draw them from
    wrong: float = 0.0  # a caption tells another scene than the picture shows
    boilerplate: float = 0.0  # a caption is one of a few fixed texts
    boilerplate_texts: int = 4
    repeated: float = 0.0  # a sample is one of a few fixed samples, picture and all
    repeated_samples: int = 16
    tail_rank: int = 0  # class letters of entities from this rank of popularity on are capitals; 0: of none

    # Questions whose answer takes several steps (nmm.data.reasoning).
    reasoning: float = 0.0  # a caption is such a question and its answer, and nothing else
    reasoning_modulus: int = 10  # the answer is a sum modulo this
    reasoning_fast: float = 0.6  # the answer is told at once, else step by step
    reasoning_shapes: bool = False  # objects stand for a number by their shape, else by their colour

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _as_type_of(field.default, getattr(self, field.name), field.name))
        self.validate()

    @property
    def num_codes(self) -> int:
        """How many distinct looks there are: shape x body colour x another badge colour x badge pattern."""
        return NUM_SHAPES * self.num_colours * (self.num_colours - 1) * NUM_PATTERNS

    def validate(self) -> None:
        """Raise ValueError with the field, its value and what is allowed."""
        _validate_catalogue(self)
        _validate_pixels(self)
        _validate_probabilities(self)
        _validate_added(self)
        if not 1 <= self.min_sentences <= self.max_sentences <= MAX_SENTENCES:
            raise ValueError(
                f"world.min_sentences={self.min_sentences} and world.max_sentences={self.max_sentences} must satisfy "
                f"1 <= min_sentences <= max_sentences <= {MAX_SENTENCES}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types (tuples become lists), the inverse of `from_dict`; ADDED fields only where they are used."""
        unused = {f.name for f in dataclasses.fields(self) if f.name in ADDED and getattr(self, f.name) == f.default}
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in unused}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WorldConfig:
        """A config from plain values; missing fields take their defaults, unknown ones raise ValueError."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown world field(s) {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**dict(values))


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    """`value` as the type of the field's default, so that 5 and 5.0, or a list and a tuple, give the same world."""
    if isinstance(default, tuple) and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_as_type_of(0.0, entry, name) for entry in value)
    if isinstance(default, bool) and isinstance(value, bool):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or isinstance(default, tuple | bool) or (isinstance(default, int) and value != int(value)):
        kinds = {tuple: "a list of numbers", bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(f"world.{name}={value!r} must be {kinds[type(default)]}")
    return type(default)(value)


def _validate_catalogue(config: WorldConfig) -> None:
    limits = {
        "name_words": (1, words.MAX_NAME_WORDS),
        "num_colours": (2, len(words.COLOURS)),
        "num_places": (1, len(words.PLACES)),
        "num_foods": (2, len(words.FOODS)),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"world.{name}={value} must lie in {low}..{high}")
    names = config.name_words**2
    if not NUM_CELLS <= config.num_entities <= min(names, config.num_codes):
        raise ValueError(
            f"world.num_entities={config.num_entities} must lie in {NUM_CELLS}..{min(names, config.num_codes)}: "
            f"name_words={config.name_words} gives {names} names, num_colours={config.num_colours} gives "
            f"{config.num_codes} looks; raise the smaller of the two"
        )
    if not (math.isfinite(config.zipf_exponent) and config.zipf_exponent >= 0):
        raise ValueError(f"world.zipf_exponent={config.zipf_exponent} must be a finite number >= 0")
    if not (math.isfinite(config.zipf_shift) and config.zipf_shift > -1):
        raise ValueError(f"world.zipf_shift={config.zipf_shift} must be a finite number > -1")


def _validate_pixels(config: WorldConfig) -> None:
    grid = 4 * NUM_CELLS
    if config.image_size < grid or config.image_size % grid:
        raise ValueError(f"world.image_size={config.image_size} must be a positive multiple of {grid}")
    if not 1 <= config.gain_min <= GAIN_UNIT:
        raise ValueError(f"world.gain_min={config.gain_min} must lie in 1..{GAIN_UNIT}")
    if not 0 <= config.noise <= 127:
        raise ValueError(f"world.noise={config.noise} must lie in 0..127")
    levels = sorted((*CHANNEL_LEVELS, BACKGROUND_LEVEL))
    for dark, bright in zip(levels, levels[1:], strict=False):
        if dark + config.noise >= bright * config.gain_min // GAIN_UNIT - config.noise:
            raise ValueError(
                f"world.noise={config.noise} with world.gain_min={config.gain_min} makes pixel levels {dark} and "
                f"{bright} overlap, so pictures do not tell the truth with certainty; lower noise or raise gain_min"
            )


def _validate_probabilities(config: WorldConfig) -> None:
    lengths = {
        "object_counts": NUM_CELLS,
        "tails": len(TAILS),
        "image_numbers": MAX_IMAGES - 1,
        "predicates": len(PREDICATES),
    }
    for name, length in lengths.items():
        values = getattr(config, name)
        if len(values) != length or min(values) < 0 or abs(sum(values) - 1) > 1e-9:
            raise ValueError(f"world.{name}={values} must be {length} non-negative numbers that sum to 1")
    kinds = config.question_kinds
    if len(kinds) != len(QUESTION_KINDS) or min(kinds) < 0 or max(kinds[:2]) <= 0:
        raise ValueError(
            f"world.question_kinds={kinds} must be {len(QUESTION_KINDS)} weights >= 0 ({' '.join(QUESTION_KINDS)}), "
            "one of the first two > 0: a picture of one object allows no other question"
        )
    singles = (
        "big_probability", "jitter", "count_phrase", "full_clause", "first_food", "count_present", "same_balanced",
        "reuse", "where_question", "stop", "pronoun", "serial", "wrong", "boilerplate", "repeated",
        "reasoning", "reasoning_fast",
    )  # fmt: skip
    for name in singles:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"world.{name}={getattr(config, name)} must lie in 0..1")
    if len(config.question_chain) > 4 or any(not 0 <= p <= 1 for p in config.question_chain):
        raise ValueError(f"world.question_chain={config.question_chain} must be at most 4 numbers in 0..1")


def _validate_added(config: WorldConfig) -> None:
    limits = {
        "serial_longest": (1, 16),
        "serial_words": (1, words.MAX_SERIAL_WORDS),
        "boilerplate_texts": (1, len(words.BOILERPLATE)),
        "repeated_samples": (1, 1 << 20),
        "tail_rank": (0, config.num_entities),
        "reasoning_modulus": (2, words.MAX_MODULUS),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"world.{name}={value} must lie in {low}..{high}")
