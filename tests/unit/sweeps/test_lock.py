from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from sweeps.lock import Holder, LaunchError, lock_holder, only_launcher
from sweeps.slurm import cancel
from sweeps.slurm.cancel import stop_launcher


def test_the_holder_says_who_it_is_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    for _ in range(2):
        with only_launcher(tmp_path):
            holder = lock_holder(tmp_path)
            assert holder == Holder(socket.gethostname(), os.getpid()) and holder.here
            with pytest.raises(LaunchError, match="another `nmm sweep launch` is at work"), only_launcher(tmp_path):
                pass
            assert lock_holder(tmp_path) == holder  # the one that was refused has not wiped it out
        assert lock_holder(tmp_path) is None


def test_a_launcher_here_is_asked_to_stop_and_one_elsewhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(cancel.os, "kill", lambda pid, signum: told.append((pid, signum)))
    assert stop_launcher(tmp_path) == "no launcher is at work on this directory"
    with only_launcher(tmp_path) as lock:
        assert f"TERM to process {os.getpid()}" in stop_launcher(tmp_path)
        for text, said in (
            ('{"host": "elsewhere", "pid": 7}', "on elsewhere (process 7): stop it there"),
            ("", "where)"),
        ):
            lock.truncate(0)
            lock.write(text)
            lock.flush()
            assert said in stop_launcher(tmp_path)
    assert told == [(os.getpid(), signal.SIGTERM)]
