"""Documents: the same whatever the chunking, true to the scene, with the promised popularity and vocabulary."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from world_reference import Reader, digest

from nmm.data import words, world
from nmm.data.catalogue import build_catalogue, zipf_mandelbrot
from nmm.data.counter_rng import CounterStream
from nmm.data.world import SOURCES, SPLITS, Document, World, WorldConfig

CLASSES = set("cszlnfag")


@pytest.fixture(scope="module")
def big_world() -> World:
    return World(WorldConfig())


@pytest.mark.parametrize("source", SOURCES)
def test_chunking_changes_nothing(big_world, source, monkeypatch):
    whole = digest(big_world.documents(source, "val", 40, 60))
    pieces = big_world.documents(source, "val", 40, 1) + big_world.documents(source, "val", 41, 59)
    assert digest(pieces) == whole
    monkeypatch.setattr(world, "CHUNK", 7)
    assert digest(big_world.documents(source, "val", 40, 60)) == whole
    assert digest(World(WorldConfig(seed=1)).documents(source, "val", 40, 60)) != whole


def test_another_process_makes_the_same_documents(big_world):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import world_reference as r; from nmm.data.world import SOURCES, WorldConfig\n"
        "w = r.World(WorldConfig()); print(r.digest([d for s in SOURCES for d in w.documents(s, 'test', 5, 9)]))\n"
    )
    command = [sys.executable, "-c", code, *(path for path in sys.path if path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == digest([d for source in SOURCES for d in big_world.documents(source, "test", 5, 9)])


def test_the_world_needs_no_torch():
    code = "import sys; import nmm.data.shards, nmm.data.sheet; print('torch' in sys.modules)"
    environment_path = "import sys; sys.path[:0] = sys.argv[1:];"
    command = [sys.executable, "-c", environment_path + code, *(path for path in sys.path if path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_splits_share_no_document(big_world):
    texts = {split: {d.text for d in big_world.documents("interleaved", split, 0, 200)} for split in SPLITS}
    assert all(len(found) > 190 for found in texts.values())
    assert not texts["train"] & texts["val"] and not texts["train"] & texts["test"] and not texts["val"] & texts["test"]


@pytest.mark.parametrize("source", SOURCES)
def test_documents_have_the_promised_shape(big_world, source):
    vocabulary = set(big_world.vocabulary())
    for document in big_world.documents(source, "train", 0, 300):
        num_images = document.words.count(words.IMAGE)
        num_text = len(document.words) - num_images
        assert num_images == {"caption": 1, "text": 0}.get(source, len(document.scene)) == len(document.scene)
        assert document.images.shape == (num_images, 32, 32, 3) and document.images.dtype == np.uint8
        assert document.logprobs.shape == (num_text,) and document.logprobs.dtype == np.float64
        assert len(document.classes) == num_text and set(document.classes) <= CLASSES
        assert (document.logprobs <= 0).all() and np.isfinite(document.logprobs).all()
        assert document.words[-1] == words.END and document.words.count(words.END) == 1
        assert set(document.words) <= vocabulary


@pytest.mark.parametrize("source", SOURCES)
def test_every_word_follows_from_the_scene_and_every_answer_is_true(source):
    village = World(WorldConfig(num_entities=900, name_words=40))
    kinds: Counter[str] = Counter()
    for document in village.documents(source, "val", 0, 1200, pixels=False):
        contexts = [context for context, _ in Reader(village, document).steps()]
        answers = [w for w, c in zip(text_words(document), document.classes, strict=True) if c == "a"]
        assert answers == " ".join(q.answer for q in document.questions).split()
        assert [c == "answer" for c in contexts] == [c == "a" for c in document.classes]
        kinds.update(q.kind for q in document.questions)
    expected = {"caption": {"count", "colour", "left", "after", "same", "odd"}, "interleaved": {"where"}, "text": set()}
    assert set(kinds) == expected[source]


def text_words(document: Document) -> list[str]:
    return [word for word in document.words if word != words.IMAGE]


def test_yes_and_no_are_both_worth_asking(big_world):
    answers: dict[str, Counter[str]] = {"left": Counter(), "same": Counter(), "odd": Counter()}
    for document in big_world.stream("caption", "train", 0, 6000, pixels=False):
        for question in document.questions:
            if question.kind in answers:
                answers[question.kind][question.answer] += 1
    for counts in (answers["left"], answers["same"]):
        assert set(counts) == {"yes", "no"} and min(counts.values()) > 0.08 * sum(counts.values())
    assert len(answers["odd"]) == 4


def test_popularity_is_zipf_mandelbrot(big_world):
    config = big_world.config
    ranks = np.arange(1, config.num_entities + 1)
    expected = (ranks + config.zipf_shift) ** -config.zipf_exponent
    expected /= expected.sum()
    np.testing.assert_allclose(big_world.catalogue.popularity, expected, rtol=1e-12)
    text = [d.subjects[0] for d in big_world.stream("text", "train", 0, 8000, pixels=False)]
    lone = [
        d.scene[0][0].entity
        for d in big_world.stream("caption", "train", 0, 12_000, pixels=False)
        if len(d.scene[0]) == 1
    ]
    edges = [0, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000, config.num_entities]
    shares = np.add.reduceat(expected, edges[:-1])
    for drawn in (text, lone):
        counts, _ = np.histogram(drawn, bins=edges)
        assert chisquare(counts, shares * len(drawn)).pvalue > 1e-4


def test_scene_frequencies_follow_the_config(big_world):
    scenes = [d.scene for d in big_world.stream("interleaved", "train", 0, 4000, pixels=False)]
    sizes = np.bincount([len(scene[0]) for scene in scenes], minlength=5)[1:]
    assert chisquare(sizes, np.array(big_world.config.object_counts) * len(scenes)).pvalue > 1e-4
    numbers = np.bincount([len(scene) - 2 for scene in scenes], minlength=2)
    assert chisquare(numbers, np.array(big_world.config.image_numbers) * len(scenes)).pvalue > 1e-4
    again = [any(o.entity == p.entity for p in scene[0]) for scene in scenes for o in scene[1]]
    assert 0.4 < np.mean(again) < 0.6


def test_very_steep_popularity_still_gives_distinct_entities():
    steep = World(WorldConfig(num_entities=4, name_words=2, zipf_exponent=60, zipf_shift=0, object_counts=(0, 0, 0, 1)))
    for document in steep.documents("caption", "train", 0, 5):
        assert sorted(o.entity for o in document.scene[0]) == [0, 1, 2, 3]


def test_catalogue_looks_and_names_are_unique():
    catalogue = build_catalogue(WorldConfig(seed=9))
    looks = np.stack([catalogue.shape, catalogue.colour, catalogue.badge, catalogue.pattern])
    assert len(np.unique(looks, axis=1).T) == 10_000 == len(set(catalogue.names))
    assert (catalogue.colour != catalogue.badge).all() and (catalogue.foods[:, 0] != catalogue.foods[:, 1]).all()
    assert (catalogue.friend != np.arange(10_000)).all()
    assert catalogue.pattern.min() == 1 and catalogue.pattern.max() == 15
    assert zipf_mandelbrot(3, 1.0, 0.0) == pytest.approx(np.array([6, 3, 2]) / 11)


def test_vocabulary_is_small_and_without_repeats():
    for config in (WorldConfig(), WorldConfig(num_colours=14, name_words=words.MAX_NAME_WORDS)):
        vocabulary = World(config).vocabulary()
        assert vocabulary[:3] == ["<pad>", "<image>", "<end>"] and len(set(vocabulary)) == len(vocabulary)
    assert len(World(WorldConfig()).vocabulary()) < 350


def test_counter_stream_is_pinned_uniform_and_addressed_by_index():
    stream = CounterStream(7, "a", "b")
    assert stream.bits(np.array([0, 123_456_789_012]), np.array([0, 5])).tolist() == PINNED_BITS
    unit = stream.uniform(np.arange(500), 0, 40)
    np.testing.assert_array_equal(stream.uniform(np.array([17, 3]), 10, 5), unit[[17, 3], 10:15])
    counts, _ = np.histogram(unit, bins=50, range=(0, 1))
    assert chisquare(counts).pvalue > 1e-4 and unit.min() >= 0 and unit.max() < 1
    assert abs(np.corrcoef(unit[:-1].ravel(), unit[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(unit[:, :-1].ravel(), unit[:, 1:].ravel())[0, 1]) < 0.03
    assert not np.array_equal(CounterStream(7, "a", "c").uniform(np.arange(5), 0, 1), unit[:5, :1])
    assert sorted(stream.permutation(100).tolist()) == list(range(100))


PINNED_BITS = [[1541370373044393336, 2288101233917282010], [539801995750465186, 12262710644004748537]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_entities": 20_000}, "raise the smaller of the two"),
        ({"object_counts": (0.5, 0.5, 0.5, 0)}, "sum to 1"),
        ({"object_counts": (0.5, 0.5)}, "4 non-negative numbers"),
        ({"noise": 40}, "overlap"),
        ({"image_size": 40}, "multiple of 16"),
        ({"stop": 1.5}, "world.stop=1.5 must lie in 0..1"),
        ({"stop": "often"}, "world.stop='often' must be a number"),
        ({"lone_object_fills": 1}, "true or false"),
        ({"num_places": 2.5}, "whole number"),
        ({"min_sentences": 5, "max_sentences": 3}, "min_sentences <= max_sentences"),
        ({"question_kinds": (0, 0, 1, 1, 1, 1)}, "first two"),
        ({"question_chain": (0.5, 2.0)}, "question_chain"),
        ({"zipf_shift": -1}, "zipf_shift"),
        ({"colors": 3}, "unknown world field"),
    ],
)
def test_impossible_worlds_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig.from_dict(changes)


def test_config_survives_json_types():
    assert WorldConfig.from_dict(WorldConfig(seed=4).to_dict()) == WorldConfig(seed=4)
    assert WorldConfig(zipf_shift=5, object_counts=[1, 0, 0, 0]) == WorldConfig(object_counts=(1.0, 0.0, 0.0, 0.0))


def test_unknown_source_and_negative_range_are_refused(big_world):
    with pytest.raises(ValueError, match="unknown source 'video'; allowed: caption"):
        big_world.documents("video", "train", 0, 1)
    with pytest.raises(ValueError, match="must not be negative"):
        big_world.documents("text", "train", -1, 1)
