from __future__ import annotations

import resource
from pathlib import Path

from sweeps.manifest import Entry
from sweeps.room import lack_of_room


def test_there_is_room_and_nothing_is_left_of_the_trial(entries: list[Entry], tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    assert lack_of_room(tmp_path, entries[0].config) == ""
    assert list((tmp_path / "launcher").iterdir()) == []


def test_what_would_not_fit_is_told_without_writing_it(entries: list[Entry], tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        why = lack_of_room(tmp_path, entries[0].config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert why == "File too large"
    assert list((tmp_path / "launcher").iterdir()) == []


def test_a_directory_that_is_not_there_has_none(entries: list[Entry], tmp_path: Path) -> None:
    assert lack_of_room(tmp_path / "gone", entries[0].config) == "No such file or directory"
