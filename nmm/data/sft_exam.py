"""Held-out questions and pictures that a tuned model answers and describes by generation.

Shape legend: I images of a prompt, M patches an image, P pixel values a patch.

A question's prompt is its document up to and including "A": pictures, text, and earlier questions with their true
answers. A picture's prompt is the picture alone. How a scene is told is one draw of many, so a picture of the world is
told ``REFERENCES`` times more, from its scene and with other draws of the same grammar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nmm.batch import END_ID, IMAGE_ID, SOURCES
from nmm.data.counter_rng import CounterStream
from nmm.data.decoded import DecodedShard, open_decoded
from nmm.data.manifest import ShardInfo, Shards
from nmm.data.sft import ANSWER, QUESTION_WORD, tuning
from nmm.data.window import gather_documents
from nmm.data.words import END
from nmm.data.world import MAX_TEXT_DRAWS, World, WorldConfig
from nmm.data.writer import TokenWriter

REFERENCES = 5


@dataclass(frozen=True)
class Question:
    """One question. ``tokens`` end with "A"; IMAGE_ID stands for the patches (I, M, P) in order, M times an image."""

    kind: str
    tokens: list[int]
    patches: np.ndarray
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """One picture, (1, M, P) patches, or with tiles more: ``told`` is its document's caption, ``references`` count."""

    tokens: list[int]
    patches: np.ndarray
    told: str
    references: tuple[str, ...]


def questions(
    shards: Shards, sources: Sequence[str], split: str, count: int, context_length: int, patch_size: int
) -> list[Question]:
    """The first ``count`` questions of every kind, or all there are, in the order of sources and documents.

    Only questions whose answer lies within ``context_length`` are asked. Raises ValueError when there is none.
    """
    taken: Counter[str] = Counter()
    found = []
    for source in sources:
        for shard in open_decoded(shards, source, split, patch_size):
            for question in questions_of(shards, shard, source, context_length, patch_size):
                taken[question.kind] += 1
                if taken[question.kind] <= count:
                    found.append(question)
    if not found:
        raise ValueError(
            f"{', '.join(sources)} {split} in {shards.root} ask nothing within context_length={context_length}: "
            "stage=sft answers held-out questions, render a larger split"
        )
    return found


def questions_of(
    shards: Shards, shard: DecodedShard, source: str, context_length: int, patch_size: int
) -> Iterator[Question]:
    """All questions of one shard."""
    m = (shards.image_size // patch_size) ** 2
    documents = gather_documents([shard], SOURCES.index(source), 0, context_length, m, shards.images_per_picture)
    tokens, answer = shard.positions["token"], shard.positions["letter"] == ANSWER
    edges = np.diff(answer.astype(np.int8), prepend=0, append=0)
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    asked = np.flatnonzero(tokens == tuning(shards.tokenizer).question_id)
    latest = np.searchsorted(asked, begins) - 1
    at = np.searchsorted(documents["start"], begins, side="right") - 1
    for begin, end, number, document in zip(begins, ends, latest, documents[at], strict=True):
        start = int(document["start"])
        if number < 0 or asked[number] < start:
            raise ValueError(f"decoded shard {shard.folder}: the answer at position {begin} follows no {QUESTION_WORD}")
        if end > start + document["length"]:
            continue  # cut off
        prompt = tokens[start:begin].tolist()
        first, images = int(document["first_image"]), prompt.count(IMAGE_ID) // m
        patches = np.array(shard.patches[first * m : (first + images) * m]).reshape(images, m, -1)
        kind = shards.tokenizer.words[tokens[asked[number] + 1]]
        yield Question(kind, prompt, patches, tuple(tokens[begin:end].tolist()))


def pictures(shards: Shards, split: str, count: int, context_length: int, patch_size: int) -> list[Picture]:
    """The first ``count`` pictures of the caption source, or all there are.

    Pictures of shards that are not the procedural world's have one reference, what is ``told``. Raises ValueError for
    shards whose captions this version of the world would tell differently.
    """
    found: list[Picture] = []
    infos = shards.split("caption", split).shards
    for info, shard in zip(infos, open_decoded(shards, "caption", split, patch_size), strict=True):
        told = _captions(shards, shard, count - len(found), context_length)
        retold = _retold(shards, info, split, [caption for caption, _ in told])
        m, images = (shards.image_size // patch_size) ** 2, shards.images_per_picture
        for number, (caption, cut) in enumerate(told):
            if not cut:
                patches = np.array(shard.patches[number * images * m : (number + 1) * images * m])
                own = patches.reshape(images, m, -1)
                found.append(Picture([IMAGE_ID] * (images * m), own, caption, retold[number]))
        if len(found) >= count:
            break
    return found


def _captions(shards: Shards, shard: DecodedShard, count: int, context_length: int) -> list[tuple[str, bool]]:
    """(caption, whether it is longer than a row) of the first ``count`` samples of a shard, in order."""
    stops = {END_ID, tuning(shards.tokenizer).question_id}
    result = []
    for sample in shard.samples[:count]:
        if sample["images"] != shards.images_per_picture or sample["opens_with_text"]:
            raise ValueError(f"decoded shard {shard.folder}: a caption document must be one picture, then text")
        tokens = shard.positions["token"][sample["start"] : sample["start"] + sample["length"]].tolist()
        words = [token for token in tokens if token != IMAGE_ID]
        length = next((n for n, token in enumerate(words) if token in stops), len(words))
        cut = len(tokens) - len(words) + length >= context_length
        result.append((shards.tokenizer.decode(words[:length]), cut))
    return result


def _retold(shards: Shards, info: ShardInfo, split: str, told: Sequence[str]) -> list[tuple[str, ...]]:
    """References for the first captions of a shard."""
    if shards.manifest.get("kind") != "world":
        return [(caption,) for caption in told]
    world = World(WorldConfig.from_dict(shards.manifest["world"]))
    again = list(retell(world, split, info.first_index, len(told), REFERENCES))
    if [own for own, _ in again] != list(told):
        raise ValueError(
            f"{shards.root} was rendered by another version of the world, whose captions differ from this one's: "
            "render the shards again to score captions"
        )
    return [references for _, references in again]


def retell(world: World, split: str, start: int, count: int, times: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For caption documents start..start+count-1: the caption as told, and ``times`` more of the same scene."""
    indices = np.arange(start, start + count)
    streams = [CounterStream(world.config.seed, "caption", split, f"retold {n}") for n in range(times)]
    draws = [stream.uniform(indices, 0, MAX_TEXT_DRAWS).tolist() for stream in streams]
    for row, document in enumerate(world.stream("caption", split, start, count, pixels=False)):
        references = []
        for drawn in draws:
            writer = TokenWriter(drawn[row])
            world.language.caption(writer, document.scene[0])
            references.append(_caption(writer.words))
        yield _caption(document.words), tuple(references)


def _caption(words: Sequence[str]) -> str:
    """The words between the picture and the first question or the end."""
    return " ".join(words[1 : next(n for n, word in enumerate(words) if word in (QUESTION_WORD, END))])
