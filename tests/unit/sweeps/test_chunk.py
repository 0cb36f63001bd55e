from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nmm.config import ConfigError
from sweeps.chunk import LEVELS, chunks, run_chunk
from sweeps.launch import Options


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_the_chunks_of_both_levels_cover_every_line_exactly_once(plan, size: int) -> None:
    entries = plan(archs=["early", "late", "moe"]).entries
    pieces = [piece for level in LEVELS for piece in chunks(entries, level, size)]
    assert sorted(e.run_id for piece in pieces for e in piece) == sorted(e.run_id for e in entries)
    assert all(1 <= len(piece) <= size for piece in pieces)
    assert all(e.role == level for level in LEVELS for piece in chunks(entries, level, size) for e in piece)


def test_lines_added_later_move_no_earlier_chunk(plan) -> None:
    before = chunks(plan(seeds=[0]).entries, "branch", 2)
    after = chunks(plan(seeds=[0, 1]).entries, "branch", 2)
    assert after[: len(before)] == before


def test_an_index_level_or_size_that_does_not_exist_is_an_error(plan) -> None:
    path: Path = plan().path
    console = Console(file=io.StringIO())
    for index in (-1, 2):
        with pytest.raises(ConfigError, match="has 2 chunks of 1 for level trunk"):
            run_chunk(path.parent, index, 1, "trunk", Options(), console)
    with pytest.raises(ConfigError, match="is not one of trunk, branch"):
        run_chunk(path.parent, 0, 1, "twig", Options(), console)
    with pytest.raises(ConfigError, match="at least 1"):
        run_chunk(path.parent, 0, 0, "trunk", Options(), console)
