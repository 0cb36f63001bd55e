"""Rows of indexed sources against the documents that were written, and what rows say about themselves."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_documents import (
    MIXTURE,
    PATCH,
    SIDE,
    VAL,
    WIDTH,
    Keyed,
    Known,
    M,
    keys_of,
    opened,
    pixels,
    rows_of,
    write_sources,
)

from nmm.batch import ARRAYS, IMAGE_ID, Batch
from nmm.data.images import patchify
from nmm.data.index_file import text_digest
from nmm.data.loader import TrainLoader
from nmm.data.source import RowSource


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keyed]:
    """Four sources, one of them tiny, and every document by source and key."""
    folder = tmp_path_factory.mktemp("rows")
    return folder, write_sources(folder)


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=getattr(one, name).dtype.kind == "f")
        for name in ARRAYS
    )


@pytest.mark.parametrize("width", [12, WIDTH])
def test_every_field_equals_the_documents(data: tuple[Path, Keyed], width: int) -> None:
    source, count, image = rows_of(data, MIXTURE, width), 40, 0
    batch = source.rows_at(0, count)
    for row in range(count):
        column, row_images, ids = 0, 0, []
        for number, (name, key) in enumerate(keys_of(source, row)):
            known = data[1][name, key]
            tokens = known.tokens(width)
            span = slice(column, column + len(tokens))
            shard = source.indexed[name].shards[source.documents(row)["shard"][number]]
            ids.append(text_digest(shard.header["sha256"], key).to_bytes(8, "little"))
            following = [*tokens[1:], 0]
            assert batch.tokens[row, span].tolist() == tokens
            assert batch.targets[row, span].tolist() == following
            assert batch.weights[row, span].tolist() == [float(n not in (0, IMAGE_ID)) for n in following]
            assert batch.position[row, span].tolist() == list(range(len(tokens)))
            assert set(batch.document[row, span].tolist()) == {number}
            assert set(batch.source[row, span].tolist()) == {source.names.index(name)}
            at = [column + place for place, token in enumerate(tokens) if token == IMAGE_ID]
            for shown in known.images(width):
                assert np.array_equal(batch.patches[image], patchify(pixels(shown), PATCH))
                assert batch.patch_at[image].tolist() == [row * width + place for place in at[:M]]
                assert batch.image[row, at[:M]].tolist() == [row_images] * M
                image, row_images, at = image + 1, row_images + 1, at[M:]
            column += len(tokens)
        assert (batch.document[row, column:] == -1).all()
        assert not batch.tokens[row, column:].any() and not batch.weights[row, column:].any()
        digest = hashlib.blake2b(b"".join(ids), digest_size=8).digest()
        assert batch.row_ids[row] == int.from_bytes(digest, "little", signed=True)
    assert image == len(batch.patches) == len(batch.patch_at) > 10
    assert ((batch.image >= 0) == (batch.tokens == IMAGE_ID)).all()
    assert np.isnan(batch.logprobs).all()
    assert not batch.classes.any() and batch.skipped == ()


def test_cut_texts_are_whole_over_their_pieces(data: tuple[Path, Keyed]) -> None:
    """Each piece holds its part of the document, later ones the position before it too; each target comes once."""
    source = rows_of(data, MIXTURE, cut_text=True)
    rows = source.table.locate(300)[1]
    batch = source.rows_at(0, rows)
    positions: dict[tuple[str, int], list[int]] = {}
    targets: Counter[tuple[str, int]] = Counter()
    expected: dict[tuple[str, int], Known] = {}
    for row in range(rows):
        column = 0
        for document, (name, key) in zip(source.documents(row), keys_of(source, row), strict=True):
            place, known = (name, int(document["ordinal"])), data[1][name, key]
            span, begin = slice(column, column + int(document["length"])), int(document["begin"])
            shown = begin - (begin > 0)
            tokens = known.tokens(WIDTH)[shown : shown + int(document["length"])]
            assert batch.tokens[row, span].tolist() == tokens
            assert batch.targets[row, span].tolist() == [*tokens[1:], 0]
            positions.setdefault(place, []).extend(range(begin, shown + len(tokens)))
            targets[place] += int(batch.weights[row, span].sum())
            expected[place], column = known, span.stop
    for place, known in expected.items():
        assert sorted(positions[place]) == list(range(len(known.tokens(WIDTH))))
        assert targets[place] == known.targets(WIDTH)
    assert sum(min(held) == 0 and held != sorted(held) for held in positions.values()) > 3, "some are cut"
    assert source.stream != rows_of(data, MIXTURE).stream


def test_rows_do_not_depend_on_how_they_are_asked_for(data: tuple[Path, Keyed]) -> None:
    changes = {"crop_scale": 0.4, "flip": 0.5}
    whole = rows_of(data, MIXTURE, **changes).rows_at(0, 620)
    other = rows_of(data, MIXTURE, **changes)
    assert other.table.locate(619)[0] >= 2, "the rows must cross windows"
    for cursor, count, world in ((600, 7, 1), (250, 20, 2), (0, 3, 1), (500, 100, 4), (619, 1, 1)):
        for rank in range(world):
            part = other.rows_at(cursor, count, rank, world)
            rows = np.arange(cursor + rank, cursor + count, world)
            assert np.array_equal(part.row_ids, whole.row_ids[rows])
            assert np.array_equal(part.tokens, whole.tokens[rows])
            inside = np.isin(whole.patch_at[:, 0] // WIDTH, rows)
            assert np.array_equal(part.patches, whole.patches[inside])
            assert (part.tokens.reshape(-1)[part.patch_at] == IMAGE_ID).all()


def test_every_sample_once_per_epoch(data: tuple[Path, Keyed]) -> None:
    """Deliveries of a source are numbered without gaps, and every epoch of them holds each training key once."""
    source = rows_of(data, {**MIXTURE, "tiny": 3})
    delivered: dict[str, dict[int, str]] = {name: {} for name in source.names}
    for row in range(source.table.locate(1500)[1]):
        for document, (name, key) in zip(source.documents(row), keys_of(source, row), strict=True):
            assert delivered[name].setdefault(int(document["ordinal"]), key) == key
    for name, numbered in delivered.items():
        assert sorted(numbered) == list(range(len(numbered)))
        train = [key for held, key in data[1] if held == name and text_digest(key) / 2**64 >= VAL]
        epochs = len(numbered) // len(train)
        assert epochs >= 2
        for epoch in range(epochs):
            part = [numbered[n] for n in range(epoch * len(train), (epoch + 1) * len(train))]
            assert Counter(part) == Counter(train)
            assert epoch == 0 or len(train) < 20 or part != [numbered[n] for n in range(len(train))]


def test_going_on_costs_the_same_anywhere(data: tuple[Path, Keyed]) -> None:
    """From a saved position no more documents are looked at than at the start, and the rows are those of there."""
    walked = rows_of(data, MIXTURE)
    states = {row: TrainLoader(walked, 4, 2000).state_dict(row) for row in (4, 1000, 4000)}
    asked: dict[int, int] = {}
    for row, state in states.items():
        source = rows_of(data, MIXTURE)
        for stream in source.streams.values():
            stream._records = counting(stream._records, asked, row)  # type: ignore[method-assign]
        loader = TrainLoader(source, 4, 2000)
        loader.load_state_dict(state)
        assert np.array_equal(next(iter(loader)).row_ids, walked.row_ids(row, 4))
    assert max(asked.values()) < 1.5 * asked[4]


def counting(find: Callable[[np.ndarray], np.ndarray], asked: dict[int, int], row: int) -> Callable[..., np.ndarray]:
    def found(samples: np.ndarray) -> np.ndarray:
        asked[row] = asked.get(row, 0) + len(samples)
        return find(samples)

    return found


def test_rows_go_to_a_process_that_shares_nothing(data: tuple[Path, Keyed]) -> None:
    """Pickled, as workers that are spawned get them, before and after rows were read."""
    source = rows_of(data, MIXTURE, crop_scale=0.4, flip=0.5)
    unread = pickle.loads(pickle.dumps(source))
    expected = source.rows_at(270, 6)
    assert same(unread.rows_at(270, 6), expected)
    assert same(pickle.loads(pickle.dumps(source)).rows_at(270, 6), expected)


def test_sources_have_their_own_names_and_any_number(data: tuple[Path, Keyed]) -> None:
    """Names are the run's; the same folder may be two sources, whose orders differ."""
    sources = opened(data[0], {"zebra": "caption", "ant": "caption", "text": "text"})
    source = RowSource(sources, {"zebra": 1, "ant": 1, "text": 0}, WIDTH, PATCH, 0)
    assert source.names == ("ant", "text", "zebra")
    assert set(source.counts(50)) == {"ant", "zebra"}
    batch = source.rows_at(0, 50)
    assert set(batch.source.reshape(-1).tolist()) == {-1, 0, 2}
    orders = {
        name: source.corpora[name].records(source.streams[name].documents(0, 60))["id"].tolist()
        for name in ("ant", "zebra")
    }
    assert orders["ant"] != orders["zebra"]


# ---------------------------------------------------------------------------------------------------------------------
# crops


def patches_of(source: RowSource, rows: int) -> dict[tuple[str, int, int], bytes]:
    """Pixels by (source, ordinal, image number)."""
    batch, found, image = source.rows_at(0, rows), {}, 0
    for row in range(rows):
        for document in source.documents(row):
            for number in range(int(document["images"])):
                place = (source.names[document["source"]], int(document["ordinal"]), number)
                found[place], image = batch.patches[image].tobytes(), image + 1
    assert image == len(batch.patches)
    return found


def test_crops_are_functions_of_seed_ordinal_and_image(data: tuple[Path, Keyed]) -> None:
    """Another mixture packs other rows, other ordinals come with other crops; the crop of one delivery stays."""
    augmented = {"crop_scale": 0.4, "flip": 0.5}
    pair = {"caption": 1.0, "interleaved": 1.0}
    base = patches_of(rows_of(data, pair, **augmented), 200)
    other = patches_of(rows_of(data, {"caption": 1.0, "interleaved": 2.0}, **augmented), 200)
    shared = base.keys() & other.keys()
    assert len(shared) > 100
    assert all(base[place] == other[place] for place in shared)
    plain = patches_of(rows_of(data, pair), 200)
    assert base.keys() == plain.keys()
    assert np.mean([base[place] == plain[place] for place in base]) < 0.02
    assert patches_of(rows_of(data, pair, seed=1, **augmented), 200) != base


def test_crops_differ_between_epochs_and_between_images(data: tuple[Path, Keyed]) -> None:
    source = rows_of(data, {"caption": 1.0}, crop_scale=0.4, flip=0.5)
    samples = source.streams["caption"].samples
    crops = patches_of(source, 400)
    records = source.corpora["caption"].records(source.streams["caption"].documents(0, 3 * samples))["id"].tolist()
    by_sample: dict[int, list[bytes]] = {}
    for ordinal, sample in enumerate(records):
        by_sample.setdefault(sample, []).append(crops["caption", ordinal, 0])
    assert all(len(set(seen)) == 3 for seen in by_sample.values())


def test_flips_alone_only_mirror(data: tuple[Path, Keyed]) -> None:
    def upright(patches: bytes) -> np.ndarray:
        grid = np.frombuffer(patches, np.uint8).reshape(2, 2, 3, PATCH, PATCH)
        return grid.transpose(0, 3, 1, 4, 2).reshape(SIDE, SIDE, 3)

    plain = patches_of(rows_of(data, {"caption": 1.0}), 100)
    flipped = patches_of(rows_of(data, {"caption": 1.0}, flip=0.5), 100)
    mirrored = {place: np.array_equal(upright(flipped[place]), upright(plain[place])[:, ::-1]) for place in plain}
    assert all(mirrored[place] or flipped[place] == plain[place] for place in plain)
    assert 0.35 < np.mean(list(mirrored.values())) < 0.65


@pytest.mark.parametrize("options", [{"split": "val"}, {"once_in_order": True}])
def test_evaluation_never_crops(data: tuple[Path, Keyed], options: dict[str, Any]) -> None:
    plain = patches_of(rows_of(data, {"caption": 1.0}, **options), 6)
    assert patches_of(rows_of(data, {"caption": 1.0}, crop_scale=0.4, flip=1.0, **options), 6) == plain


# ---------------------------------------------------------------------------------------------------------------------
# held out


def test_train_and_held_out_share_no_key(data: tuple[Path, Keyed]) -> None:
    train, val = rows_of(data, MIXTURE), rows_of(data, MIXTURE, split="val", once_in_order=True)
    trained = {key for row in range(600) for key in keys_of(train, row)}
    held = Counter(key for row in range(val.rows_available()) for key in keys_of(val, row))
    assert trained | held.keys() == {key for key in data[1] if key[0] != "tiny"}
    assert not trained & held.keys()
    assert set(held.values()) == {1}
    with pytest.raises(IndexError, match=r"there are \d+ rows"):
        val.rows_at(0, val.rows_available() + 1)


def test_settings_that_change_rows_change_the_stream(data: tuple[Path, Keyed]) -> None:
    base = rows_of(data, MIXTURE)
    assert rows_of(data, {name: 7 * weight for name, weight in MIXTURE.items()}).stream == base.stream
    for changes in ({"crop_scale": 0.5}, {"flip": 0.1}, {"val_fraction": 0.3}, {"image_size": 32}, {"seed": 1}):
        other = rows_of(data, MIXTURE, **changes)
        assert other.stream != base.stream
        assert same(other.rows_at(0, 4), rows_of(data, MIXTURE, **changes).rows_at(0, 4))
        assert not same(other.rows_at(0, 12), base.rows_at(0, 12))
    with pytest.raises(ValueError, match="splits train and val, not 'test'"):
        rows_of(data, MIXTURE, split="test")
    with pytest.raises(ValueError, match=r"mixture names source 'video'; allowed: \['caption'\]"):
        RowSource(opened(data[0], {"caption": "caption"}), {"video": 1}, WIDTH, PATCH, 0)
