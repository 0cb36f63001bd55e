from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from status_lab import Lab

from nmm.record import write_json
from sweeps.manifest import SweepError
from sweeps.status import note_failure
from sweeps.status.logs import find_run, show_logs


def shown(sweep: Lab, number: int, attempt: int | None = None, lines: int = 20) -> tuple[int, str]:
    console = Console(width=200, file=io.StringIO())
    code = show_logs(sweep.entries[number].run_id, sweep.directory, attempt, lines, console)
    return code, console.file.getvalue()


def test_a_killed_run_shows_its_attempts_log_note_and_the_way_on(sweep: Lab) -> None:
    run = sweep.entries[0].run_id
    sweep.failed(0, "data", "ShardError: a-03.tar is cut", range(1, 4))
    made = sweep.attempt(0, range(4, 9))
    for number in range(50):
        made.log(f"line {number}")
    made.close()
    worker = sweep.directory / "launcher" / "worker-0.log"
    worker.parent.mkdir(exist_ok=True)
    worker.write_text("much before\n" * 100 + "Killed\n")
    note_failure(sweep.directory, run, "ended by SIGKILL", worker, 2, "exit")
    code, text = shown(sweep, 0, lines=3)
    assert code == 1
    for expected in (
        "2 attempts", "attempt 0001: began 20", "ended: failed (data)", "attempt 0002: began 20",
        "ended without a word", "newest row: step 8, training loss 2.992", "line 49",
        "the launcher noted (about attempt 0002, try 2)",
        "ended by SIGKILL", "Killed", f"`nmm sweep launch {sweep.directory}`",
    ):  # fmt: skip
        assert expected in text, expected
    assert "line 46" not in text and text.count("much before") == 2


def test_one_attempt_can_be_asked_for(sweep: Lab) -> None:
    sweep.failed(0, "data", "ShardError: a-03.tar is cut")
    sweep.attempt(0, range(1, 3))
    code, text = shown(sweep, 0, attempt=1)
    assert "ShardError: a-03.tar is cut" in text and 'File "x.py"' in text
    assert "attempt 0002" not in text
    with pytest.raises(SweepError, match=r"--attempt 7: .* has no such attempt; it has 0001, 0002"):
        shown(sweep, 0, attempt=7)


def test_the_log_of_the_slurm_task_is_shown(sweep: Lab) -> None:
    log = sweep.submission([sweep.entries[0].run_id])
    log.write_text("error: *** JOB 4000 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n")
    sweep.elsewhere(0, slurm={"task": "4000_0", "restart": 2, "job": "4000"})
    _, text = shown(sweep, 0)
    assert "SLURM task 4000_0 (restart 2)" in text and "the SLURM task that had it" in text and "TIME LIMIT" in text


def test_a_done_run_and_one_that_never_began(sweep: Lab) -> None:
    sweep.finish(0)
    assert shown(sweep, 0)[0] == 0 and "finished; nothing to do" in shown(sweep, 0)[1]
    code, text = shown(sweep, 1)
    assert code == 1 and "pending, 0 attempts" in text and "nmm sweep launch" in text


def test_damaged_files_are_named_not_fatal(sweep: Lab) -> None:
    sweep.failed(0, "error", "ValueError: x")
    (sweep.run(0) / "attempts" / "0001" / "ended.json").write_text("{")
    (sweep.run(0) / "attempts" / "0001" / "owner.json").write_text("{")
    _, text = shown(sweep, 0)
    assert "ended.json is not valid JSON" in text and "owner.json is not valid JSON" in text


def test_a_run_outside_a_sweep_goes_on_by_train(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "runs" / "early-d16-run-s0"
    write_json(run / "config.json", {})
    console = Console(width=200, file=io.StringIO())
    assert show_logs(str(run), None, None, 5, console) == 1
    assert f"nmm train --from {run}" in console.file.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# finding it


def made(*paths: Path) -> None:
    for path in paths:
        (path / "attempts").mkdir(parents=True)


def test_a_run_is_found_by_path_id_or_beginning(tmp_path: Path) -> None:
    one, two = tmp_path / "outputs" / "demo" / "runs" / "early-d16-aa", tmp_path / "mine" / "late-d16-bb"
    made(one, two)
    assert find_run("outputs/demo/runs/early-d16-aa", None, tmp_path) == one
    assert find_run("early-d16-aa", None, tmp_path) == one
    assert find_run("early", None, tmp_path) == one
    assert find_run("late", None, tmp_path) == two
    assert find_run("late", two.parent, tmp_path) == two
    assert find_run(str(two), None, Path("/")) == two


def test_deeper_than_two_folders_is_not_searched(tmp_path: Path) -> None:
    made(tmp_path / "a" / "b" / "early-x", tmp_path / "a" / "b" / "c" / "late-x")
    assert find_run("early", None, tmp_path).name == "early-x"
    with pytest.raises(SweepError, match=r"no run is called 'late'.*early-x"):
        find_run("late", None, tmp_path)


def test_a_whole_name_goes_before_a_beginning(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "early-1", tmp_path / "runs" / "early-12")
    assert find_run("early-1", None, tmp_path).name == "early-1"


def test_an_ambiguous_or_unknown_name_lists_the_candidates(tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / f"early-{n:02d}" for n in range(20)]
    made(*runs)
    with pytest.raises(SweepError, match="20 runs begin with 'early-': .*early-00, .* and 8 more. Give more"):
        find_run("early-", None, tmp_path)
    with pytest.raises(SweepError, match="no run is called 'moe' in .*; there are .*early-00"):
        find_run("moe", tmp_path / "runs", tmp_path)
    with pytest.raises(SweepError, match="which holds no run"):
        find_run("moe", tmp_path / "runs" / "early-00", tmp_path)
    with pytest.raises(SweepError, match="is not a directory"):
        find_run("moe", tmp_path / "nowhere", tmp_path)


def test_the_same_run_in_two_sweeps_is_ambiguous(tmp_path: Path) -> None:
    made(tmp_path / "a" / "early-1", tmp_path / "b" / "early-1")
    with pytest.raises(SweepError, match="2 runs are called 'early-1': .*a/early-1, .*b/early-1"):
        find_run("early-1", None, tmp_path)


def test_a_planned_run_that_never_began_is_found(sweep: Lab) -> None:
    run = sweep.entries[2].run_id
    assert find_run(run, None, sweep.directory.parent) == sweep.run(2)
