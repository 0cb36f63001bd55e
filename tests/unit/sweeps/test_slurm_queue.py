"""The two things a launch reads: submissions, and what squeue prints."""

from __future__ import annotations

from pathlib import Path

from slurm_tools import FakeSlurm

from sweeps.slurm.queue import live_tasks
from sweeps.slurm.submissions import FOLDER, new_submission, read_submissions


def test_numbers_are_never_taken_twice(tmp_path: Path) -> None:
    made = [new_submission(tmp_path, "my sweep/1", "trunk", [["a"]], {}) for _ in range(3)]
    assert [s.number for s in made] == [1, 2, 3]
    assert len({s.name for s in made}) == 3 and all(s.name.startswith("my_sweep_1-") for s in made)
    assert read_submissions(tmp_path) == made
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["0001.json", "0002.json", "0003.json"]


def test_what_squeue_prints_is_read(slurm: FakeSlurm) -> None:
    slurm.queue(("a-1", "4000_3", "RUNNING"), ("a-1", "4000_12", "PENDING"))
    running, waiting = live_tasks(["a-1", "b-2"])
    assert (running.task, running.node, running.index, running.job, running.started) == (
        "4000_3",
        "n1",
        3,
        "4000",
        True,
    )
    assert (waiting.index, waiting.started, waiting.restarts) == (12, False, 0)
    assert "--name=a-1,b-2" in slurm.asked("squeue")[0]
    assert live_tasks([]) == []
