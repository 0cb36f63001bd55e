from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.rows import WHOLE_BYTES, first_row, last_rows, some_rows


def written(path: Path, steps: range, padding: int = 0, torn: str = "") -> Path:
    lines = [json.dumps({"step": step, "train_loss": 1.0, "padding": "x" * padding}) + "\n" for step in steps]
    path.write_text("".join(lines) + torn)
    return path


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert (first_row(path), last_rows(path), some_rows(path, 5)) == (None, [], [])
    path.touch()
    assert (first_row(path), last_rows(path), some_rows(path, 5)) == (None, [], [])


def test_torn_lines_and_lines_without_a_step_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "m", range(1, 4), torn='{"loss": 1}\n[1]\n{"step": 9')
    assert [row["step"] for row in last_rows(path)] == [1, 2, 3]
    assert first_row(path)["step"] == 1
    assert [row["step"] for row in some_rows(path, 50)] == [1, 2, 3]


@pytest.mark.parametrize("padding", [0, 400])
def test_a_thinned_file_keeps_its_ends_and_is_evenly_spaced(tmp_path: Path, padding: int) -> None:
    path = written(tmp_path / "m", range(1, 2001), padding)
    assert (path.stat().st_size > WHOLE_BYTES) == bool(padding)
    steps = [row["step"] for row in some_rows(path, 20)]
    assert steps[0] == 1 and steps[-1] == 2000 and 18 <= len(steps) <= 20
    gaps = [later - before for before, later in zip(steps, steps[1:], strict=False)]
    assert max(gaps) < 2 * 2000 / 18
