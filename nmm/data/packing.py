"""Whole documents into rows, window by window: spread, then filled, then shuffled.

Shape legend: n documents of a window, R rows of a window, T positions a row.

A window holds about ``WINDOW_ROWS`` rows' worth of tokens and is packed by itself, so its rows depend on its documents'
lengths only. How many rows it needs is not known before packing; ``RowTable`` keeps the running count. Packing costs
about 1 us a document (some 40M tokens a second), so finding a row far ahead without an anchor takes that long once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nmm.data.order import random_bits

PACKING_VERSION = 1
WINDOW_ROWS = 256
SPREAD_SHARE = 0.5


@dataclass(frozen=True)
class Layout:
    """Where a window's documents stand. All arrays are (n,) int64, sorted by row, then by place in the row.

    ``document`` indexes the window's documents as they were given to ``lay_out``; ``place`` is the document's number in
    its row, ``column`` its first position there.
    """

    document: np.ndarray
    row: np.ndarray
    place: np.ndarray
    column: np.ndarray
    rows: int

    def only(self, rows: np.ndarray) -> tuple[Layout, np.ndarray]:
        """The layout of ``rows`` (increasing numbers) alone, renumbered from 0, and which documents it keeps."""
        number = np.full(self.rows, -1)
        number[rows] = np.arange(len(rows))
        kept = np.flatnonzero(number[self.row] >= 0)
        row = number[self.row[kept]]
        return Layout(self.document[kept], row, self.place[kept], self.column[kept], len(rows)), kept

    def without(self, dropped: np.ndarray) -> Layout:
        """The same rows with holes where the (n,) bool ``dropped`` documents stood."""
        keep = ~dropped
        return Layout(self.document[keep], self.row[keep], self.place[keep], self.column[keep], self.rows)


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Assign documents of (n,) ``lengths`` to rows of ``width`` positions: (n,) row numbers, and the number of rows.

    Longest first. The first half of the tokens is dealt out evenly (each document to the emptiest of as many rows as
    the tokens need), the rest goes to the fullest row that still holds it. Filling alone would give rows of one length
    and so of one source, and batches of few rows would swing between sources; dealing first more than halves that swing
    and leaves the rows as full. Raises ValueError for a document that is empty or longer than a row.
    """
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= width:
        raise ValueError(f"documents must have 1..{width} positions, got {lengths.min()}..{lengths.max()}")
    order, total = np.argsort(-lengths, kind="stable"), int(lengths.sum())
    rows = -(-total // width)
    by_room: list[list[int]] = [[] for _ in range(width)] + [list(range(rows))[::-1]]
    rooms = 1 << width  # bit k is set while some row has k positions free, so the tightest fit is one bit trick away
    assigned, to_spread = [], SPREAD_SHARE * total
    for length in lengths[order].tolist():
        fitting = rooms >> length
        if not fitting:
            row, room = rows, width
            rows += 1
        else:
            chosen = fitting if to_spread > 0 else fitting & -fitting
            room = length + chosen.bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        to_spread -= length
        assigned.append(row)
        left = room - length
        if left:
            by_room[left].append(row)
            rooms |= 1 << left
    row_of = np.empty(len(lengths), np.int64)
    row_of[order] = assigned
    return row_of, rows


def lay_out(lengths: np.ndarray, width: int, seed: int, window: int) -> Layout:
    """Pack a window's documents, then shuffle its rows and the documents in each row (packing orders by length)."""
    row_of, rows = pack(lengths, width)
    new_number = np.empty(rows, np.int64)
    new_number[np.argsort(random_bits(rows, seed, "rows", str(window)), kind="stable")] = np.arange(rows)
    row_of = new_number[row_of]
    document = np.lexsort((random_bits(len(lengths), seed, "places", str(window)), row_of))
    row = row_of[document]
    first = np.searchsorted(row, np.arange(rows))
    before = np.concatenate([[0], np.cumsum(lengths[document], dtype=np.int64)])[:-1]
    return Layout(document, row, np.arange(len(row)) - first[row], before - before[first][row], rows)


class RowTable:
    """Global row number -> window: a running count of rows, extended window by window as far as it is asked for.

    ``anchor`` starts the count at a later window, so that a resumed run does not pack what it has already seen.
    """

    def __init__(self, rows_in_window: Callable[[int], int]) -> None:
        self._rows_in_window = rows_in_window
        self.anchor(0, 0)

    def anchor(self, window: int, first_row: int) -> None:
        """State as known that ``window`` starts at global row ``first_row``."""
        self._window, self._first = window, [first_row]

    def locate(self, row: int) -> tuple[int, int]:
        """(window, global number of that window's first row) of the window that holds ``row``.

        Raises IndexError when the rows end before it.
        """
        if row < self._first[0]:
            self.anchor(0, 0)
        while row >= self._first[-1]:
            window = self._window + len(self._first) - 1
            rows = self._rows_in_window(window)
            if rows == 0:
                raise IndexError(f"there are {self._first[-1]} rows, row {row} was asked for")
            self._first.append(self._first[-1] + rows)
        at = bisect_right(self._first, row) - 1
        return self._window + at, self._first[at]
