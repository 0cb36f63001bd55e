"""The log-probabilities are exact: by full enumeration of small languages, and by their statistics on samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from scipy.stats import chisquare
from world_reference import Reader

from nmm.data.scene import SceneObject
from nmm.data.words import IMAGE
from nmm.data.world import SOURCES, World, WorldConfig
from nmm.data.writer import Choice, TokenWriter

TINY = WorldConfig(
    seed=3, num_entities=4, name_words=2, num_colours=3, num_places=3, num_foods=3, min_sentences=1, max_sentences=2
)
SMALL = WorldConfig(
    seed=5,
    num_entities=60,
    name_words=9,
    num_colours=4,
    object_counts=(0.25, 0.25, 0.25, 0.25),
    question_kinds=(1, 2, 1, 0.5, 1, 3),
    zipf_exponent=0.7,
)


class ScriptedWriter(TokenWriter):
    """Takes given branches first and the first possible one afterwards, keeping the probability of its path.

    Probabilities come from what the sampler uses (cumulative sums), never from what is charged.
    """

    def __init__(self, script: list[int]) -> None:
        super().__init__([])
        self.script = script
        self.taken: list[int] = []
        self.open: list[list[int]] = []
        self.mass = 1.0

    def _branch(self, cumulative: Sequence[float]) -> int:
        shares = np.diff([0.0, *np.minimum(cumulative, 1.0)])
        possible = [i for i, share in enumerate(shares) if share > 0]
        depth = len(self.taken)
        number = self.script[depth] if depth < len(self.script) else possible[0]
        self.taken.append(number)
        self.open.append(possible)
        self.mass *= shares[number]
        return number

    def pick(self, alternatives: Choice) -> int:
        number = self._branch(alternatives.cumulative)
        self.pending += alternatives.logs[number]
        return number

    def locate(self, cumulative: Sequence[float]) -> int:
        return self._branch(cumulative)


def all_paths(write: Callable[[TokenWriter], object]) -> Iterator[ScriptedWriter]:
    """Every way of making the choices of `write`."""
    stack: list[list[int]] = [[]]
    while stack:
        writer = ScriptedWriter(stack.pop())
        write(writer)
        yield writer
        for depth in range(len(writer.script), len(writer.taken)):
            stack.extend([*writer.taken[:depth], other] for other in writer.open[depth][1:])


def assert_exact(paths: list[tuple[float, ScriptedWriter]]) -> None:
    """Charged log-probabilities equal the conditionals that the enumerated path masses imply."""
    prefixes: dict[tuple[str, ...], float] = defaultdict(float)
    for mass, writer in paths:
        for length in range(len(writer.words) + 1):
            prefixes[tuple(writer.words[:length])] += mass
    assert prefixes[()] == pytest.approx(1.0, abs=1e-12)
    for _, writer in paths:
        assert writer.pending == 0.0
        charged = iter(writer.logprobs)
        for length, word in enumerate(writer.words):
            if word != IMAGE:
                before, after = (prefixes[tuple(writer.words[:n])] for n in (length, length + 1))
                assert next(charged) == pytest.approx(math.log(after / before), abs=1e-9), writer.words[: length + 1]


def things(*looks: tuple[int, int, int]) -> list[SceneObject]:
    return [SceneObject(entity, cell, size, 4) for entity, cell, size in looks]


def caption_config(**changes: object) -> WorldConfig:
    plain = {"full_clause": 1.0, "tails": (0, 0, 1), "count_phrase": 0.0, "question_chain": (1.0,)}
    return WorldConfig.from_dict(TINY.to_dict() | plain | changes)


@pytest.mark.parametrize(
    ("config", "objects"),
    [
        (TINY, things((0, 0, 1))),
        (caption_config(full_clause=0.8, tails=(0.5, 0.2, 0.3), count_phrase=0.3), things((0, 1, 1), (2, 2, 0))),
        (caption_config(question_chain=(0.6, 0.3)), things((0, 0, 1), (1, 1, 1), (2, 2, 0))),
        (caption_config(), things((0, 0, 1), (1, 1, 1), (2, 2, 0), (3, 3, 1))),
        (caption_config(question_kinds=(1, 0, 0, 2, 3, 1)), things((0, 0, 1), (3, 1, 1), (2, 3, 0))),
    ],
)
def test_every_caption_about_a_scene_has_its_exact_probability(config, objects):
    world = World(config)
    paths = [(w.mass, w) for w in all_paths(lambda writer: world.language.caption(writer, objects))]
    assert len(paths) >= 10
    assert_exact(paths)


def test_every_text_document_of_a_tiny_world_has_its_exact_probability():
    world = World(TINY)
    paths = [(w.mass, w) for w in all_paths(world.language.text)]
    assert len(paths) > 500
    assert_exact(paths)


def test_every_interleaved_document_has_its_exact_probability_with_the_number_of_pictures():
    config = caption_config(full_clause=0.8, where_question=0.4, image_numbers=(0.7, 0.3))
    world = World(config)
    pictures = [things((0, 0, 1)), things((1, 0, 0), (0, 3, 1)), things((2, 0, 1))]
    paths = []
    for shown, share in zip((2, 3), config.image_numbers, strict=True):
        writers = all_paths(lambda writer, n=shown: world.language.interleaved(writer, pictures[:n]))
        paths += [(share * writer.mass, writer) for writer in writers]
    assert_exact(paths)


def test_enumeration_would_notice_an_uncharged_choice():
    world = World(TINY)

    def careless(writer: TokenWriter) -> None:
        world.language.text(writer)
        writer.logprobs[-1] = 0.0

    with pytest.raises(AssertionError):
        assert_exact([(w.mass, w) for w in all_paths(careless)])


@pytest.mark.parametrize("source", SOURCES)
def test_mean_inverse_probability_is_the_number_of_continuations(source):
    world = World(SMALL)
    surplus: dict[tuple[str, int], list[float]] = defaultdict(list)
    for document in world.stream(source, "train", 0, 4000, pixels=False):
        steps = Reader(world, document).steps()
        for (context, possible), logprob in zip(steps, document.logprobs, strict=True):
            surplus[context, len(possible)].append(math.exp(-logprob) - len(possible))
    assert len(surplus) > 8
    for (context, branches), values in surplus.items():
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values)) <= (4.5 * error if branches > 1 else 0.0) + 1e-9, (context, branches, len(values))


def test_sampled_branches_follow_the_charged_probabilities():
    world = World(SMALL)
    seen: dict[tuple, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    charged: dict[tuple, dict[str, float]] = defaultdict(dict)
    for source in SOURCES:
        for document in world.stream(source, "val", 0, 3000, pixels=False):
            steps = Reader(world, document).steps()
            text = [word for word in document.words if word != IMAGE]
            before = ""
            for (context, possible), word, logprob in zip(steps, text, document.logprobs, strict=True):
                key = (source, context, frozenset(possible), before if context == "last name" else "")
                before = word
                if context.startswith(("kind", "sentence", "predicate", "last name", "after")):
                    seen[key][word] += 1
                    charged[key][word] = math.exp(logprob)
    tested = 0
    for key, counts in seen.items():
        total = sum(counts.values())
        if len(counts) == len(key[2]) > 1 and min(charged[key].values()) * total > 5:
            expected = [charged[key][word] for word in counts]
            assert sum(expected) == pytest.approx(1.0, abs=1e-9), key
            assert chisquare(list(counts.values()), np.array(expected) * total).pvalue > 1e-5, key
            tested += 1
    assert tested > 10
