"""Labels of pictures: fixed, independent of the truth, or leaking exactly what is known; and the rows they stand in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nmm.batch import IMAGE_ID
from nmm.data.counter_rng import CounterStream
from nmm.data.decoded import open_decoded
from nmm.data.images import patchify
from nmm.data.labels import Labels, draw_labels, make_labels, num_classes, true_classes
from nmm.data.manifest import open_shards
from nmm.data.source import RowSource
from nmm.data.world import World, WorldConfig
from nmm.groups import Stage

STAGE = Stage(name="bridge")
CLASSES = 8
IDS = CounterStream(0, "ids").bits(np.arange(40_000), np.zeros(1, np.int64))[:, 0]
TRUTH = CounterStream(0, "truth").integers(len(IDS), CLASSES)


def drawn(rule: str, seed: int = 0) -> np.ndarray:
    return draw_labels(rule, IDS, TRUTH, CLASSES, seed)


def counts(labels: np.ndarray) -> np.ndarray:
    """(C, C) pictures by true class and label."""
    table = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(table, (TRUTH, labels), 1)
    return table


def test_random_labels_are_uniform_and_independent_of_the_truth() -> None:
    table = counts(drawn("random"))
    assert stats.chi2_contingency(table).pvalue > 0.01
    assert stats.chisquare(table.sum(axis=0)).pvalue > 0.01
    assert stats.chi2_contingency(counts(drawn("not_true"))).pvalue < 1e-100


def test_labels_are_fixed_by_seed_and_sample() -> None:
    assert (drawn("random") == drawn("random")).all()
    part = np.arange(100, 200)
    assert (draw_labels("random", IDS[part], TRUTH[part], CLASSES, 0) == drawn("random")[part]).all()
    assert abs((drawn("random", 1) == drawn("random", 0)).mean() - 1 / CLASSES) < 0.01
    assert (drawn("truth") == TRUTH).all()


@pytest.mark.parametrize(("rule", "expected"), [("random", 0.0), ("not_true", math.log(CLASSES / (CLASSES - 1)))])
def test_what_the_labels_tell_about_the_truth(rule: str, expected: float) -> None:
    """Who knows the truth gains log(C / (C - 1)) nats a label if it is never the true one, and nothing if it may be.

    The gain of label frequencies by true class, learned on one half, over those without it, on the other half.
    """
    labels, half = drawn(rule), len(IDS) // 2
    known = np.zeros((CLASSES, CLASSES)) + 1e-9
    np.add.at(known, (TRUTH[:half], labels[:half]), 1.0)
    blind = known.sum(axis=0) / known.sum()
    known /= known.sum(axis=1, keepdims=True)
    gains = np.log(known[TRUTH[half:], labels[half:]] / blind[labels[half:]])
    assert gains.mean() == pytest.approx(expected, abs=0.006)
    if rule == "not_true":
        assert not (
            labels == TRUTH
        ).any()  # so the best prediction, 1 / (C - 1) on the others, costs log(C - 1) exactly


def test_true_classes_are_what_the_captions_say(tiny_shards: Path) -> None:
    shards = open_shards(tiny_shards)
    (shard,) = open_decoded(shards, "caption", "val", 8)
    words, tokens = shards.tokenizer.words, shard.positions["token"]
    for kind, letter in (("shape", "s"), ("colour", "c")):
        ids, truth, number = true_classes(shards, "val", kind)
        assert number == num_classes(shards.manifest["world"], kind)
        said: dict[int, set[str]] = {}
        for sample in shard.samples[np.isin(shard.samples["id"], ids)]:
            inside = slice(sample["start"], sample["start"] + sample["length"])
            named = tokens[inside][shard.positions["letter"][inside] == ord(letter)]
            assert len(named) <= 1, "one object, named at most once"
            for token in named:
                said.setdefault(int(truth[ids == sample["id"]][0]), set()).add(words[token])
        assert len(said) > 3 and all(len(names) == 1 for names in said.values())
        assert len({name for names in said.values() for name in names}) == len(said)
    assert num_classes(shards.manifest["world"], "both") == CLASSES * shards.manifest["world"]["num_colours"]


def rows(tiny_shards: Path, split: str = "train", once: bool = False, **fields: Any) -> RowSource:
    stage = dataclasses.replace(STAGE, **fields)
    return RowSource(
        open_shards(tiny_shards), {"caption": 1.0}, 100, 8, 3, split, once_in_order=once, stage="bridge", bridge=stage
    )


def test_a_row_is_whole_pictures_with_a_label_at_the_last_patch(tiny_shards: Path) -> None:
    source = rows(tiny_shards)
    batch = source.rows_at(0, 40)
    assert source.labels is not None
    label = dict(zip(source.labels.ids.tolist(), source.labels.label.tolist(), strict=True))
    seen = 0
    for row in range(40):
        for number, document in enumerate(source.documents(row)):
            at = np.flatnonzero(batch.document[row] == number)
            assert len(at) == 16 and (batch.tokens[row, at] == IMAGE_ID).all()
            assert batch.weights[row, at].tolist() == [0.0] * 15 + [1.0]
            assert batch.targets[row, at[-1]] == label[int(document["id"])]
            seen += 1
    assert seen == batch.weights.sum() == len(batch.patches) > 200
    found = source.counts(40)["caption"]
    assert (found["targets"], found["image_tokens"], found["text_tokens"]) == (seen, 16 * seen, 0)
    assert rows(tiny_shards, objective="next_patch").rows_at(0, 4).weights.sum() == 15 * (4 * 6)


def test_a_budget_of_labels_is_drawn_by_seed_and_nested(tiny_shards: Path) -> None:
    shards = open_shards(tiny_shards)

    def chosen(number: int, seed: int = 0) -> set[int]:
        return set(make_labels(shards, "train", dataclasses.replace(STAGE, labelled=number), 16, seed).ids.tolist())

    assert len(chosen(50)) == 50 and chosen(20) < chosen(50) < chosen(0)
    assert chosen(20, seed=1) != chosen(20)
    few = rows(tiny_shards, labelled=20)
    assert few.counts(60)["caption"]["unique_samples"] == 20
    assert len(make_labels(shards, "val", dataclasses.replace(STAGE, labelled=5), 16, 0).ids) > 20, "of training only"
    with pytest.raises(ValueError, match=r"stage.labelled=999, but caption train in .* has \d+ pictures of one object"):
        chosen(999)


def test_shifted_pictures_are_rolled_and_anew_at_every_delivery(tiny_shards: Path) -> None:
    moved, still = rows(tiny_shards, shift=2), rows(tiny_shards)
    first, plain = moved.rows_at(0, 40), still.rows_at(0, 40)
    assert (first.row_ids == plain.row_ids).all() and (first.targets == plain.targets).all()
    assert (
        np.sort(first.patches.reshape(len(plain.patches), -1)) == np.sort(plain.patches.reshape(len(plain.patches), -1))
    ).all()
    changed = (first.patches != plain.patches).any(axis=(1, 2)).mean()
    assert 0.85 < changed < 1.0, "1 in 25 stays where it is"
    assert (moved.rows_at(7, 3).patches == first.patches[_images(first, 7) : _images(first, 10)]).all()
    assert (
        rows(tiny_shards, "val", shift=2).rows_at(0, 4).patches == rows(tiny_shards, "val").rows_at(0, 4).patches
    ).all()


def _images(batch: Any, row: int) -> int:
    """Images before a row."""
    return int((batch.patch_at[:, 0] < row * batch.tokens.shape[1]).sum())


def test_a_roll_is_a_roll() -> None:
    pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    labels = Labels(IDS[:1], TRUTH[:1], TRUTH[:1], 4, 1, 3, 0)
    unit = CounterStream(0, "bridge", "shift").uniform(np.array([5, 6]), 0, 2)
    steps = (unit * 7).astype(int) - 3
    expected = [np.roll(image, tuple(step), axis=(0, 1)) for image, step in zip(pixels, steps, strict=True)]
    found = labels.shifted(patchify(pixels, 4).reshape(2, 4, 48), np.array([5, 6]))
    assert (found == patchify(np.array(expected), 4).reshape(2, 4, 48)).all()


def test_other_shards_are_refused(tiny_shards: Path) -> None:
    shards = open_shards(tiny_shards)
    for change in ({"kind": "glyphs"}, {"derived": {}}):
        other = dataclasses.replace(shards, manifest={**shards.manifest, **change})
        with pytest.raises(ValueError, match="stage=bridge needs the true classes"):
            make_labels(other, "train", STAGE, 16, 0)


def test_first_pictures_are_those_of_the_documents_even_where_captions_are_noise() -> None:
    world = World(WorldConfig(num_entities=40, name_words=8, wrong=0.5, boilerplate=0.3, repeated=0.3))
    for split in ("train", "val"):
        told = [tuple(document.scene[0]) for document in world.stream("caption", split, 5, 40, pixels=False)]
        pictures = world.first_pictures("caption", split, np.arange(5, 45))
        assert [tuple(objects) for objects in pictures.objects()] == told
