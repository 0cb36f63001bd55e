"""Rows against a brute-force reading of the tiny shards, and what rows say about themselves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmm.batch import ARRAYS, IMAGE_ID, SOURCES, Batch
from nmm.data.decoded import sample_id
from nmm.data.images import patchify
from nmm.data.manifest import Shards, open_shards
from nmm.data.source import RowSource

MIXTURE = {"caption": 45, "interleaved": 45, "text": 10}
PATCH, M = 4, 4
Oracle = dict[tuple[int, ...], list[tuple[str, int]]]
Document = Callable[..., dict[str, Any]]


@pytest.fixture
def shards(tiny_root: Path) -> Shards:
    return open_shards(tiny_root)


def expanded(shards: Shards, words: list[str]) -> list[int]:
    """Token ids with every image standing as its M patches."""
    return [i for i in shards.tokenizer.encode(" ".join(words)) for _ in range(M if i == IMAGE_ID else 1)]


@pytest.fixture
def known(shards: Shards, tiny_document: Document) -> Oracle:
    """Token sequence -> the samples that have it."""
    result: Oracle = {}
    for source in SOURCES:
        for index in range(shards.split(source, "train").samples):
            words = tiny_document(source, "train", index)["words"]
            result.setdefault(tuple(expanded(shards, words)), []).append((source, index))
    return result


def documents_of(batch: Batch) -> list[list[slice]]:
    """Spans of each row's documents, by walking the row from left to right."""
    rows = []
    for row in batch.document:
        numbers = [int(n) for n in row]
        count = max(numbers) + 1
        spans = [slice(numbers.index(n), numbers.index(n) + numbers.count(n)) for n in range(count)]
        assert [n for span, n in zip(spans, range(count), strict=True) for _ in numbers[span]] == numbers[
            : spans[-1].stop
        ]
        assert set(numbers[spans[-1].stop :]) <= {-1}
        rows.append(spans)
    return rows


def test_every_field_equals_brute_force(shards: Shards, known: Oracle, tiny_document: Document) -> None:
    batch = RowSource(shards, MIXTURE, 64, PATCH, seed=1).rows_at(0, 60)
    image = 0
    for row, spans in enumerate(documents_of(batch)):
        row_images, ids = 0, []
        for span in spans:
            tokens = batch.tokens[row, span].tolist()
            ((source, index),) = known[tuple(tokens)]
            document = tiny_document(source, "train", index)
            ids.append(sample_id(f"{source}-train-{index:09d}"))
            assert set(batch.source[row, span].tolist()) == {SOURCES.index(source)}
            assert batch.position[row, span].tolist() == list(range(len(tokens)))
            text = iter(zip(document["logprobs"], document["classes"], strict=True))
            own = [next(text) if token != IMAGE_ID else None for token in tokens]
            for at, following in enumerate([*own[1:], None]):
                column = span.start + at
                last = at == len(tokens) - 1
                assert batch.targets[row, column] == (0 if last else tokens[at + 1])
                assert batch.weights[row, column] == (following is not None)
                if following is None:
                    assert np.isnan(batch.logprobs[row, column])
                    assert batch.classes[row, column] == 0
                else:
                    assert batch.logprobs[row, column] == np.float32(following[0])
                    assert chr(batch.classes[row, column]) == following[1]
            columns = [span.start + at for at, token in enumerate(tokens) if token == IMAGE_ID]
            for pixels in document["images"]:
                here, columns = columns[:M], columns[M:]
                assert here == list(range(here[0], here[0] + M))
                assert np.array_equal(batch.patches[image], patchify(pixels, PATCH))
                assert batch.patch_at[image].tolist() == [row * 64 + column for column in here]
                assert batch.image[row, here].tolist() == [row_images] * M
                image, row_images = image + 1, row_images + 1
        digest = hashlib.blake2b(b"".join(i.to_bytes(8, "little") for i in ids), digest_size=8).digest()
        assert batch.row_ids[row] == int.from_bytes(digest, "little", signed=True)
    assert image == len(batch.patches) == len(batch.patch_at)
    assert ((batch.image >= 0) == (batch.tokens == IMAGE_ID)).all()


def test_padding_is_empty_in_every_field(shards: Shards) -> None:
    batch = RowSource(shards, MIXTURE, 64, PATCH, seed=1).rows_at(0, 60)
    padding = batch.document < 0
    assert padding.any()
    for name in ("tokens", "position", "targets", "weights", "classes"):
        assert not getattr(batch, name)[padding].any()
    assert (batch.source[padding] == -1).all()
    assert (batch.image[padding] == -1).all()
    assert np.isnan(batch.logprobs[padding]).all()


def test_types_are_those_of_the_contract(shards: Shards) -> None:
    batch = RowSource(shards, MIXTURE, 64, PATCH, seed=1).rows_at(0, 5)
    types = {name: str(values.dtype) for name, values in vars(batch).items() if name in ARRAYS}
    assert types == {
        "tokens": "int64",
        "patches": "uint8",
        "patch_at": "int64",
        "document": "int32",
        "image": "int32",
        "position": "int64",
        "targets": "int64",
        "weights": "float32",
        "source": "int8",
        "logprobs": "float32",
        "classes": "uint8",
        "row_ids": "int64",
    }


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=getattr(one, name).dtype.kind == "f")
        for name in ARRAYS
    )


def test_rows_do_not_depend_on_how_they_are_asked_for(shards: Shards) -> None:
    whole = RowSource(shards, MIXTURE, 64, PATCH, seed=0).rows_at(0, 1200)
    other = RowSource(shards, MIXTURE, 64, PATCH, seed=0)
    assert other.table.locate(1199)[0] >= 3, "the rows must cross windows"
    for cursor, count in ((900, 7), (250, 20), (0, 3), (512, 300), (1199, 1)):
        part = other.rows_at(cursor, count)
        rows = slice(cursor, cursor + count)
        assert np.array_equal(part.row_ids, whole.row_ids[rows])
        assert np.array_equal(part.tokens, whole.tokens[rows])
        inside = (whole.patch_at[:, 0] >= cursor * 64) & (whole.patch_at[:, 0] < (cursor + count) * 64)
        assert np.array_equal(part.patches, whole.patches[inside])
        assert np.array_equal(part.patch_at, whole.patch_at[inside] - cursor * 64)
        assert (part.tokens.reshape(-1)[part.patch_at] == IMAGE_ID).all()


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_rows_of_a_step(shards: Shards, world: int) -> None:
    source = RowSource(shards, MIXTURE, 64, PATCH, seed=0)
    whole = source.rows_at(250, 12)
    for rank in range(world):
        part = source.rows_at(250, 12, rank, world)
        assert np.array_equal(part.tokens, whole.tokens[rank::world])
        assert np.array_equal(part.row_ids, whole.row_ids[rank::world])
        assert (part.tokens.reshape(-1)[part.patch_at] == IMAGE_ID).all()


def test_every_sample_once_per_epoch(shards: Shards, known: Oracle) -> None:
    """Over whole windows each sample of a source comes floor or ceil of (documents / samples) times."""
    source = RowSource(shards, MIXTURE, 64, PATCH, seed=2)
    rows = source.table.locate(1000)[1]
    batch = source.rows_at(0, rows)
    seen: Counter[tuple[str, int]] = Counter()
    for row, spans in enumerate(documents_of(batch)):
        for span in spans:
            seen[known[tuple(batch.tokens[row, span].tolist())][0]] += 1
    for name, count in source.counts(rows).items():
        times = [seen[(name, index)] for index in range(shards.split(name, "train").samples)]
        epochs, rest = divmod(count["samples"], len(times))
        assert sorted(times) == [epochs] * (len(times) - rest) + [epochs + 1] * rest
        assert epochs > 2


def test_shares_follow_the_weights(shards: Shards) -> None:
    source = RowSource(shards, {"caption": 2, "text": 1}, 64, PATCH, seed=0)
    for window in range(1, 4):
        first = next(row for row in range(2000) if source.table.locate(row)[0] == window)
        counts = source.counts(first)
        tokens = {name: count["tokens"] for name, count in counts.items()}
        assert tokens["caption"] / sum(tokens.values()) == pytest.approx(2 / 3, abs=0.002)
        assert tokens["caption"] == pytest.approx(window * 256 * 64 * 2 / 3, abs=20)


@pytest.mark.parametrize("rows", [0, 1, 37, 250, 251, 600])
def test_counts_equal_the_rows_themselves(shards: Shards, rows: int) -> None:
    source = RowSource(shards, MIXTURE, 32, PATCH, seed=0)
    counts = source.counts(rows)
    if rows == 0:
        assert all(set(count.values()) == {0} for count in counts.values())
        return
    batch = source.rows_at(0, rows)
    first = np.zeros(batch.document.shape, bool)
    first[:, 0], first[:, 1:] = batch.document[:, 0] >= 0, batch.position[:, 1:] == 0
    first &= batch.document >= 0
    for name, count in counts.items():
        own = batch.source == SOURCES.index(name)
        assert count["tokens"] == own.sum()
        assert count["image_tokens"] == (own & (batch.tokens == IMAGE_ID)).sum()
        assert count["text_tokens"] == (own & (batch.tokens != IMAGE_ID)).sum()
        assert count["targets"] == batch.weights[own].sum()
        assert count["samples"] == (own & first).sum()
    assert source.efficiency(rows) == (batch.document >= 0).mean()


def test_unique_samples_and_epochs(shards: Shards) -> None:
    source = RowSource(shards, {"text": 1}, 64, PATCH, seed=0)
    samples = shards.split("text", "train").samples
    before = 0
    for rows in range(1, 60):
        count = source.counts(rows)["text"]
        assert before <= count["unique_samples"] <= min(samples, count["samples"])
        before = count["unique_samples"]
        if count["samples"] <= samples // 2:
            assert count["unique_samples"] <= count["samples"]
    later = source.counts(400)["text"]
    assert later["unique_samples"] == samples
    assert later["epochs"] == -(-later["samples"] // samples)


def test_long_documents_are_cut_and_counted(shards: Shards, known: Oracle) -> None:
    """At 20 positions interleaved documents are cut: never inside an image, always the beginning of the document."""
    source = RowSource(shards, {"interleaved": 1}, 20, PATCH, seed=0)
    rows = source.table.locate(400)[1]
    batch = source.rows_at(0, rows)
    cut = 0
    for row, spans in enumerate(documents_of(batch)):
        for span in spans:
            tokens = tuple(batch.tokens[row, span].tolist())
            whole = next(sequence for sequence in known if sequence[: len(tokens)] == tokens)
            assert tokens.count(IMAGE_ID) % M == 0
            if len(whole) > 20:
                cut += 1
                next_image = whole[len(tokens)] == IMAGE_ID
                assert len(tokens) == 20 or (next_image and len(tokens) + M > 20)
            else:
                assert len(tokens) == len(whole)
    assert cut == source.counts(rows)["interleaved"]["truncated"] > 0
    assert len(batch.patches) * M == (batch.tokens == IMAGE_ID).sum()


def test_seed_split_and_mixture_change_the_rows(shards: Shards) -> None:
    base = RowSource(shards, MIXTURE, 64, PATCH, seed=0).rows_at(0, 20)
    for other in (
        RowSource(shards, MIXTURE, 64, PATCH, seed=1),
        RowSource(shards, MIXTURE, 64, PATCH, seed=0, split="val"),
        RowSource(shards, {"caption": 1}, 64, PATCH, seed=0),
    ):
        assert not set(other.row_ids(0, 20).tolist()) & set(base.row_ids.tolist())
    assert same(base, RowSource(shards, {s: w / 7 for s, w in MIXTURE.items()}, 64, PATCH, seed=0).rows_at(0, 20))


def test_impossible_settings_are_refused(shards: Shards) -> None:
    with pytest.raises(
        ValueError, match=r"context_length=4 cannot hold an image of 4 patches and a word: make it at least 5"
    ):
        RowSource(shards, MIXTURE, 4, PATCH, seed=0)
    with pytest.raises(ValueError, match="patch_size=5 does not divide"):
        RowSource(shards, MIXTURE, 64, 5, seed=0)
    with pytest.raises(ValueError, match="no split 'test' of 'caption'"):
        RowSource(shards, MIXTURE, 64, PATCH, seed=0, split="test")
    with pytest.raises(ValueError, match="never end"):
        RowSource(shards, MIXTURE, 64, PATCH, seed=0).rows_available()
    assert RowSource(shards, {"text": 1}, 4, PATCH, seed=0).rows_at(0, 2).tokens.shape == (2, 4)


def test_evaluation_rows_hold_every_document_once(shards: Shards, tiny_document: Document) -> None:
    source = RowSource(shards, {"caption": 1}, 64, PATCH, seed=0, split="val", once_in_order=True)
    rows = source.rows_available()
    batch = source.rows_at(0, rows)
    seen = [tuple(batch.tokens[row, span].tolist()) for row, spans in enumerate(documents_of(batch)) for span in spans]
    expected = [tuple(expanded(shards, tiny_document("caption", "val", index)["words"])) for index in range(30)]
    assert Counter(seen) == Counter(expected)
    with pytest.raises(IndexError, match=f"there are {rows} rows"):
        source.rows_at(0, rows + 1)


def test_empty_split_is_refused(make_shards: Callable[..., Path]) -> None:
    root = make_shards(counts={"caption": {"train": 5}, "text": {"train": 0}})
    with pytest.raises(ValueError, match=r"text train .* holds no samples"):
        RowSource(open_shards(root), {"caption": 1, "text": 1}, 64, PATCH, seed=0)
