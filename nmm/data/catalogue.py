"""The catalogue: what every entity looks like, is called, and what is true of it.

M  entities (index 0 is the most popular)      F  words per half of a name
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nmm.data import words
from nmm.data.counter_rng import CounterStream
from nmm.data.world_config import NUM_PATTERNS, NUM_SHAPES, WorldConfig

SHAPES = ("square", "star", "cross", "hill", "funnel", "pillar", "bolt", "bar")


@dataclass(frozen=True)
class Catalogue:
    """Facts about all entities, each an integer array of shape (M,) unless said otherwise.

    Looks are unique per entity (shape, body colour, badge colour, badge pattern 1..15 as a 2x2 bitmap), and so are
    names (first, last). `foods` has shape (M, 2). `popularity` are the Zipf-Mandelbrot probabilities, float64.
    """

    config: WorldConfig
    popularity: NDArray[np.float64]
    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    badge: NDArray[np.int64]
    pattern: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    place: NDArray[np.int64]
    foods: NDArray[np.int64]
    friend: NDArray[np.int64]

    @cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """Cumulative popularity, shape (M,), its last entry exactly 1."""
        total = np.cumsum(self.popularity)
        total[-1] = 1.0
        return total

    @cached_property
    def first_name_probability(self) -> NDArray[np.float64]:
        """P(first name) of a subject drawn by popularity, shape (F,)."""
        total = np.zeros(self.config.name_words)
        np.add.at(total, self.first, self.popularity)
        return total

    @cached_property
    def log_first(self) -> list[float]:
        """Per entity: log P(its first name) of a subject drawn by popularity."""
        return np.log(self.first_name_probability[self.first]).tolist()

    @cached_property
    def log_last(self) -> list[float]:
        """Per entity: log P(its last name | its first name) of a subject drawn by popularity."""
        return np.log(self.popularity / self.first_name_probability[self.first]).tolist()

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """Per entity: (first name, last name)."""
        firsts, lasts = words.first_names(self.config.name_words), words.last_names(self.config.name_words)
        return [(firsts[f], lasts[s]) for f, s in zip(self.first.tolist(), self.last.tolist(), strict=True)]

    @cached_property
    def shape_words(self) -> list[str]:
        """Per entity: the word for its shape."""
        return [SHAPES[s] for s in self.shape.tolist()]

    @cached_property
    def colour_words(self) -> list[str]:
        """Per entity: the word for its body colour."""
        names = list(words.COLOURS)
        return [names[c] for c in self.colour.tolist()]

    @cached_property
    def place_words(self) -> list[str]:
        """Per entity: where it lives."""
        return [words.PLACES[p] for p in self.place.tolist()]

    @cached_property
    def food_words(self) -> list[tuple[str, str]]:
        """Per entity: its first and second food."""
        return [(words.FOODS[a], words.FOODS[b]) for a, b in self.foods.tolist()]

    @cached_property
    def friends(self) -> list[int]:
        """Per entity: the entity that is its friend."""
        return self.friend.tolist()

    def sample(self, unit: NDArray[np.float64]) -> NDArray[np.int64]:
        """Entities by popularity from uniform numbers in [0, 1), same shape."""
        return np.searchsorted(self.cumulative, unit, side="right").astype(np.int64)


def zipf_mandelbrot(count: int, exponent: float, shift: float) -> NDArray[np.float64]:
    """Probabilities ~ (rank + shift)^-exponent for ranks 1..count, summing to one."""
    weights = (np.arange(1, count + 1) + shift) ** -exponent
    return weights / weights.sum()


def build_catalogue(config: WorldConfig) -> Catalogue:
    """The catalogue that `config` (its seed among the rest) describes."""
    count, colours = config.num_entities, config.num_colours

    def stream(purpose: str) -> CounterStream:
        return CounterStream(config.seed, "catalogue", purpose)

    code = stream("looks").permutation(config.num_codes)[:count]
    name = stream("names").permutation(config.name_words**2)[:count]
    code, pattern = np.divmod(code, NUM_PATTERNS)
    code, other = np.divmod(code, colours - 1)
    shape, colour = np.divmod(code, colours)
    food = stream("food").integers(count, config.num_foods)
    step = stream("other food").integers(count, config.num_foods - 1) + 1
    friend_step = stream("friend").integers(count, count - 1) + 1
    assert shape.max() < NUM_SHAPES
    return Catalogue(
        config=config,
        popularity=zipf_mandelbrot(count, config.zipf_exponent, config.zipf_shift),
        shape=shape,
        colour=colour,
        badge=other + (other >= colour),
        pattern=pattern + 1,
        first=name // config.name_words,
        last=name % config.name_words,
        place=stream("place").integers(count, config.num_places),
        foods=np.stack([food, (food + step) % config.num_foods], axis=1),
        friend=(np.arange(count) + friend_step) % count,
    )
