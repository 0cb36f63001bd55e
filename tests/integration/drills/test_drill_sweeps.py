"""What a sweep does when single runs, its disk, its launcher or one of its records fail. The training is fake here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sweep import behave_as, end_started, executed, launch, plan_sweep, run_command

from nmm.record import attempts, status

TRUNKS = 2


@pytest.fixture(autouse=True)
def _end_started() -> Iterator[None]:
    yield
    end_started()


def note_of(directory: Path, run: str) -> dict[str, str]:
    note: dict[str, str] = json.loads((directory / "launcher" / "failures" / f"{run}.json").read_text())
    return note


def test_out_of_memory_in_one_size(tmp_path: Path) -> None:
    """Not tried again unchanged, not even by the same launch; the other sizes are finished."""
    directory = tmp_path / "runs"
    entries = plan_sweep(directory)
    largest = next(e for e in entries if e.role == "trunk" and e.config.size.name == "d32")
    behave_as(directory, {largest.run_id: ["oom"]})
    code, text = launch(directory, "workers=2", "retries=3")
    assert code == 1
    assert len(attempts(directory / largest.run_id)) == 1
    assert note_of(directory, largest.run_id)["cause"] == "oom"
    assert Counter(status(directory / e.run_id) for e in entries) == {"done": 3, "failed": 1, "pending": 2}
    assert "1 failed, 2 blocked, 3 done of 6 runs" in text


def test_the_disk_is_full(small_disk: Path) -> None:
    """The launch starts no further run and says why; with room again, it finishes."""
    directory = small_disk / "runs"
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["full", "ok"] for e in entries})
    code, text = launch(directory, "workers=1", "retries=3")
    assert code == 1, text
    assert f"no further runs are started: {directory} has no room (No space left on device)" in text
    assert len(executed(directory)) == 1
    assert Counter(status(directory / e.run_id) for e in entries) == {"pending": 5, "failed": 1}
    code, text = launch(directory, "workers=1")  # nothing has changed
    assert code in (1, 2) and "No space left on device" in text and "Traceback" not in text
    (small_disk / "filler").unlink()
    behave_as(directory, {})
    code, text = launch(directory, "workers=1")
    assert code == 0, text


def test_a_record_is_half_written(tmp_path: Path) -> None:
    """That run is unreadable, named and told; the others load."""
    directory = tmp_path / "runs"
    entries = plan_sweep(directory)
    assert launch(directory, "workers=2")[0] == 0
    victim = next(e.run_id for e in entries if e.role == "branch")
    record = directory / victim / "record.json"
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    code, text = run_command("status", str(directory))
    assert code == 1 and "Traceback" not in text
    assert "5 done" in text and "1 unreadable" in text and victim in text
    out = directory / "runs.csv"
    code, text = run_command("table", str(directory), "--out", str(out))
    assert victim in text and "Traceback" not in text, "the table does not say what it leaves out"
    assert len(out.read_text().splitlines()) == 1 + len(entries) - TRUNKS - 1
    record.write_bytes(whole)
    assert run_command("status", str(directory))[0] == 0
