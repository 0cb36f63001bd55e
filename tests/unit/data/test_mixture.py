"""Every window holds the sources in their token shares; every epoch holds every document once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nmm.data.mixture import SourceStream, token_budgets

SHARDS = (30, 25, 45)


def stream(once_in_order: bool = False, seed: int = 0) -> SourceStream:
    lengths = np.random.default_rng(7).integers(5, 60, sum(SHARDS))
    return SourceStream("caption", lengths, SHARDS, seed, once_in_order)


def test_budgets_follow_the_weights() -> None:
    assert token_budgets({"caption": 45, "interleaved": 45, "text": 10}, 1000) == {
        "caption": 450,
        "interleaved": 450,
        "text": 100,
    }
    assert token_budgets({"text": 0.25, "caption": 0.75, "interleaved": 0}, 4000) == {"caption": 3000, "text": 1000}
    assert list(token_budgets({"text": 1, "caption": 1}, 10)) == ["caption", "text"]


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
        token_budgets(weights, 1000)


def test_count_is_the_fewest_documents_that_hold_the_tokens() -> None:
    source = stream()
    running = np.concatenate([[0], np.cumsum(source.lengths[source.documents(0, 350)])])
    for tokens in range(0, 3 * source.tokens, 97):
        assert source.count_at(tokens) == int((running < tokens).sum())


def test_windows_are_right_to_within_one_document() -> None:
    source, budget = stream(), 700
    for window in range(40):
        documents = source.documents(source.count_at(budget * window), source.count_at(budget * (window + 1)))
        assert abs(int(source.lengths[documents].sum()) - budget) < 60
    delivered = source.lengths[source.documents(0, source.count_at(budget * 40))].sum()
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


def test_once_in_order_ends() -> None:
    source = stream(once_in_order=True)
    assert source.documents(0, source.count_at(10**9)).tolist() == list(range(100))
    assert source.count_at(source.tokens) == source.count_at(source.tokens - 1) == 100
