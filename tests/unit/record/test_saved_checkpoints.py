"""Checkpoints on disk: verified as they are written, refused with a reason, and deleted only when nobody needs them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmm.record import (
    Attempt,
    CheckpointError,
    attempts,
    begin_attempt,
    checkpoints,
    newest_checkpoint,
    read_json,
    saved,
    write_json,
)


def content(step: int) -> bytes:
    return f"weights of step {step} ".encode() * 50


def put(attempt: Attempt, *steps: int, pinned: tuple[int, ...] = ()) -> None:
    for step in steps:
        data = content(step)
        attempt.save_checkpoint(step, lambda file: file.write(data), pinned)  # noqa: B023 - called at once


def steps_of(attempt: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in (attempt / "checkpoints").glob("step-*.pt"))


# ----------------------------------------------------------------------------------------------------------- writing


def test_what_comes_back_different_from_the_disk_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = begin_attempt(tmp_path)
    put(attempt, 3)
    flip = saved._forget_cached

    def bad_disk(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:7] + bytes([data[7] ^ 1]) + data[8:])
        flip(path)

    monkeypatch.setattr(saved, "_forget_cached", bad_disk)
    with pytest.raises(OSError, match="what came back from the disk is not what was written") as told:
        put(attempt, 4)
    assert told.value.errno == errno.EIO
    names = sorted(path.name for path in (attempt.path / "checkpoints").iterdir())
    assert names == ["step-000000003.json", "step-000000003.pt"]
    assert newest_checkpoint(tmp_path) is not None


@pytest.mark.parametrize("when", ["writing", "checksum", "second rename"])
def test_a_full_disk_leaves_the_older_one_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    attempt = begin_attempt(tmp_path)
    put(attempt, 3)
    before = checkpoints(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")

    def writer(file: Any) -> None:
        file.write(content(4))
        if when == "writing":
            raise full

    def fails(real: Callable[..., Any], at: str) -> Callable[..., Any]:
        def call(path: Path, *rest: Any) -> Any:
            if ".json" in Path(path).name and when == at:
                raise full
            return real(path, *rest)

        return call

    monkeypatch.setattr(saved, "staged", fails(saved.staged, "checksum"))
    monkeypatch.setattr(saved.os, "replace", fails(os.replace, "second rename"))
    with pytest.raises(OSError, match="No space left"):
        attempt.save_checkpoint(4, writer)
    assert checkpoints(tmp_path) == before
    names = sorted(path.name for path in (attempt.path / "checkpoints").iterdir())
    assert names == ["step-000000003.json", "step-000000003.pt"]


def test_the_reason_is_told_when_a_library_hides_it(tmp_path: Path) -> None:
    """torch turns an OSError in the file it writes to into a RuntimeError of its own."""

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def like_torch(file: Any) -> None:
        file._file = Full()
        try:
            file.write(b"weights")
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0") from None

    with pytest.raises(OSError, match="No space left"):
        begin_attempt(tmp_path).save_checkpoint(1, like_torch)


# ----------------------------------------------------------------------------------------------------------- choosing


def test_every_refused_one_is_told_with_the_reason(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    put(attempt, 1, 2, 3, 4, 5, 6, pinned=(1, 2, 3, 4))
    folder = attempt.path / "checkpoints"
    (folder / "step-000000006.pt").write_bytes(content(6)[:-1])
    (folder / "step-000000005.pt").write_bytes(content(6))
    (folder / "step-000000004.pt").unlink()
    (folder / "step-000000003.json").write_text("{")
    (folder / "step-000000002.json").unlink()
    told: list[str] = []
    assert newest_checkpoint(tmp_path, told.append) == (1, folder / "step-000000001.pt")
    reasons = [line.removeprefix(f"checkpoint {folder}/") for line in told]
    assert [line.split(" refused: ")[0] for line in reasons] == [f"step-00000000{n}.pt" for n in (6, 5, 4, 3, 2)]
    for line, reason in zip(reasons, ("bytes instead of", "do not match", "missing", "read", "missing"), strict=True):
        assert reason in line


def test_checkpoints_that_have_all_lost_their_checksums_are_an_error(tmp_path: Path) -> None:
    put(begin_attempt(tmp_path), 4, 8)
    for path in tmp_path.rglob("step-*.json"):
        path.unlink()
    with pytest.raises(
        CheckpointError, match=r"2 checkpoints, none matches.*0001/step-000000008.pt: its checksum is mis"
    ):
        newest_checkpoint(tmp_path)
    begin_attempt(tmp_path)
    assert len(checkpoints(tmp_path)) == 2, "the sweep must not turn an error into a silent restart"


def test_empty_checksums_are_an_error(tmp_path: Path) -> None:
    put(begin_attempt(tmp_path), 4)
    for path in tmp_path.rglob("step-*.json"):
        path.write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("left", [[], [".step-000000004.pt.h-1-x0000000a.tmp"], ["pt", "json.tmp"]])
def test_killed_in_its_first_save_a_run_begins_again(tmp_path: Path, left: list[str]) -> None:
    """Whatever was on disk at that moment, no checkpoint had been promised yet."""
    attempt = begin_attempt(tmp_path)
    attempt.end("interrupted")
    folder = attempt.path / "checkpoints"
    folder.mkdir()
    names = {"pt": "step-000000004.pt", "json.tmp": ".step-000000004.json.h-1-x0000000a.tmp"}
    for name in left:
        (folder / names.get(name, name)).write_bytes(content(4))
    assert newest_checkpoint(tmp_path) is None
    begin_attempt(tmp_path)
    assert list(folder.iterdir()) == []
    assert newest_checkpoint(tmp_path) is None


def test_one_that_lost_its_checksum_goes_when_another_is_good(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    put(attempt, 4, 8)
    attempt.end("interrupted")
    (attempt.path / "checkpoints/step-000000008.json").unlink()
    begin_attempt(tmp_path)
    assert [step for step, _ in checkpoints(tmp_path)] == [4]


def test_a_look_while_others_save_and_delete_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin_attempt(tmp_path)
    put(first, 3, 4)
    first.end("interrupted")
    refusal = saved.refusal
    second = begin_attempt(tmp_path)

    def late(path: Path) -> str:
        monkeypatch.setattr(saved, "refusal", refusal)
        put(second, 5, 6)  # deletes what we are about to read
        return refusal(path)

    monkeypatch.setattr(saved, "refusal", late)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found[0] == 6


# ----------------------------------------------------------------------------------------------- of earlier attempts


def test_what_earlier_attempts_left_goes_once_two_newer_ones_are_there(tmp_path: Path) -> None:
    first = begin_attempt(tmp_path)
    put(first, 2, 4, 6, pinned=(2,))
    first.end("failed", "", "exit")
    second = begin_attempt(tmp_path)
    put(second, 8, pinned=(2,))
    assert steps_of(first.path) == [2, 4, 6]
    put(second, 10, pinned=(2,))
    assert steps_of(first.path) == [2], "what is pinned is a branch's beginning"
    assert steps_of(second.path) == [8, 10]


def test_nothing_of_an_attempt_that_lives_or_may_live_is_touched(tmp_path: Path) -> None:
    alive, elsewhere = begin_attempt(tmp_path), begin_attempt(tmp_path)
    put(alive, 2, 4)
    put(elsewhere, 2, 4)
    write_json(elsewhere.path / "owner.json", {**read_json(elsewhere.path / "owner.json"), "host": "another"})
    elsewhere.close()
    put(begin_attempt(tmp_path), 6, 8)
    assert steps_of(alive.path) == steps_of(elsewhere.path) == [2, 4]
    put(alive, 6)  # the zombie goes on, with its own
    assert steps_of(alive.path) == [4, 6]


def test_an_old_attempt_deletes_nothing_of_a_newer_one(tmp_path: Path) -> None:
    old, new = begin_attempt(tmp_path), begin_attempt(tmp_path)
    put(new, 2, 4)
    new.end("interrupted")
    put(old, 6, 8)
    assert steps_of(new.path) == [2, 4]


def test_work_that_this_attempt_has_not_done_yet_stays(tmp_path: Path) -> None:
    """A zombie got further before it died: its steps are the run's newest until they are passed."""
    first = begin_attempt(tmp_path)
    put(first, 2, 9, pinned=())
    first.end("failed", "", "exit")
    second = begin_attempt(tmp_path)
    put(second, 4, 6)
    assert steps_of(first.path) == [9]
    put(second, 8, 10)
    assert steps_of(first.path) == [9]
    put(second, 12)
    assert steps_of(first.path) == []
    assert [step for step, _ in checkpoints(tmp_path)] == [12, 10]
    assert len(attempts(tmp_path)) == 2


def test_the_side_file_says_what_was_meant_to_be_written(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    path = attempt.save_checkpoint(
        5, lambda file: [file.write(content(5)), file.write(memoryview(b"tail")), file.flush()]
    )
    side = json.loads(path.with_suffix(".json").read_text())
    assert side["bytes"] == len(content(5)) + 4 == path.stat().st_size
    assert saved.refusal(path) == ""
