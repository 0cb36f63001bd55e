"""SIGINT reaches the command that a study runs, and only once: with real processes, one of them at a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
(pathlib.Path(sys.argv[0]).parent / "ready").touch()
time.sleep(60)
"""
STUDY = """
import os, pathlib, subprocess, sys
from rich.console import Console
from sweeps.interventions import process
folder = pathlib.Path(sys.argv[0]).parent
if os.isatty(0):
    os.open(os.ttyname(0), os.O_RDWR)  # the first terminal that a leader of a session opens is its own
passed_on, send = [], subprocess.Popen.send_signal
subprocess.Popen.send_signal = lambda self, number: (passed_on.append(int(number)), send(self, number))
process.PROGRAM, process.REFRESH_SECONDS = (sys.executable, str(folder / "command.py")), 0.05
end = process.run_command((), folder / "log", "step", Console(file=open(os.devnull, "w")))
(folder / "end").write_text(f"{end.code} {end.stopped_by} {passed_on}")
"""


def begun(folder: Path, terminal: int) -> subprocess.Popen[bytes]:
    """A study in a session of its own, once its command is ready."""
    (folder / "command.py").write_text(COMMAND)
    (folder / "study.py").write_text(STUDY)
    study = subprocess.Popen([sys.executable, str(folder / "study.py")], stdin=terminal, start_new_session=True)
    while not (folder / "ready").exists():
        assert study.poll() is None
        time.sleep(0.01)
    return study


def outcome(folder: Path, study: subprocess.Popen[bytes]) -> str:
    """Status of the command, the signal that stopped the study, and what it passed on."""
    try:
        assert study.wait(30) == 0
    finally:
        study.kill()
    return (folder / "end").read_text()


def test_a_scheduler_tells_the_study_alone_which_passes_it_on(tmp_path: Path) -> None:
    study = begun(tmp_path, subprocess.DEVNULL)
    os.kill(study.pid, signal.SIGINT)
    assert outcome(tmp_path, study) == "130 2 [2]"


def test_ctrl_c_at_the_terminal_tells_both_and_is_not_passed_on(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        study = begun(tmp_path, theirs)
        os.write(ours, b"\x03")
        assert outcome(tmp_path, study) == "130 2 []"
    finally:
        os.close(ours)
        os.close(theirs)
