"""Packing keeps documents whole, rows full and sources mixed, and finds any row again."""

from __future__ import annotations

import numpy as np
import pytest

from nmm.data.packing import RowTable, lay_out, pack


def world_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and sources of a window of captions, interleaved and text documents at 45-45-10 by tokens, about."""
    caption = 16 + rng.integers(8, 34, 800)
    interleaved = 16 * rng.choice([2, 3], 350, p=[0.6, 0.4]) + rng.integers(25, 70, 350)
    text = rng.integers(12, 36, 280)
    lengths = np.concatenate([caption, interleaved, text])
    return lengths, np.repeat([0, 1, 2], [len(caption), len(interleaved), len(text)])


CASES = [
    np.array([], np.int64),
    np.array([10]),
    np.array([10, 10, 10]),
    np.array([6, 6, 6, 6, 4, 4]),
    np.array([7, 7, 7]),
    np.ones(25, np.int64),
    np.arange(1, 11),
]


@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_rows_are_never_overfull_and_none_is_empty(lengths: np.ndarray) -> None:
    row_of, rows = pack(lengths, 10)
    filled = np.bincount(row_of, lengths, minlength=rows)
    assert len(filled) == rows
    assert ((filled > 0) & (filled <= 10)).all()
    assert filled.sum() == lengths.sum()


@pytest.mark.parametrize(("lengths", "rows"), [([6, 6, 4, 4], 2), ([5, 5, 5, 5], 2), ([9, 1, 8, 2], 2), ([7, 7, 7], 3)])
def test_small_cases_are_packed_as_tightly_as_possible(lengths: list[int], rows: int) -> None:
    assert pack(np.array(lengths), 10)[1] == rows


@pytest.mark.parametrize("seed", range(20))
def test_random_windows_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = int(rng.integers(5, 400))
    lengths = rng.integers(1, width + 1, int(rng.integers(1, 500)))
    row_of, rows = pack(lengths, width)
    filled = np.bincount(row_of, lengths, minlength=rows)
    assert filled.min() > 0
    assert filled.max() <= width
    assert rows <= 2 * -(-lengths.sum() // width)


def test_world_rows_are_full() -> None:
    lengths, _ = world_like(np.random.default_rng(0))
    for width in (256, 512):
        assert lengths.sum() / (pack(lengths, width)[1] * width) >= 0.99


def test_sources_are_spread_over_the_rows() -> None:
    """The share of interleaved tokens in a row varies less than if documents were dealt at random (sd about 0.25)."""
    lengths, sources = world_like(np.random.default_rng(0))
    row_of, rows = pack(lengths, 256)
    share = np.bincount(row_of, lengths * (sources == 1), minlength=rows) / 256
    assert share.std() < 0.12


@pytest.mark.parametrize("lengths", [[3, 11], [3, 0]])
def test_documents_that_fit_no_row_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must have 1..10 positions"):
        pack(np.array(lengths), 10)


def test_layout_places_documents_side_by_side() -> None:
    lengths, _ = world_like(np.random.default_rng(1))
    layout = lay_out(lengths, 256, seed=0, window=5)
    assert np.array_equal(np.sort(layout.document), np.arange(len(lengths)))
    placed = lengths[layout.document]
    for row in range(layout.rows):
        inside = layout.row == row
        assert layout.place[inside].tolist() == list(range(inside.sum()))
        assert layout.column[inside].tolist() == [0, *np.cumsum(placed[inside])[:-1]]
        assert placed[inside].sum() <= 256


def test_shuffling_removes_the_order_by_length() -> None:
    lengths, _ = world_like(np.random.default_rng(2))
    layout = lay_out(lengths, 256, seed=0, window=0)
    placed = lengths[layout.document]
    assert abs(np.corrcoef(layout.row, placed)[0, 1]) < 0.1
    first, last = layout.place == 0, np.append(layout.place[1:] == 0, True)
    assert abs(placed[first].mean() / placed[last].mean() - 1) < 0.15
    other = lay_out(lengths, 256, seed=0, window=1)
    assert (other.document == layout.document).mean() < 0.05


class TestRowTable:
    ROWS = (3, 5, 2, 4)

    def table(self, asked: list[int]) -> RowTable:
        def rows_in_window(window: int) -> int:
            asked.append(window)
            return self.ROWS[window] if window < len(self.ROWS) else 0

        return RowTable(rows_in_window)

    def test_finds_every_row(self) -> None:
        expected = [(w, first) for w, first in enumerate((0, 3, 8, 10)) for _ in range(self.ROWS[w])]
        table = self.table([])
        assert [table.locate(row) for row in range(14)] == expected
        assert [self.table([]).locate(row) for row in range(14)] == expected

    def test_counts_each_window_once(self) -> None:
        asked: list[int] = []
        table = self.table(asked)
        for row in (0, 1, 9, 4, 9):
            table.locate(row)
        assert asked == [0, 1, 2]

    def test_anchor_skips_what_lies_before(self) -> None:
        asked: list[int] = []
        table = self.table(asked)
        table.anchor(2, 8)
        assert table.locate(11) == (3, 10)
        assert asked == [2, 3]
        assert table.locate(4) == (1, 3)

    def test_end_of_rows(self) -> None:
        with pytest.raises(IndexError, match="there are 14 rows, row 14 was asked for"):
            self.table([]).locate(14)
