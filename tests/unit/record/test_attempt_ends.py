"""Whose an attempt is, how it ended, what of a dead one is cleared away, and that a full disk can still be told of."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import child_environment

from nmm.record import (
    CAUSES,
    RecordError,
    attempts,
    begin_attempt,
    ended,
    is_alive,
    is_over,
    made,
    newest_checkpoint,
    owner,
    read_json,
    write_json,
)
from nmm.record.attempt import DETAIL_CHARACTERS
from nmm.record.owner import slurm_task

HOST = socket.gethostname().replace(".", "_")


def dead_attempt(run: Path, code: str = "") -> Path:
    """An attempt whose process was killed, after executing ``code`` with ``attempt``."""
    body = "import pathlib, time\nfrom nmm.record import begin_attempt\n"
    body += f"attempt = begin_attempt(pathlib.Path({str(run)!r}))\n"
    body += f"{code}\nprint(attempt.path, flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", body], env=child_environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        path = Path(child.stdout.readline().decode().strip())
        child.send_signal(signal.SIGKILL)
    return path


# ------------------------------------------------------------------------------------------------------------- owner


def test_an_attempt_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    whose = owner(begin_attempt(tmp_path).path)
    assert whose is not None
    assert (whose["host"], whose["pid"], whose["slurm"]) == (socket.gethostname(), os.getpid(), None)
    assert whose["started"].endswith("Z") and whose["boot"]


@pytest.mark.parametrize(
    ("environ", "task"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, {"task": "12", "restart": 0, "job": "12"}),
        (
            {
                "SLURM_JOB_ID": "4003",
                "SLURM_ARRAY_JOB_ID": "4000",
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_RESTART_COUNT": "2",
            },
            {"task": "4000_3", "restart": 2, "job": "4003"},
        ),
    ],
)
def test_the_slurm_task(environ: dict[str, str], task: dict[str, Any] | None) -> None:
    assert slurm_task(environ) == task


def test_an_attempt_of_an_older_nmm_has_no_owner_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    (tmp_path / "owner.json").write_text("[1]")
    with pytest.raises(RecordError, match=r"owner.json does not say whose"):
        owner(tmp_path)


# ------------------------------------------------------------------------------------------------------------- ended


def test_how_it_ended_and_of_what(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    assert ended(attempt.path) is None
    attempt.end("failed", "Traceback ...", "disk")
    assert ended(attempt.path) == {"status": "failed", "cause": "disk", "detail": "Traceback ..."}
    assert (attempt.path / "log.txt").read_text().endswith("ended: failed (disk)\n")
    assert not (attempt.path / "reserve").exists()
    with pytest.raises(AssertionError):
        begin_attempt(tmp_path).end("failed", "", "the weather")
    assert len(CAUSES) == 8


def test_what_older_attempts_wrote_has_no_cause_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "ended.json", {"status": "done", "detail": ""})
    assert ended(tmp_path) == {"status": "done", "detail": "", "cause": ""}
    for text in ("{}", "[]", '{"stat'):
        (tmp_path / "ended.json").write_text(text)
        with pytest.raises(RecordError, match=r"ended.json"):
            ended(tmp_path)


def test_a_long_detail_keeps_both_its_ends(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    attempt.end("failed", "first" + "x" * 100_000 + "last")
    detail = read_json(attempt.path / "ended.json")["detail"]
    assert detail.startswith("first") and detail.endswith("last") and len(detail) < DETAIL_CHARACTERS + 20


def test_the_lock_is_let_go_even_when_the_end_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    attempt = begin_attempt(tmp_path)
    monkeypatch.setattr("nmm.record.attempt.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        attempt.end("failed", "", "disk")
    assert not made.is_alive(attempt.path)


def test_a_forked_process_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from nmm.record import begin_attempt\n"
        "made = begin_attempt(Path(sys.argv[1]))\n"
        "told, tell = os.pipe()\n"
        "child = os.fork() or os.write(tell, b'!') and time.sleep(60)\n"
        "print(child if os.read(told, 1) else 0, flush=True)\n"
        "sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=child_environment(), stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        (attempt,) = attempts(tmp_path)
        assert is_alive(attempt)
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is there
        assert not is_alive(attempt) and is_over(attempt)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_line_of_metrics_is_whole_or_not_there(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: the disk becomes full in the middle of a line."""
    code = f"""
import pathlib, resource
from nmm.record import begin_attempt
attempt = begin_attempt(pathlib.Path({str(tmp_path)!r}))
attempt.log_metrics({{"step": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    attempt.log_metrics({{"step": 2, "more": "x" * 50}})
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert (tmp_path / "attempts/0001/metrics.jsonl").read_text() == '{"step": 1}\n'


# ---------------------------------------------------------------------------------------------------- over, and swept


def test_which_attempts_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, told, killed = begin_attempt(tmp_path), begin_attempt(tmp_path), dead_attempt(tmp_path)
    told.end("interrupted")
    assert [is_over(path) for path in (alive.path, told.path, killed)] == [False, True, True]
    being_made = tmp_path / "attempts" / "0009"
    being_made.mkdir()
    assert not is_over(being_made)
    whose = read_json(killed / "owner.json")
    write_json(killed / "owner.json", {**whose, "host": "another"})
    assert not is_over(killed), "a free lock says nothing about a process elsewhere"
    write_json(killed / "owner.json", {**whose, "boot": ""})
    assert not is_over(killed), "nothing tells whether the machine was started anew"
    write_json(killed / "owner.json", {**whose, "boot": "another"})
    assert is_over(killed), "no process outlives a start of its machine"
    write_json(killed / "owner.json", whose)
    (killed / "owner.json").write_text("half")
    assert not is_over(killed)


def test_a_mark_of_an_unfinished_checkpoint_goes_with_the_checkpoint_only(tmp_path: Path) -> None:
    """Power was lost on another machine between the two renames of the first save."""
    killed = dead_attempt(tmp_path, "attempt.save_checkpoint(4, lambda file: file.write(b'four'))")
    folder, gone = killed / "checkpoints", subprocess.Popen(["true"])
    gone.wait()
    (folder / "step-000000004.json").rename(folder / f".step-000000004.json.{HOST}-{gone.pid}-x01234567.tmp")
    write_json(killed / "owner.json", {**read_json(killed / "owner.json"), "host": "another"})
    assert newest_checkpoint(tmp_path) is None
    begin_attempt(tmp_path).close()
    assert newest_checkpoint(tmp_path) is None, "not a checkpoint that has lost its checksum"


def test_the_next_attempt_clears_away_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    """And nothing of one that lives, or that may live elsewhere."""
    killed = dead_attempt(tmp_path, "attempt.save_checkpoint(4, lambda file: file.write(b'four'))")
    alive = begin_attempt(tmp_path)
    elsewhere = begin_attempt(tmp_path).path
    half = [f"checkpoints/.step-000000005.pt.{HOST}-1-x0000000a.tmp", f".ended.json.{HOST}-1-x0000000b.tmp"]
    for folder in (killed, alive.path, elsewhere):
        (folder / "checkpoints").mkdir(exist_ok=True)
        for name in half:
            (folder / name).write_text("half")
    write_json(elsewhere / "owner.json", {**read_json(elsewhere / "owner.json"), "host": "another"})
    fresh = begin_attempt(tmp_path)
    assert not any((killed / name).exists() for name in half)
    assert all((folder / name).exists() for name in half for folder in (alive.path, elsewhere))
    assert not (killed / "reserve").exists() and (alive.path / "reserve").exists()
    assert (killed / "checkpoints/step-000000004.pt").read_bytes() == b"four"
    assert "removed what attempt 0001 left half written: .step-000000005.pt." in (fresh.path / "log.txt").read_text()


def test_temporary_files_of_the_run_itself_go_when_their_process_has(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    names = {
        f".config.json.{HOST}-{gone.pid}-x0000000a.tmp": False,
        f".config.json.{HOST}-{os.getpid()}-x0000000a.tmp": True,
        f".config.json.another-{gone.pid}-x0000000a.tmp": True,
        ".config.json.whatever.tmp": True,
    }
    for name in names:
        (tmp_path / name).write_text("half")
    begin_attempt(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_file_system_without_locks_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("nmm.record.attempt.fcntl.flock", refuse)
    with pytest.raises(RecordError, match=r"attempts/0001: this file system has no file locks .* -o flock"):
        begin_attempt(tmp_path)


def test_what_is_written_at_the_beginning_is_there(tmp_path: Path) -> None:
    path = begin_attempt(tmp_path).path
    assert sorted(p.name for p in path.iterdir()) == ["lock", "metrics.jsonl", "owner.json", "reserve"]
    assert (path / "reserve").stat().st_blocks * 512 >= 1 << 14, "a sparse file keeps no room"
    assert json.loads((path / "owner.json").read_text())["pid"] == os.getpid()
