"""What a tuned model is asked, against the documents the tiny world says it holds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmm.batch import IMAGE_ID
from nmm.data.images import patchify
from nmm.data.manifest import Shards, open_shards
from nmm.data.sft_exam import REFERENCES, Question, pictures, questions, retell
from nmm.data.world import Document, World, WorldConfig

SOURCES = ("caption", "interleaved")
WIDTH, PATCH, M = 128, 8, 16
ALL = 10_000


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Shards:
    return open_shards(tiny_shards)


@pytest.fixture(scope="module")
def world(shards: Shards) -> World:
    return World(WorldConfig.from_dict(shards.manifest["world"]))


def val(shards: Shards, world: World, source: str) -> list[Document]:
    return world.documents(source, "val", 0, shards.split(source, "val").samples)


def asked_by(shards: Shards, document: Document, width: int) -> list[tuple[Any, ...]]:
    """(kind, prompt, answer, patches) of every question of a document, told by its words."""
    result = []
    marks = [n for n, word in enumerate(document.words) if word == "A"]
    for mark, question in zip(marks, document.questions, strict=True):
        text = " ".join(document.words[: mark + 1])
        assert text.endswith(f"Q {question.question} A")
        tokens = [i for i in shards.tokenizer.encode(text) for _ in range(M if i == IMAGE_ID else 1)]
        answer = shards.tokenizer.encode(question.answer)
        if len(tokens) + len(answer) <= width:
            shown = patchify(document.images[: text.split().count("<image>")], PATCH)
            result.append((question.kind, tokens, tuple(answer), shown))
    return result


def same(question: Question, expected: tuple[Any, ...]) -> bool:
    kind, tokens, answer, shown = expected
    facts = (question.kind, question.tokens, question.answer) == (kind, tokens, answer)
    return facts and np.array_equal(question.patches, shown)


@pytest.mark.parametrize("width", [WIDTH, 40])
def test_questions_are_those_of_the_documents(shards: Shards, world: World, width: int) -> None:
    expected = [q for s in SOURCES for d in val(shards, world, s) for q in asked_by(shards, d, width)]
    found = questions(shards, SOURCES, "val", ALL, width, PATCH)
    assert len(found) == len(expected) > 20
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert ("where" in {q.kind for q in found}) == (width == WIDTH)


def test_the_first_of_every_kind(shards: Shards) -> None:
    every, some = (questions(shards, SOURCES, "val", count, WIDTH, PATCH) for count in (ALL, 5))
    numbers = Counter(question.kind for question in every)
    assert Counter(question.kind for question in some) == {kind: min(5, n) for kind, n in numbers.items()}
    for kind in numbers:
        first = [q.tokens for q in every if q.kind == kind][:5]
        assert [q.tokens for q in some if q.kind == kind] == first


def test_no_question_is_an_error(shards: Shards) -> None:
    with pytest.raises(ValueError, match=r"text val .* ask nothing within context_length=128"):
        questions(shards, ["text"], "val", 5, WIDTH, PATCH)


def test_pictures_are_the_captions(shards: Shards, world: World) -> None:
    documents = val(shards, world, "caption")
    found = pictures(shards, "val", 25, WIDTH, PATCH)
    assert len(found) == 25
    for picture, document in zip(found, documents, strict=False):
        caption = document.text.removeprefix("<image> ").split(" Q ")[0].removesuffix(" <end>")
        assert picture.told == caption
        assert picture.tokens == [IMAGE_ID] * M
        assert np.array_equal(picture.patches, patchify(document.images[:1], PATCH))
    assert len(pictures(shards, "val", ALL, WIDTH, PATCH)) == len(documents)


def test_captions_longer_than_a_row_are_left_out(shards: Shards) -> None:
    lengths = {len(p.told.split()) for p in pictures(shards, "val", ALL, WIDTH, PATCH)}
    width = M + sorted(lengths)[len(lengths) // 2]
    kept = {len(p.told.split()) for p in pictures(shards, "val", ALL, width, PATCH)}
    assert kept == {length for length in lengths if M + length < width}


def test_references_tell_the_same_scene_otherwise(shards: Shards, world: World) -> None:
    documents = val(shards, world, "caption")
    found = pictures(shards, "val", 25, WIDTH, PATCH)
    for picture, document in zip(found, documents, strict=False):
        assert len(picture.references) == REFERENCES
        names = [" ".join(world.catalogue.names[thing.entity]) for thing in document.scene[0]]
        for reference in picture.references:
            assert all(name in reference for name in names)
            assert reference.endswith(".") and "Q" not in reference.split()
            assert reference.count(" , ") == len(names) - 1
    different = [len({picture.told, *picture.references}) for picture in found]
    assert np.mean(different) > 3, "draws differ"
    assert [p.references for p in found] == [p.references for p in pictures(shards, "val", 25, WIDTH, PATCH)]


def test_retelling_knows_no_chunks(world: World) -> None:
    whole = list(retell(world, "val", 0, 12, 3))
    assert whole == [*retell(world, "val", 0, 5, 3), *retell(world, "val", 5, 7, 3)]
    assert len({references for _, references in whole}) > 6, "every document has draws of its own"


def test_shards_of_another_world_are_refused(shards: Shards) -> None:
    another = {**shards.manifest, "world": {**shards.manifest["world"], "seed": 5}}
    with pytest.raises(ValueError, match="another version of the world"):
        pictures(dataclasses.replace(shards, manifest=another), "val", 25, WIDTH, PATCH)


def test_other_shards_have_their_own_captions_as_references(shards: Shards) -> None:
    foreign = dataclasses.replace(shards, manifest={**shards.manifest, "kind": "photos"})
    assert all(p.references == (p.told,) for p in pictures(foreign, "val", 25, WIDTH, PATCH))
