"""Every window holds the sources in their token shares; every epoch holds every document once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nmm.batch import SOURCES
from nmm.data.mixture import SourceStream, draws, shares

SHARDS = (30, 25, 45)


LENGTHS = np.random.default_rng(7).integers(5, 60, sum(SHARDS))
RECORDS = np.array(list(zip(LENGTHS, range(sum(SHARDS)), strict=True)), [("length", "i8"), ("sample", "i8")])


def stream(once_in_order: bool = False, seed: int = 0, name: str = "caption") -> SourceStream:
    tokens = [part.sum() for part in np.split(LENGTHS, np.cumsum(SHARDS)[:-1])]
    return SourceStream(name, SHARDS, tokens, lambda samples: RECORDS[samples], seed, once_in_order)


def test_shares_follow_the_weights() -> None:
    assert shares({"caption": 45, "interleaved": 45, "text": 10}, SOURCES) == {
        "caption": 0.45,
        "interleaved": 0.45,
        "text": 0.10,
    }
    assert shares({"text": 0.25, "caption": 0.75, "interleaved": 0}, SOURCES) == {"caption": 0.75, "text": 0.25}
    assert list(shares({"text": 1, "caption": 1}, SOURCES)) == ["caption", "text"]
    assert shares({"b": 3, "a": 1}, ("a", "b")) == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"video": 1.0}, "'video'"),
        ({"text": -1.0}, "must be >= 0"),
        ({"text": float("nan")}, "must be >= 0"),
        ({"text": 0.0}, "at least one positive"),
        ({}, "at least one positive"),
    ],
)
def test_bad_mixtures_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shares(weights, SOURCES)


def test_draws_by_tokens_and_by_samples() -> None:
    """Over many windows, a third of the tokens, or a third of the documents, whichever the weights are of."""
    streams = [stream(name="a"), stream(name="b", seed=1)]
    share = {"a": 1 / 3, "b": 2 / 3}
    for weights in ("tokens", "samples"):
        one, other = draws(streams, share, 3000, weights)
        for windows in (1, 7, 500):
            documents = (one.before(windows), other.before(windows))
            tokens = [int(LENGTHS[s.documents(0, n)].sum()) for s, n in zip(streams, documents, strict=True)]
            assert sum(tokens) == pytest.approx(3000 * windows, rel=0.1 if windows < 10 else 0.01)
            if weights == "tokens":
                assert tokens[0] == pytest.approx(1000 * windows, abs=60)
            else:
                assert documents[0] == pytest.approx(documents[1] / 2, abs=1.5)
        assert one.before(0) == 0


def test_count_is_the_fewest_documents_that_hold_the_tokens() -> None:
    source = stream()
    running = np.concatenate([[0], np.cumsum(LENGTHS[source.documents(0, 350)])])
    for tokens in range(0, 3 * source.tokens, 97):
        assert source.count_at(tokens) == int((running < tokens).sum())


def test_windows_are_right_to_within_one_document() -> None:
    source, budget = stream(), 700
    for window in range(40):
        documents = source.documents(source.count_at(budget * window), source.count_at(budget * (window + 1)))
        assert abs(int(LENGTHS[documents].sum()) - budget) < 60
    delivered = LENGTHS[source.documents(0, source.count_at(budget * 40))].sum()
    assert 0 <= delivered - budget * 40 < 60


def test_every_epoch_holds_every_document_once() -> None:
    source = stream()
    epochs = [source.documents(100 * e, 100 * e + 100) for e in range(4)]
    assert all(Counter(epoch.tolist()) == Counter(range(100)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_documents_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = stream().documents(0, 450)
    source = stream()
    parts = [source.documents(first, min(first + 37, 450)) for first in range(0, 450, 37)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(stream().documents(430, 450), whole[430:])
    assert len(source.documents(5, 5)) == 0


def test_records_are_those_of_the_documents() -> None:
    """Asked for once a block, by whole blocks, and nobody who changes them changes what others get."""
    asked: list[int] = []
    source = stream()
    find, source._records = source._records, lambda samples: asked.append(len(samples)) or find(samples)  # type: ignore
    for first, last in ((0, 30), (30, 95), (90, 210), (205, 205)):
        records = source.records(first, last)
        assert records["sample"].tolist() == source.documents(first, last).tolist()
        assert records["length"].tolist() == LENGTHS[records["sample"]].tolist()
        records["sample"] = -1
    assert asked == [100, 100, 100, 0]


def test_once_in_order_ends() -> None:
    source = stream(once_in_order=True)
    assert source.documents(0, source.count_at(10**9)).tolist() == list(range(100))
    assert source.count_at(source.tokens) == source.count_at(source.tokens - 1) == 100
