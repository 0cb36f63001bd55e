"""Rows of a metrics.jsonl while somebody writes it: the first, the newest, and some of all; torn lines are left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TAIL_BYTES = 8192
TAIL_ROWS = 16
WHOLE_BYTES = 1 << 18  # of a longer file only some lines are read


def parse_row(line: bytes) -> dict[str, Any] | None:
    """A whole row with a step; None for a torn one (the file is being written, or its writer was killed)."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        return None
    return values


def last_rows(path: Path) -> list[dict[str, Any]]:
    """Whole rows among the last 16 lines and 8 kB, oldest first; none of a file that is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[-TAIL_ROWS:]
    except FileNotFoundError:
        return []
    return [row for row in map(parse_row, lines) if row is not None]


def first_row(path: Path) -> dict[str, Any] | None:
    """The first whole row; None of a file without one."""
    try:
        with open(path, "rb") as file:
            for line in file:
                row = parse_row(line)
                if row is not None:
                    return row
    except FileNotFoundError:  # the attempt is only being made
        return None
    return None


def some_rows(path: Path, most: int) -> list[dict[str, Any]]:
    """About ``most`` rows, evenly spaced, first and newest among them; of a long file only these are read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= WHOLE_BYTES:
                rows = [row for row in map(parse_row, file.read().split(b"\n")) if row is not None]
                at = range(len(rows)) if len(rows) <= most else (i * (len(rows) - 1) // (most - 1) for i in range(most))
                return [rows[i] for i in at]
            found = {row["step"]: row for row in last_rows(path)[-1:]}
            for number in range(most - 1):
                file.seek(number * size // most)
                if number:
                    file.readline()  # the rest of a line that began before
                row = parse_row(file.readline())
                if row is not None:
                    found[row["step"]] = row
    except FileNotFoundError:
        return []
    return [found[step] for step in sorted(found)]
