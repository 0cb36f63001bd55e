from __future__ import annotations

from pathlib import Path

import pytest
from status_lab import Lab

from nmm.record import CAUSES, RecordError
from sweeps.status.failures import cause_of_error, error_line, note_failure, read_note, tail


def test_error_line_finds_the_exception_that_ended_a_chain() -> None:
    chain = "Traceback (most\n  File a\nKeyError: 1\n\nThe above\n\nTraceback (most\n  File b\nValueError: two\nmore\n"
    assert error_line(chain) == "ValueError: two"
    assert error_line("plain words\nmore") == "plain words"
    assert error_line("\n") == ""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("ConfigError: size.width=3 is odd", "config"),
        ("MemoryError (x.py:3)", "error"),
        ("MemoryError", "oom"),
        ("torch.OutOfMemoryError: 20 GiB", "oom"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("OSError: [Errno 5] Input/output error", "error"),
        ("ValueError: No space left in the argument", "error"),
        ("PermissionError: [Errno 13] Permission denied: 'config.json'", "disk"),
        ("OSError: [Errno 30] Read-only file system", "disk"),
        ("RanksLost: the ranks of x were ended by signal 9", "exit"),
    ],
)
def test_a_failure_before_any_attempt_is_told_by_the_name_of_its_error(error: str, cause: str) -> None:
    assert cause_of_error(error) == cause and cause in CAUSES


def test_a_note_takes_the_cause_the_attempt_has_written(sweep: Lab) -> None:
    run = sweep.entries[0].run_id
    assert read_note(sweep.directory, run) is None
    sweep.failed(0, "data", "ShardError: cut")
    assert note_failure(sweep.directory, run, "ShardError: cut", Path("w.log"), 3) == "data"
    assert read_note(sweep.directory, run) == {
        "error": "ShardError: cut", "log": "w.log", "tries": 3, "attempt": "0001", "cause": "data",
    }  # fmt: skip
    assert note_failure(sweep.directory, run, "SIGKILL", Path("w.log"), 3, "exit") == "exit"


def test_a_note_does_not_take_the_cause_of_an_earlier_failure(sweep: Lab) -> None:
    run = sweep.entries[0].run_id
    sweep.failed(0, "oom", "MemoryError: 20 GiB")
    assert note_failure(sweep.directory, run, "ConfigError: this process sees 0 GPUs", Path("w.log"), 1) == "config"


def test_a_damaged_note_is_an_error_that_names_it(sweep: Lab) -> None:
    run = sweep.entries[0].run_id
    path = sweep.directory / "launcher" / "failures" / f"{run}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"error": "x"}')
    with pytest.raises(RecordError, match="is not a launcher's note"):
        read_note(sweep.directory, run)
    assert sweep.state(0).state == "unreadable"


def test_the_tail_of_a_long_file_begins_with_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    lines = tail(path, 100).splitlines()
    assert lines[0].startswith("line ") and lines[-1] == "line 999" and len(lines) < 15
    path.write_bytes(b"\xff broken\n")
    assert "broken" in tail(path)
