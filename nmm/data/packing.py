"""Documents into rows, window by window: spread, then filled, then shuffled. Only texts may be cut, and only if asked.

Shape legend: n documents of a window, p pieces of them (one, if it is not cut), R rows of a window, T positions a row.

A window holds about ``WINDOW_ROWS`` rows' worth of tokens and is packed by itself, so its rows depend on its documents'
lengths only. How many rows it needs is not known before packing; ``RowTable`` keeps the running count. Packing costs
about 1 us a document (some 40M tokens a second), so finding a row far ahead without an anchor takes that long once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nmm.data.order import random_bits

PACKING_VERSION = 1
WINDOW_ROWS = 256
SPREAD_SHARE = 0.5
EVEN_ROWS = 1.01  # times as many rows are taken, if that gives every row its part of the images
MIN_PIECE = 16  # positions: a text is not cut into less to fill a row


@dataclass(frozen=True)
class Layout:
    """Where a window's documents stand. All arrays are (p,) int64, sorted by row, then by place in the row.

    ``document`` indexes the window's documents as they were given to ``lay_out``; ``place`` is the piece's number in
    its row, ``column`` its first position there, ``length`` the positions it has. It holds the document from position
    ``begin`` on; where that is not 0 the position before stands in front of it once more, so that no target is lost.
    """

    document: np.ndarray
    row: np.ndarray
    place: np.ndarray
    column: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    rows: int

    def only(self, rows: np.ndarray) -> tuple[Layout, np.ndarray]:
        """The layout of ``rows`` (increasing numbers) alone, renumbered from 0, and which documents it keeps."""
        number = np.full(self.rows, -1)
        number[rows] = np.arange(len(rows))
        kept = np.flatnonzero(number[self.row] >= 0)
        return replace(self._taken(kept), row=number[self.row[kept]], rows=len(rows)), kept

    def without(self, dropped: np.ndarray) -> Layout:
        """The same rows with holes where the (p,) bool ``dropped`` pieces stood."""
        return self._taken(np.flatnonzero(~dropped))

    def _taken(self, kept: np.ndarray) -> Layout:
        names = ("document", "row", "place", "column", "begin", "length")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def pack(
    lengths: np.ndarray, width: int, fewest: int = 0, spread_share: float = SPREAD_SHARE
) -> tuple[np.ndarray, int]:
    """Assign documents of (n,) ``lengths`` to rows of ``width`` positions: (n,) row numbers, and the number of rows.

    Longest first. The first half of the tokens is dealt out evenly (each document to the emptiest of as many rows as
    the tokens need), the rest goes to the fullest row that still holds it. Filling alone would give rows of one length
    and so of one source, and batches of few rows would swing between sources; dealing first more than halves that swing
    and leaves the rows as full. There are at least ``fewest`` rows, ``spread_share`` of the tokens are dealt. Raises
    ValueError for a document that is empty or longer than a row.
    """
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= width:
        raise ValueError(f"documents must have 1..{width} positions, got {lengths.min()}..{lengths.max()}")
    order, total = np.argsort(-lengths, kind="stable"), int(lengths.sum())
    rows = max(fewest, -(-total // width))
    by_room: list[list[int]] = [[] for _ in range(width)] + [list(range(rows))[::-1]]
    rooms = 1 << width  # bit k is set while some row has k positions free, so the tightest fit is one bit trick away
    assigned, to_spread = [], spread_share * total
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


class Pieces(NamedTuple):
    """(p,) int64 each: which document, in which row, from which of its positions on, how many positions there."""

    document: np.ndarray
    row: np.ndarray
    begin: np.ndarray
    length: np.ndarray


def place(lengths: np.ndarray, width: int, cuttable: np.ndarray | None = None) -> tuple[Pieces, int]:
    """Rows for (n,) documents: the pieces in the order of their documents, and the number of rows.

    Documents are packed whole, but for the (n,) bool ``cuttable`` ones: they fill what the others leave, longest first,
    and are cut where a row ends. A later piece repeats the position before it. The others are dealt out evenly over all
    rows, if that takes hardly more rows than packing them tightly.
    """
    if cuttable is None or not cuttable.any():
        row, rows = pack(lengths, width)
        return Pieces(np.arange(len(lengths)), row, np.zeros(len(lengths), np.int64), lengths.astype(np.int64)), rows
    total = -(-int(lengths.sum()) // width)
    even, tight = (_filled(lengths, width, cuttable, *how) for how in ((total, 1.0), (0, SPREAD_SHARE)))
    return even if even[1] <= EVEN_ROWS * tight[1] else tight


def _filled(
    lengths: np.ndarray, width: int, cuttable: np.ndarray, fewest: int, spread_share: float
) -> tuple[Pieces, int]:
    """Documents that stay whole packed as ``pack`` does, the others poured into what is left."""
    whole = np.flatnonzero(~cuttable)
    row, rows = pack(lengths[whole], width, fewest, spread_share)
    used = np.bincount(row, lengths[whole], rows).astype(np.int64)
    text = np.flatnonzero(cuttable)
    text = text[np.argsort(-lengths[text], kind="stable")]
    poured, rows = _pour(lengths[text].tolist(), (width - used).tolist(), width)
    number, to, begin, length = np.array(poured, np.int64).reshape(-1, 4).T
    document = np.concatenate([whole, text[number]])
    order = np.argsort(document, kind="stable")
    zeros = np.zeros(len(whole), np.int64)
    parts = (document, np.concatenate([row, to]), np.concatenate([zeros, begin]))
    return Pieces(*(part[order] for part in (*parts, np.concatenate([lengths[whole], length])))), rows


def _pour(lengths: list[int], gaps: list[int], width: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """(document, row, begin, length) of texts that fill rows with ``gaps`` free positions; and the number of rows."""
    by_room: list[list[int]] = [[] for _ in range(width + 1)]
    rooms = 0
    for row, room in enumerate(gaps):
        if room:
            by_room[room].append(row)
            rooms |= 1 << room
    pieces, rows = [], len(gaps)
    for number, whole in enumerate(lengths):
        begin = 0
        while begin < whole:
            again = min(begin, 1)
            fitting = rooms >> (whole - begin + again)
            largest = rooms.bit_length() - 1
            if fitting:
                room = whole - begin + again + (fitting & -fitting).bit_length() - 1
            elif largest >= MIN_PIECE + again:
                room = largest
            else:
                by_room[width].append(rows)
                rooms |= 1 << width
                rows, room = rows + 1, width
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            length = min(room, whole - begin + again)
            pieces.append((number, row, begin, length))
            begin += length - again
            if room > length:
                by_room[room - length].append(row)
                rooms |= 1 << (room - length)
    return pieces, rows


def lay_out(lengths: np.ndarray, width: int, seed: int, window: int, cuttable: np.ndarray | None = None) -> Layout:
    """Pack a window's documents, then shuffle its rows and the pieces in each row (packing orders by length)."""
    pieces, rows = place(lengths, width, cuttable)
    new_number = np.empty(rows, np.int64)
    new_number[np.argsort(random_bits(rows, seed, "rows", str(window)), kind="stable")] = np.arange(rows)
    row_of = new_number[pieces.row]
    order = np.lexsort((random_bits(len(row_of), seed, "places", str(window)), row_of))
    row, length = row_of[order], pieces.length[order]
    first = np.searchsorted(row, np.arange(rows))
    before = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])[:-1]
    column = before - before[first][row]
    return Layout(
        pieces.document[order], row, np.arange(len(row)) - first[row], column, pieces.begin[order], length, rows
    )


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
