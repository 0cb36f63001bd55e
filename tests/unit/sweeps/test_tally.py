"""Which attempts count against a run's cap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab import child_environment

from nmm.record import begin_attempt, checkpoints
from sweeps.slurm.tally import Tally, tally
from sweeps.status import note_failure

RUN = "a-run"


def attempt(
    directory: Path, status: str = "", cause: str = "", saved: bool = False, task: tuple[str, int] | None = None
) -> None:
    """One attempt that ended with ``status``, or without a word."""
    made = begin_attempt(directory / RUN)
    if task is not None:
        owner = json.loads((made.path / "owner.json").read_text())
        slurm = {"task": task[0], "restart": task[1], "job": "1"}
        (made.path / "owner.json").write_text(json.dumps(owner | {"slurm": slurm}))
    if saved:
        made.save_checkpoint(3, lambda file: file.write(b"x"))
    made.end(status, cause=cause) if status else made.close()


def test_nothing_began(tmp_path: Path) -> None:
    assert tally(tmp_path, RUN) == Tally(0, "")


def test_failures_count_and_stops_do_not(tmp_path: Path) -> None:
    for status, cause in (("failed", "error"), ("interrupted", ""), ("failed", "oom"), ("interrupted", "timeout")):
        attempt(tmp_path, status, cause)
    assert tally(tmp_path, RUN) == Tally(2, "")
    attempt(tmp_path, "failed", "oom")
    assert tally(tmp_path, RUN) == Tally(3, "oom")
    assert tally(tmp_path, RUN).hopeless
    assert tally(tmp_path, RUN, forgiven=5) == Tally(0, "")
    assert tally(tmp_path, RUN, forgiven=3) == Tally(1, "oom")


def test_an_end_without_a_word_counts_unless_something_was_saved(tmp_path: Path) -> None:
    attempt(tmp_path, saved=True)
    assert tally(tmp_path, RUN) == Tally(0, "")
    attempt(tmp_path)
    assert tally(tmp_path, RUN) == Tally(1, "exit")


def test_what_was_saved_counts_after_it_is_cleared_away(tmp_path: Path) -> None:
    for steps in ((1, 2), (3, 4), (5, 6)):
        script = "import os, sys; from pathlib import Path; from nmm.record import begin_attempt\n"
        script += "made = begin_attempt(Path(sys.argv[1]))\n"
        script += f"for step in {steps}: made.save_checkpoint(step, lambda file: file.write(b'x'))\nos._exit(9)"
        subprocess.run([sys.executable, "-c", script, str(tmp_path / RUN)], env=child_environment())
    assert [step for step, _ in checkpoints(tmp_path / RUN)] == [6, 5]  # earlier ones are gone
    assert tally(tmp_path, RUN) == Tally(0, "")


def test_what_failed_before_the_first_attempt_can_be_forgiven(tmp_path: Path) -> None:
    note_failure(tmp_path, RUN, "ConfigError: 0 GPUs", tmp_path / "log", 2)
    assert tally(tmp_path, RUN) == Tally(2, "config")
    assert tally(tmp_path, RUN, forgiven=0) == Tally(0, "")


def test_what_failed_after_an_interrupted_attempt_without_another_one_counts(tmp_path: Path) -> None:
    attempt(tmp_path, "interrupted")
    for tries in range(1, 5):
        note_failure(tmp_path, RUN, "ConfigError: 0 GPUs", tmp_path / "log", tries)
    assert tally(tmp_path, RUN) == Tally(3, "config")  # the first may have been about the attempt itself
    assert tally(tmp_path, RUN, forgiven=1) == Tally(0, "")
    attempt(tmp_path, "interrupted")
    assert tally(tmp_path, RUN) == Tally(0, "")


def test_what_failed_after_a_failed_attempt_without_another_one_counts(tmp_path: Path) -> None:
    attempt(tmp_path, "failed", "error")
    for tries in range(1, 3):
        note_failure(tmp_path, RUN, "ValueError: no", tmp_path / "log", tries)
    assert tally(tmp_path, RUN) == Tally(2, "error")


def test_a_task_that_was_lost_and_came_back_is_nobody_s_fault(tmp_path: Path) -> None:
    attempt(tmp_path, task=("40_1", 0))
    assert tally(tmp_path, RUN, present={"task": "40_1", "restart": 1, "job": "41"}) == Tally(0, "")
    assert tally(tmp_path, RUN, present={"task": "40_1", "restart": 0, "job": "41"}) == Tally(1, "exit")
    attempt(tmp_path, task=("40_1", 1))
    assert tally(tmp_path, RUN) == Tally(1, "exit")
    attempt(tmp_path, "done", task=("50_1", 0))
    assert tally(tmp_path, RUN) == Tally(1, "")


def test_what_the_launcher_saw_of_a_killed_process(tmp_path: Path) -> None:
    attempt(tmp_path, saved=True)
    note_failure(tmp_path, RUN, "ended by SIGKILL", tmp_path / "log", 1, "oom")
    assert tally(tmp_path, RUN) == Tally(1, "oom")


def test_an_attempt_that_is_still_on_does_not_count(tmp_path: Path) -> None:
    held = begin_attempt(tmp_path / RUN)
    assert tally(tmp_path, RUN) == Tally(0, "")
    held.close()
