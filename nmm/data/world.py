"""The procedural world: pictures and texts from one generator that knows the exact entropy of every word.

    world = World(WorldConfig(seed=0))
    for document in world.documents("caption", "train", start=0, count=512):
        ...

A document is a pure function of (config, source, split, index); chunking, order and processes change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nmm.data import words
from nmm.data.catalogue import SHAPES, Catalogue, build_catalogue
from nmm.data.counter_rng import CounterStream
from nmm.data.language import Language
from nmm.data.noise import Noise, entropy_is_known, is_noisy, sample_noise
from nmm.data.questions import Question
from nmm.data.render import render
from nmm.data.scene import Pictures, SceneObject, sample_num_images, sample_pictures
from nmm.data.world_config import MAX_IMAGES, SOURCES, SPLITS, WorldConfig
from nmm.data.writer import TokenWriter

__all__ = ["SOURCES", "SPLITS", "Document", "World", "WorldConfig"]

CHUNK = 512
MAX_TEXT_DRAWS = 64
MAX_WRONG_ATTEMPTS = 32  # a world of so few entities that all draws name what is there may tell the truth
Images = NDArray[np.uint8]
Indices = NDArray[np.int64]
Scene = tuple[list[SceneObject], ...]


@dataclass(frozen=True)
class Document:
    """One document of the world.

    Attributes:
        source: "caption", "interleaved" or "text".
        split: "train", "val" or "test".
        index: Its number inside (source, split).
        words: All tokens in order, "<image>" standing for a picture; the last is "<end>".
        logprobs: Float64, one per text token: exact log-probability in nats, given that the next token is text; NaN
            where noise leaves none that could be told.
        classes: One letter per text token (see nmm.data.language).
        images: Uint8, shape (number of pictures, S, S, 3); (0, S, S, 3) if asked for with `pixels=False`.
        questions: Questions asked, with their answers.
        scene: Per picture, its objects in raster order.
        subjects: Per sentence of a text document, the entity it is about.
        noise: What is wrong with it, of nmm.data.noise.KINDS; None where nothing can be.
    """

    source: str
    split: str
    index: int
    words: list[str]
    logprobs: NDArray[np.float64]
    classes: str
    images: Images
    questions: tuple[Question, ...]
    scene: Scene
    subjects: tuple[int, ...]
    noise: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        """All tokens joined by single spaces."""
        return " ".join(self.words)


class World:
    """Makes the documents that a WorldConfig describes."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.catalogue: Catalogue = build_catalogue(config)
        self.language = Language(config, self.catalogue)

    def vocabulary(self) -> list[str]:
        """All words in token-id order: "<pad>", "<image>", "<end>", then the words of the language."""
        config = self.config
        return [
            *words.SPECIALS,
            *words.GRAMMAR,
            *words.NUMBERS,
            *words.ORDINALS,
            *words.LOCATIONS,
            *words.SIZES,
            *list(words.COLOURS)[: config.num_colours],
            *SHAPES,
            *words.PLACES[: config.num_places],
            *words.FOODS[: config.num_foods],
            *words.first_names(config.name_words),
            *words.last_names(config.name_words),
            *(words.reasoning_words(config.reasoning_modulus) if config.reasoning else ()),
            *([words.SERIAL, *words.serial_words(config.serial_words)] if config.serial else []),
            *(words.boilerplate_words(config.boilerplate_texts) if config.boilerplate else []),
        ]

    def documents(self, source: str, split: str, start: int, count: int, pixels: bool = True) -> list[Document]:
        """The documents start..start+count-1 of a source and split.

        Raises:
            ValueError: for an unknown source or split, or a negative start or count.
        """
        return list(self.stream(source, split, start, count, pixels))

    def stream(self, source: str, split: str, start: int, count: int, pixels: bool = True) -> Iterator[Document]:
        """Like `documents`, one at a time, made in chunks of bounded memory."""
        for name, value, allowed in (("source", source, SOURCES), ("split", split, SPLITS)):
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")
        if start < 0 or count < 0:
            raise ValueError(f"start={start} and count={count} must not be negative")
        return self._stream(source, split, start, count, pixels)

    def _stream(self, source: str, split: str, start: int, count: int, pixels: bool) -> Iterator[Document]:
        for first in range(start, start + count, CHUNK):
            indices = np.arange(first, min(first + CHUNK, start + count), dtype=np.int64)
            yield from self._chunk(source, split, indices, pixels)

    def first_pictures(self, source: str, split: str, indices: Indices) -> Pictures:
        """What stands in the first picture of documents `indices`, without writing or drawing any."""
        noise = sample_noise(self.config, source, split, indices) if is_noisy(self.config, source, split) else None
        drawn = indices if noise is None else noise.drawn
        return sample_pictures(self.config, self.catalogue, self._random(source, split, "scene"), drawn, 0, [])

    def _chunk(self, source: str, split: str, indices: Indices, pixels: bool) -> Iterator[Document]:
        noise = sample_noise(self.config, source, split, indices) if is_noisy(self.config, source, split) else None
        drawn = indices if noise is None else noise.drawn
        scene_stream = self._random(source, split, "scene")
        pictures: list[Pictures] = []
        for number in range({"caption": 1, "interleaved": MAX_IMAGES, "text": 0}[source]):
            new = sample_pictures(self.config, self.catalogue, scene_stream, drawn, number, pictures)
            pictures.append(new)
        num_images = np.full(len(indices), len(pictures))
        if source == "interleaved":
            num_images = sample_num_images(self.config, scene_stream, drawn)
        images = self._images(source, split, drawn, num_images, pictures if pixels else [])
        objects = [picture.objects() for picture in pictures]
        scenes = [tuple(objects[n][row] for n in range(shown)) for row, shown in enumerate(num_images.tolist())]
        draws = self._random(source, split, "text").uniform(drawn, 0, MAX_TEXT_DRAWS).tolist()
        wrong = self._wrong_scenes(source, split, noise, scenes)
        for row, (index, scene) in enumerate(zip(indices.tolist(), scenes, strict=True)):
            document = self._document(source, split, index, draws[row], wrong.get(row, scene), noise, row)
            yield replace(document, images=images[row, : len(scene)], scene=scene)

    def _wrong_scenes(self, source: str, split: str, noise: Noise | None, scenes: list[Scene]) -> dict[int, Scene]:
        """By row, what the caption tells where that is not what the picture shows: something that is not there."""
        told: dict[int, Scene] = {}
        rows = np.flatnonzero(noise.wrong) if noise is not None else np.zeros(0, np.int64)
        stream = self._random(source, split, "wrong scene")
        for attempt in range(MAX_WRONG_ATTEMPTS):
            if noise is None or not len(rows):
                break
            drawn = sample_pictures(self.config, self.catalogue, stream, noise.drawn[rows], attempt, [])
            told |= {row: (objects,) for row, objects in zip(rows.tolist(), drawn.objects(), strict=True)}
            rows = np.array([row for row in rows.tolist() if _places(told[row]) <= _places(scenes[row])], np.int64)
        return told

    def _images(
        self, source: str, split: str, indices: Indices, num_images: Indices, pictures: list[Pictures]
    ) -> Images:
        """Pixels of the chunk, shape (B, number of slots, S, S, 3); a document's first num_images slots are filled."""
        side = self.config.image_size
        images = np.zeros((len(indices), len(pictures), side, side, 3), dtype=np.uint8)
        for number, picture in enumerate(pictures):
            rows = np.flatnonzero(num_images > number)
            noise = self._random(source, split, f"noise {number}")
            images[rows, number] = render(self.config, self.catalogue, picture.take(rows), noise, indices[rows])
        return images

    def _document(
        self, source: str, split: str, index: int, draws: list[float], told: Scene, noise: Noise | None, row: int
    ) -> Document:
        """A document that tells of `told`, for the caller to fill in what it shows; `row` is its place in `noise`."""
        writer = TokenWriter(draws)
        questions: list[Question] = []
        subjects: list[int] = []
        match source:
            case "caption" if noise is not None and noise.boilerplate[row]:
                self.language.boilerplate(writer)
            case "caption":
                serial = None if noise is None else bool(noise.serial[row])
                questions = self.language.caption(writer, told[0], serial)
            case "interleaved":
                questions = self.language.interleaved(writer, told)
            case _:
                subjects = self.language.text(writer)
        assert writer.pending == 0.0
        exact = np.array(writer.logprobs, dtype=np.float64)
        return Document(
            source=source,
            split=split,
            index=index,
            words=writer.words,
            logprobs=exact if entropy_is_known(self.config, source, split) else np.full_like(exact, np.nan),
            classes="".join(writer.classes),
            images=np.empty(0, np.uint8),
            questions=tuple(questions),
            scene=told,
            subjects=tuple(subjects),
            noise=None if noise is None else noise.labels(row),
        )

    def _random(self, source: str, split: str, purpose: str) -> CounterStream:
        return CounterStream(self.config.seed, source, split, purpose)


def _places(scene: Scene) -> set[tuple[int, int]]:
    """Who stands where in the first picture."""
    return {(thing.cell, thing.entity) for thing in scene[0]}
