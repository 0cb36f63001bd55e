"""Questions whose answer takes several steps: exact log-probabilities, true answers; worlds that do not ask them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_world_exact import TINY, all_paths, assert_exact, caption_config, things

from nmm.data import words
from nmm.data.scene import SceneObject
from nmm.data.world import World, WorldConfig

SCENE = things((0, 0, 1), (3, 1, 1), (2, 3, 0))
ASKING = {"reasoning": 0.3, "reasoning_modulus": 7, "reasoning_fast": 0.6}


def asking(**changes: object) -> World:
    """A world with few ways of saying anything else, so that all can be enumerated."""
    plain = caption_config(question_chain=(0.5,), question_kinds=(1, 1, 0, 0, 0, 0))
    return World(WorldConfig.from_dict(plain.to_dict() | ASKING | changes))


@pytest.mark.parametrize("changes", [{}, {"reasoning": 1.0}, {"reasoning_fast": 1.0}, {"reasoning_fast": 0.0}])
def test_every_caption_has_its_exact_probability(changes):
    world = asking(**changes)
    assert_exact([(w.mass, w) for w in all_paths(lambda writer: world.language.caption(writer, SCENE))])


def test_the_style_is_charged_to_the_word_that_reveals_it():
    told = {}
    for writer in all_paths(lambda writer: asking(reasoning=1.0).language.caption(writer, SCENE)):
        told[writer.words[4]] = dict(zip(writer.words[1:], writer.logprobs, strict=True))
    assert set(told) == {"is", "since"}
    assert told["is"]["is"] == math.log(0.6) and told["since"]["since"] == pytest.approx(math.log(0.4))
    for words_of in told.values():  # of a whole caption nothing else is uncertain
        assert sum(value != 0.0 for value in words_of.values()) == 1


def check_steps(told: list[str], numbers: list[int], modulus: int, objects: list[SceneObject]) -> None:
    """Place, number and running sum, object by object."""
    names = words.numbers(modulus)
    running = 0
    for at, (thing, number) in enumerate(zip(objects, numbers, strict=True)):
        running = (running + number) % modulus
        assert told[3 * at : 3 * at + 3] == [words.LOCATIONS[thing.cell], names[number], names[running]]


@pytest.mark.parametrize("shapes", [False, True])
def test_answers_and_steps_follow_from_the_scene(shapes):
    world = asking(reasoning=1.0, reasoning_modulus=3, reasoning_shapes=shapes)
    catalogue, seen = world.catalogue, set()
    for document in world.stream("caption", "train", 0, 400, pixels=False):
        objects = document.scene[0]
        codes = catalogue.shape if shapes else catalogue.colour
        numbers = [int(codes[thing.entity]) % 3 for thing in objects]
        answer = words.numbers(3)[sum(numbers) % 3]
        style, last = document.words[4], document.words[-2]
        assert document.words[:4] == ["<image>", "Q", "sum", "A"] and last == answer
        assert [question.answer for question in document.questions] == [answer]
        if style == "since":
            assert document.words[-3] == "is"
            check_steps(document.words[5:-3], numbers, 3, objects)
        else:
            assert document.words[4:] == ["is", answer, "<end>"]
        assert document.classes == "g" * (len(document.classes) - 2) + "ag"
        seen.add(style)
    assert seen == {"is", "since"}


def test_styles_and_questions_come_as_often_as_charged():
    world = asking(reasoning=0.5)
    documents = world.documents("caption", "train", 0, 3000, pixels=False)
    asked = [document for document in documents if document.words[1] == "Q"]
    fast = sum(document.words[4] == "is" for document in asked)
    assert abs(len(asked) - 1500) < 4 * math.sqrt(750)
    assert abs(fast - 0.6 * len(asked)) < 4 * math.sqrt(0.24 * len(asked))
    entropy = -np.mean([document.logprobs[:5].sum() for document in asked])
    expected = math.log(2) - 0.6 * math.log(0.6) - 0.4 * math.log(0.4)
    assert entropy == pytest.approx(expected, abs=0.02)


def test_worlds_that_do_not_ask_are_the_same_as_ever():
    plain = World(TINY)
    assert not any(name.startswith("reasoning") for name in TINY.to_dict())
    assert "since" not in plain.vocabulary() and "sum" not in plain.vocabulary()
    unused = World(WorldConfig.from_dict(TINY.to_dict() | {"reasoning_modulus": 12, "reasoning_fast": 0.1}))
    for one, two in zip(
        plain.documents("caption", "train", 0, 50), unused.documents("caption", "train", 0, 50), strict=True
    ):
        assert one.text == two.text and one.logprobs.tolist() == two.logprobs.tolist()
    assert World(WorldConfig()).config.to_dict() == {
        key: value for key, value in WorldConfig().to_dict().items() if not key.startswith("reasoning")
    }


def test_new_words_join_the_vocabulary_at_its_end():
    plain = World(TINY).vocabulary()
    more = asking(reasoning_modulus=12).vocabulary()
    assert more[: len(plain)] == plain
    assert more[len(plain) :] == ["sum", "since", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    assert len(set(more)) == len(more)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("reasoning", 1.5, "0..1"), ("reasoning_fast", -0.1, "0..1"), ("reasoning_modulus", 17, "2..16")],
)
def test_impossible_numbers_are_refused(field, value, said):
    with pytest.raises(ValueError, match=f"world.{field}={value}.*{said}"):
        WorldConfig.from_dict({field: value})
