"""Noise of training captions: exact where it claims to be, labelled, equal in any chunk, only where it belongs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_world_exact import all_paths, assert_exact, caption_config, things

from nmm.data import words
from nmm.data.derived import samples_of
from nmm.data.manifest import open_shards
from nmm.data.noise import KINDS
from nmm.data.shards import write_shards
from nmm.data.world import World, WorldConfig
from nmm.data.world_config import ADDED

NOISY = WorldConfig(
    num_entities=40, name_words=8, num_colours=4, serial=0.5, serial_words=8, wrong=0.3, boilerplate=0.1, repeated=0.1,
    repeated_samples=3,
)  # fmt: skip
CLEAN = WorldConfig(num_entities=40, name_words=8, num_colours=4)


def test_fields_that_are_not_used_leave_no_trace() -> None:
    """A world keeps its fingerprint and its vocabulary when younger fields stand at their defaults."""
    assert not set(CLEAN.to_dict()) & set(ADDED)
    assert WorldConfig(serial_words=12).to_dict()["serial_words"] == 12
    assert WorldConfig.from_dict(NOISY.to_dict()) == NOISY
    before, after = World(CLEAN).vocabulary(), World(NOISY).vocabulary()
    assert after[: len(before)] == before
    assert after[len(before)] == words.SERIAL
    assert len(set(after)) == len(after)


@pytest.mark.parametrize("field", ["serial", "wrong", "boilerplate", "repeated"])
def test_a_probability_outside_zero_to_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"world\.{field}=1\.5 must lie in 0\.\.1"):
        WorldConfig.from_dict({field: 1.5})


def test_limits_are_named() -> None:
    with pytest.raises(ValueError, match=r"world\.serial_longest=17 must lie in 1\.\.16"):
        WorldConfig(serial_longest=17)
    with pytest.raises(ValueError, match=r"world\.tail_rank=41 must lie in 0\.\.40"):
        WorldConfig(num_entities=40, tail_rank=41)


@pytest.mark.parametrize("serial, boilerplate", [(0.4, 0.0), (0.0, 0.25), (0.6, 0.1), (1.0, 0.0)])
def test_serial_numbers_and_fixed_texts_have_their_exact_probability(serial: float, boilerplate: float) -> None:
    """By enumeration: the kind is drawn outside of the words, each of which is charged with what reveals it."""
    config = caption_config(
        question_chain=(0.3,), serial=serial, serial_longest=3, serial_words=2, boilerplate=boilerplate, wrong=0.0
    )
    world, objects = World(config), things((0, 0, 1))
    paths = []
    for flag, share in ((True, serial), (False, 1 - serial)):
        for writer in (
            all_paths(lambda writer, flag=flag: world.language.caption(writer, objects, flag)) if share else ()
        ):
            paths.append(((1 - boilerplate) * share * writer.mass, writer))
    if boilerplate:
        paths += [(boilerplate * writer.mass, writer) for writer in all_paths(world.language.boilerplate)]
    assert_exact(paths)
    if serial:
        lengths = Counter(writer.words.count("000") + writer.words.count("001") for _, writer in paths)
        assert set(lengths) - {0} == {1, 2, 3}


def test_log_probabilities_are_exact_or_unknown() -> None:
    known = World(WorldConfig.from_dict(NOISY.to_dict() | {"wrong": 0.0, "repeated": 0.0}))
    for document in known.documents("caption", "train", 0, 60, pixels=False):
        assert np.isfinite(document.logprobs).all()
    for document in World(NOISY).documents("caption", "train", 0, 60, pixels=False):
        assert np.isnan(document.logprobs).all()


@pytest.mark.parametrize(
    "source, split", [("caption", "val"), ("caption", "test"), ("interleaved", "train"), ("text", "train")]
)
def test_everything_else_stays_clean(source: str, split: str) -> None:
    clean, noisy = (World(c).documents(source, split, 3, 20) for c in (CLEAN, NOISY))
    for one, other in zip(clean, noisy, strict=True):
        assert (one.words, one.classes, other.noise) == (other.words, other.classes, None)
        assert np.array_equal(one.logprobs, other.logprobs)
        assert np.array_equal(one.images, other.images)


def test_noise_does_not_depend_on_chunks() -> None:
    world = World(NOISY)
    whole = world.documents("caption", "train", 0, 40)
    apart = [d for start in range(0, 40, 7) for d in world.documents("caption", "train", start, min(7, 40 - start))]
    for one, other in zip(whole, apart, strict=True):
        assert (one.words, one.noise, one.scene) == (other.words, other.noise, other.scene)
        assert np.array_equal(one.images, other.images)


def test_labels_tell_the_truth() -> None:
    """What a label says can be seen in the document, and what has none is what the clean world tells."""
    count, seen = 1500, Counter[str]()
    clean, noisy = (World(c).documents("caption", "train", 0, count, pixels=False) for c in (CLEAN, NOISY))
    fixed = {" ".join((words.IMAGE, *text, words.END)) for text in words.BOILERPLATE[: NOISY.boilerplate_texts]}
    names = World(NOISY).catalogue.names
    for plain, document in zip(clean, noisy, strict=True):
        labels = set(document.noise or ())
        seen.update(labels or {"clean"})
        assert ("serial" in labels) == (words.SERIAL in document.words)
        assert ("boilerplate" in labels) == (document.text in fixed)
        shown = {" ".join(names[thing.entity]) for thing in document.scene[0]}
        told = {" ".join(pair) for pair in names if " ".join(pair) in document.text}
        if not labels & {"wrong", "boilerplate"}:
            assert told == shown
        if not labels:
            assert (document.words, document.scene) == (plain.words, plain.scene)
    expected = {
        "serial": 0.9 * 0.5,
        "wrong": 0.9 * 0.3,
        "boilerplate": 0.1,
        "repeated": 0.1,
        "clean": 0.9 * 0.9 * 0.5 * 0.7,
    }
    assert set(seen) == set(expected)
    for kind, share in expected.items():
        # labels of repeated samples come in lumps, so they are counted with some room
        assert seen[kind] / count == pytest.approx(share, abs=0.1), kind


def test_a_wrong_caption_names_something_that_is_not_there() -> None:
    config = WorldConfig(num_entities=4, name_words=2, num_colours=3, wrong=1.0, object_counts=(1, 0, 0, 0))
    names = World(config).catalogue.names
    for document in World(config).documents("caption", "train", 0, 100, pixels=False):
        assert document.noise == ("wrong",)
        assert " ".join(names[document.scene[0][0].entity]) not in document.text


@pytest.mark.parametrize("field", ["wrong", "repeated"])
def test_a_probability_that_is_not_exact_is_not_told(field: str) -> None:
    """The picture of a fixed sample gives its caption away: nobody knows what is left of its entropy."""
    (document,) = World(WorldConfig.from_dict({field: 0.5})).documents("caption", "train", 0, 1)
    assert np.isnan(document.logprobs).all()
    (clean,) = World(WorldConfig.from_dict({field: 0.5})).documents("caption", "val", 0, 1)
    assert np.isfinite(clean.logprobs).all()


def test_repeated_samples_are_few_and_whole() -> None:
    documents = World(NOISY).documents("caption", "train", 0, 400)
    repeated = [d for d in documents if d.noise is not None and "repeated" in d.noise]
    assert 20 < len(repeated) < 60
    assert len({(d.text, d.images.tobytes()) for d in repeated}) == NOISY.repeated_samples


def test_a_rendered_folder_says_what_it_knows(tmp_path: Path) -> None:
    samples = {"caption": {"train": 60, "val": 20}}
    write_shards(NOISY, tmp_path / "noisy", samples, progress=False)
    shards = open_shards(tmp_path / "noisy", verify=True)
    assert shards.split("caption", "train").entropy is None
    assert shards.split("caption", "val").entropy is not None
    found = [sample.facts for info in shards.split("caption", "train").shards for sample in samples_of(shards, info)]
    labels = [document.noise for document in World(NOISY).documents("caption", "train", 0, 60, pixels=False)]
    assert [tuple(one["noise"]) for one in found] == labels
    assert all(set(one["noise"]) <= set(KINDS) and "logprobs" not in one for one in found)
    held_out = [sample.facts for info in shards.split("caption", "val").shards for sample in samples_of(shards, info)]
    assert all("noise" not in one and "logprobs" in one for one in held_out)


def test_rare_entities_have_capital_letters() -> None:
    world = World(WorldConfig.from_dict(CLEAN.to_dict() | {"tail_rank": 10, "full_clause": 1.0}))
    for plain, marked in zip(
        World(WorldConfig.from_dict(CLEAN.to_dict() | {"full_clause": 1.0})).documents("caption", "val", 0, 50, False),
        world.documents("caption", "val", 0, 50, False),
        strict=True,
    ):
        assert plain.words == marked.words
        assert marked.classes.lower() == plain.classes
        clauses = [letter for letter in marked.classes if letter in "cC"]
        ranks = [thing.entity for thing in marked.scene[0]]
        assert [letter == "C" for letter in clauses[: len(ranks)]] == [rank >= 10 for rank in ranks]


def test_training_documents_can_begin_later(tmp_path: Path) -> None:
    samples = {"caption": {"train": 20, "val": 10}}
    later = write_shards(CLEAN, tmp_path / "later", samples, progress=False, first_sample=500)
    first = write_shards(CLEAN, tmp_path / "first", samples, progress=False)
    keys = [
        s.key
        for s in samples_of(
            open_shards(tmp_path / "later"), open_shards(tmp_path / "later").split("caption", "train").shards[0]
        )
    ]
    assert keys == [f"caption-train-{n:09d}" for n in range(500, 520)]
    assert later["sources"]["caption"]["val"] == first["sources"]["caption"]["val"]
    assert later["fingerprint"] != first["fingerprint"]
    assert json.loads((tmp_path / "later" / "plan.json").read_text())["first_sample"] == 500
    assert "first_sample" not in json.loads((tmp_path / "first" / "plan.json").read_text())
