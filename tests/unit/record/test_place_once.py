"""One file, many writers, one winner: by a hard link, and where the file system has none by a claim."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from nmm.record import RecordError, begin_attempt, files, publish, read_json, read_record
from nmm.record.files import place_once

UNSUPPORTED = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV]


def no_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "link", refuse)


@pytest.mark.parametrize("number", [0, *UNSUPPORTED])
def test_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    if number:
        no_links(monkeypatch, number)
    path = tmp_path / "record.json"
    assert place_once(path, {"by": 1})
    assert not place_once(path, {"by": 2})
    assert read_json(path) == {"by": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_another_error_is_no_reason_for_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        place_once(tmp_path / "record.json", {})
    assert list(tmp_path.iterdir()) == []


def race(path: Path, number: int, start: Any, won: Any) -> None:
    start.wait(30)
    if place_once(path, {"by": number}):
        won.put(number)


@pytest.mark.parametrize("links", [True, False])
def test_of_eight_processes_exactly_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        no_links(monkeypatch, errno.ENOTSUP)  # the children are forks
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path / "record.json", n, start, won)) for n in range(8)]
    for racer in racers:
        racer.start()
    start.set()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0, "a racer did not end within 60 s"
    winner = won.get(timeout=10)
    assert won.empty()
    assert read_json(tmp_path / "record.json") == {"by": winner}


def test_a_claim_whose_process_died_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch, errno.ENOTSUP)
    monkeypatch.setattr(files, "CLAIM_SECONDS", 0.1)
    (tmp_path / ".record.json.claim").touch()
    with pytest.raises(RecordError, match="delete the claim and run again"):
        place_once(tmp_path / "record.json", {})
    assert [p.name for p in tmp_path.iterdir()] == [".record.json.claim"]


@pytest.mark.parametrize("number", UNSUPPORTED[:2])
def test_records_are_published_without_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    no_links(monkeypatch, number)
    record = {"status": "done", "result": {"loss": 1.5, "steps": (1, 2)}}
    assert publish(tmp_path, begin_attempt(tmp_path), record) == record
    agreed = publish(tmp_path, begin_attempt(tmp_path), record)
    assert agreed == read_record(tmp_path) and list(tmp_path.glob("alarm-*")) == []
    with pytest.raises(RecordError, match="attempt 0003 finished with another result"):
        publish(tmp_path, begin_attempt(tmp_path), {"status": "done", "result": {"loss": 1.0}})
    assert read_json(tmp_path / "alarm-0003.json") == {
        "published": {"loss": 1.5, "steps": [1, 2]},
        "this": {"loss": 1.0},
    }
