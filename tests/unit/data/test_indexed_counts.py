"""What rows of indexed sources say about themselves, against looking at every document; and the shares of a mixture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from known_documents import (
    MIXTURE,
    WIDTH,
    Keyed,
    M,
    rows_of,
    write_sources,
)

from nmm.batch import IMAGE_ID
from nmm.data.source import RowSource


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keyed]:
    """Four sources, one of them tiny, and every document by source and key."""
    folder = tmp_path_factory.mktemp("rows")
    return folder, write_sources(folder)


def brute(source: RowSource, rows: int) -> list[dict[str, dict[str, int]]]:
    """``counts`` of 0..``rows`` rows, by looking at every document, or piece of one, position by position.

    A sample counts where its first piece stands; a position that a piece repeats does not count.
    """
    found = []
    sums = {name: Counter[str]() for name in source.streams}
    samples: dict[str, set[int]] = {name: set() for name in source.streams}
    positions: dict[str, set[tuple[int, int]]] = {name: set() for name in source.streams}
    keys = ("tokens", "image_tokens", "text_tokens", "targets", "samples", "truncated")
    for row in range(rows + 1):
        found.append(
            {
                name: {
                    **{key: counted[key] for key in keys},
                    "unique_samples": len(samples[name]),
                    "unique_tokens": len(positions[name]),
                    "epochs": -(-counted["samples"] // source.streams[name].samples),
                }
                for name, counted in sums.items()
            }
        )
        for document in source.documents(row):
            name, begin, sample = source.names[document["source"]], int(document["begin"]), int(document["id"])
            length, image = int(document["length"]) - (begin > 0), int(document["images"]) * M
            sums[name].update(tokens=length, image_tokens=image, text_tokens=length - image, samples=begin == 0)
            sums[name].update(targets=int(document["targets"]), truncated=bool(document["truncated"]) and begin == 0)
            samples[name] |= {sample} if begin == 0 else set()
            positions[name] |= {(sample, position) for position in range(begin, begin + length)}
    return found


@pytest.mark.parametrize("cut_text", [False, True])
@pytest.mark.parametrize(
    ("mixture", "width", "weights", "rows"),
    [
        (MIXTURE, WIDTH, "tokens", 300),
        ({"interleaved": 1}, 12, "tokens", 1400),
        ({"caption": 90, "tiny": 10}, WIDTH, "tokens", 300),
        ({"caption": 1, "tiny": 1, "text": 3}, WIDTH, "samples", 400),
        ({"tiny": 1}, 16, "tokens", 40),
        ({"caption": 1, "text": 0.002}, WIDTH, "tokens", 3000),
    ],
)
def test_counts_equal_brute_force_at_every_row(
    data: tuple[Path, Keyed], mixture: dict[str, float], width: int, weights: str, rows: int, cut_text: bool
) -> None:
    """Across windows and ends of epochs; ``tiny`` comes many times inside one window, 0.002 hardly ever."""
    source = rows_of(data, mixture, width, weights=weights, cut_text=cut_text)
    expected = brute(source, rows)
    every = range(rows + 1) if rows <= 400 else [*range(0, rows + 1, 17), rows]
    for row in every:
        assert source.counts(row) == expected[row], row
    filled = sum(count["tokens"] for count in expected[rows].values())
    assert source.efficiency(rows) == filled / (rows * width)


def test_counts_equal_what_batches_hold(data: tuple[Path, Keyed]) -> None:
    source = rows_of(data, MIXTURE, 24)
    batch, counts = source.rows_at(0, 333), source.counts(333)
    for name, count in counts.items():
        own = batch.source == source.names.index(name)
        assert count["tokens"] == own.sum()
        assert count["image_tokens"] == (own & (batch.tokens == IMAGE_ID)).sum()
        assert count["targets"] == batch.weights[own].sum()
        assert count["samples"] == (own & (batch.position == 0)).sum()


@pytest.mark.parametrize("weights", ["tokens", "samples"])
def test_planned_samples_are_about_the_counted_ones(data: tuple[Path, Keyed], weights: str) -> None:
    source = rows_of(data, MIXTURE, weights=weights)
    counted = {rows: sum(c["samples"] for c in source.counts(rows).values()) for rows in (0, 32, 300, 1000, 2000)}
    packed: list[int] = []
    fresh = rows_of(data, MIXTURE, weights=weights)
    fresh.table._rows_in_window = packed.append  # type: ignore[assignment]
    for rows, samples in counted.items():
        assert fresh.planned_samples(rows) == pytest.approx(samples, rel=0.1)
    assert not packed


def test_counts_do_not_depend_on_what_was_asked_before(data: tuple[Path, Keyed]) -> None:
    fresh = {row: rows_of(data, MIXTURE).counts(row) for row in (0, 700, 1300)}
    source = rows_of(data, MIXTURE)
    source.rows_at(300, 4)
    assert {row: source.counts(row) for row in (1300, 0, 700)} == {row: fresh[row] for row in (1300, 0, 700)}


def test_weights_of_tokens_are_realised(data: tuple[Path, Keyed]) -> None:
    """At the end of every window each source has its share to within its longest document."""
    share = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
    source = rows_of(data, share)
    for window in range(1, 6):
        first = next(row for row in range(3000) if source.table.locate(row)[0] == window)
        for name, count in source.counts(first).items():
            assert 0 <= count["tokens"] - window * 256 * WIDTH * share[name] <= WIDTH + 1


def test_weights_of_samples_are_realised(data: tuple[Path, Keyed]) -> None:
    """At the end of every window each source has its share of the documents to within one."""
    source = rows_of(data, {"caption": 1, "text": 3}, weights="samples")
    for window in range(1, 6):
        first = next(row for row in range(3000) if source.table.locate(row)[0] == window)
        counts = source.counts(first)
        assert abs(counts["text"]["samples"] - 3 * counts["caption"]["samples"]) <= 4
        tokens = sum(count["tokens"] for count in counts.values())
        assert tokens == pytest.approx(window * 256 * WIDTH, rel=0.05), "a window is about 256 rows all the same"
    by_tokens = rows_of(data, {"caption": 1, "text": 3})
    assert source.stream != by_tokens.stream, "a saved position of one is refused by the other"
    assert not np.array_equal(source.row_ids(0, 8), by_tokens.row_ids(0, 8))
