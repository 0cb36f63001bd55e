"""Counting what the kernel killed for want of memory, in both versions of control groups."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps import pool
from sweeps.oom import oom_kills

V1 = "9:name=systemd:/\n4:memory:/jobs/12\n0::/\n"
V2 = "0::/user.slice/job\n"


@pytest.mark.parametrize(
    ("membership", "file", "text", "expected"),
    [
        (V2, "user.slice/job/memory.events", "low 0\noom 5\noom_kill 3\noom_group_kill 1\n", 3),
        (V1, "memory/jobs/12/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
        (V1, "memory/memory.oom_control", "oom_kill 1\n", 1),  # seen from inside a container
        (V2, "elsewhere", "oom_kill 3\n", 0),
        (V2, "user.slice/job/memory.events", "low 0\n", 0),
    ],
)
def test_the_count_of_our_group(tmp_path: Path, membership: str, file: str, text: str, expected: int) -> None:
    (tmp_path / "cgroup").write_text(membership)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert oom_kills(tmp_path / "cgroup", tmp_path) == expected


def test_where_there_are_no_groups_nothing_is_counted(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "cgroup", tmp_path) == 0


@pytest.mark.parametrize(
    ("status", "kills", "cause"),
    [(-signal.SIGKILL, 1, "oom"), (-signal.SIGKILL, 0, "exit"), (-signal.SIGSEGV, 1, "exit"), (3, 1, "exit")],
)
def test_the_cause_of_a_worker_that_ended_without_a_word(
    monkeypatch: pytest.MonkeyPatch, status: int, kills: int, cause: str
) -> None:
    process: Any = SimpleNamespace(returncode=status, pid=os.getpid())
    worker = pool.Worker(0, process, Path("log"), oom_kills_before=0)
    monkeypatch.setattr(pool, "oom_kills", lambda: kills)
    assert worker.cause_of_end() == cause
