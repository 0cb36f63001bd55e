"""The local launcher with real worker processes; only the training inside them is fake (``fake_sweep.execute``)."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sweep import behave_as, end_started, executed, is_running, launch, plan_sweep, start, wait_for

from nmm.record import attempts, load_table, status


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    end_started()


def statuses(directory: Path, entries) -> Counter[str]:
    return Counter(status(directory / e.run_id) for e in entries)


def test_a_sweep_runs_to_the_end_in_few_processes_and_again_does_nothing(directory: Path) -> None:
    entries = plan_sweep(directory, archs=["early", "other"], seeds=[0, 1])
    code, text = launch(directory, "workers=2")
    assert code == 0, text
    assert text.strip().splitlines()[-1].startswith(f"all {len(entries)} runs are done ({len(entries)} now in ")
    assert len(load_table(directory)) == 16
    made = executed(directory)
    assert sorted(e["run_id"] for e in made) == sorted(e.run_id for e in entries)
    assert len({e["pid"] for e in made}) == 2
    assert {e["threads"] for e in made} == {"1"}
    code, text = launch(directory)
    assert code == 0
    assert "nothing left to run" in text
    assert len(executed(directory)) == len(made)


def test_trunks_run_before_their_branches(directory: Path) -> None:
    entries = plan_sweep(directory)
    assert launch(directory)[0] == 0
    order = [e["run_id"] for e in executed(directory)]
    for entry in entries:
        if entry.parent_id:
            assert order.index(entry.parent_id) < order.index(entry.run_id)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two pinned workers need two cores")
def test_each_worker_stays_on_its_own_cores(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep"] for e in entries})
    process = start(directory, "workers=2", "pin=on")
    made = wait_for(lambda: len(executed(directory)) >= 2 and executed(directory), "two runs to start")
    process.terminate()
    process.wait(timeout=60)
    cores = [e["cores"] for e in made[:2]]
    assert all(len(own) == 1 for own in cores)
    assert cores[0] != cores[1]


def test_a_crash_is_retried_and_the_sweep_goes_on(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[0].run_id: ["raise", "ok"]})
    code, text = launch(directory)
    assert code == 0, text
    assert f"trying again: {entries[0].run_id}: ValueError: attempt 0001 was told to fail (fake_sweep.py:" in text
    assert len(attempts(directory / entries[0].run_id)) == 2


@pytest.mark.parametrize(("way", "said"), [("kill", "SIGKILL; out of memory?"), ("exit", "exited with status 3")])
def test_a_dead_worker_is_replaced_and_its_run_retried(directory: Path, way: str, said: str) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[0].run_id: [way, "ok"]})
    code, text = launch(directory, "workers=1")
    assert code == 0, text
    assert said in text
    assert statuses(directory, entries) == {"done": 6}
    assert len({e["pid"] for e in executed(directory)}) == 2


def test_a_worker_that_dies_after_the_record_is_published_has_not_failed(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[0].run_id: ["die_late"]})
    code, text = launch(directory, "retries=0")
    assert code == 0, text
    assert statuses(directory, entries) == {"done": 6}
    assert len(attempts(directory / entries[0].run_id)) == 1


def test_a_run_that_keeps_failing_is_reported_and_stops_only_its_own_branches(directory: Path) -> None:
    entries = plan_sweep(directory)
    bad = entries[0]
    behave_as(directory, {bad.run_id: ["raise"]})
    code, text = launch(directory)
    assert code == 1
    last = text.strip().splitlines()[-1]
    assert last.startswith("1 failed, 2 blocked, 3 done of 6 runs; first: " + bad.run_id)
    assert "ValueError: attempt 0002 was told to fail" in last
    assert len(attempts(directory / bad.run_id)) == 2
    assert statuses(directory, entries) == {"done": 3, "failed": 1, "pending": 2}
    assert "Traceback" in (directory / "launcher" / "worker-0.log").read_text() + "".join(
        path.read_text() for path in directory.glob("launcher/worker-1.log")
    )
    behave_as(directory, {})
    code, text = launch(directory)
    assert code == 0, text
    assert "(3 now" in text


def test_a_run_that_keeps_killing_its_worker_does_not_take_the_sweep_along(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[-1].run_id: ["kill"]})
    code, text = launch(directory, "workers=2", "retries=2")
    assert code == 1
    assert "1 failed, 5 done of 6 runs" in text
    assert len(attempts(directory / entries[-1].run_id)) == 3
    note = json.loads((directory / "launcher" / "failures" / f"{entries[-1].run_id}.json").read_text())
    assert note["tries"] == 3 and "SIGKILL" in note["error"]


def test_a_diverged_run_is_not_repeated_and_the_launch_says_so(directory: Path) -> None:
    entries = plan_sweep(directory)
    branch = next(e for e in entries if e.role == "branch")
    behave_as(directory, {branch.run_id: ["diverge"]})
    for _ in range(2):
        code, text = launch(directory)
        assert code == 1
        assert "1 diverged, 5 done of 6 runs" in text
    assert len(attempts(directory / branch.run_id)) == 1


def test_a_runner_that_forgets_its_record_has_failed(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {entries[-1].run_id: ["no_record", "ok"]})
    code, text = launch(directory)
    assert code == 0
    assert "without publishing a record" in text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_workers_and_the_next_launch_goes_on(directory: Path, signum: signal.Signals) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep", "ok"] for e in entries})
    process = start(directory, "workers=2")
    made = wait_for(lambda: len(executed(directory)) >= 2 and executed(directory), "two runs to start")
    for entry in made:
        run = directory / entry["run_id"]
        wait_for(lambda run=run: list(run.glob("attempts/*/checkpoints/*.json")), "a checkpoint")
    process.send_signal(signum)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    last = (out + errors).strip().splitlines()[-1]
    assert last.startswith(f"stopped by {signum.name} with 0 of 6 runs done") and "again to go on" in last
    assert not any(is_running(e["pid"]) for e in made)
    assert statuses(directory, entries) == {"interrupted": 2, "pending": 4}
    behave_as(directory, {})
    code, text = launch(directory)
    assert code == 0, text
    assert sum(e["resumed_at"] == 3 for e in executed(directory)) == 2


def test_a_killed_launcher_leaves_no_worker_behind(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep", "ok"] for e in entries})
    process = start(directory, "workers=2")
    made = wait_for(lambda: len(executed(directory)) >= 2 and executed(directory), "two runs to start")
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not any(is_running(e["pid"]) for e in made), "the workers to end")
    behave_as(directory, {})
    code, text = launch(directory)
    assert code == 0, text


def test_a_second_launcher_on_the_same_directory_is_refused(directory: Path) -> None:
    entries = plan_sweep(directory)
    behave_as(directory, {e.run_id: ["sleep"] for e in entries})
    process = start(directory, "workers=1")
    wait_for(lambda: executed(directory), "a run to start")
    code, text = launch(directory)
    process.terminate()
    process.communicate(timeout=60)
    assert code == 2
    assert "another `nmm sweep launch` is at work" in text


def test_a_run_that_another_process_holds_is_taken_over_when_it_lets_go(directory: Path) -> None:
    from nmm.record import begin_attempt

    entries = plan_sweep(directory)
    held = begin_attempt(directory / entries[0].run_id)
    process = start(directory, "workers=1")
    others = [e for e in entries if entries[0].run_id not in (e.run_id, e.parent_id)]
    wait_for(lambda: all(status(directory / e.run_id) == "done" for e in others), "the other runs")
    assert process.poll() is None
    held.close()
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, out + errors
    assert "1 runs belong to another process" in out
    assert statuses(directory, entries) == {"done": 6}


def test_workers_that_cannot_start_end_the_launch_with_the_reason(directory: Path) -> None:
    plan_sweep(directory)
    code, text = launch(directory, "workers=1", "runner=no_such_module:execute")
    assert code == 2
    assert "error: workers cannot start: ModuleNotFoundError: No module named 'no_such_module'" in text
    assert not executed(directory)


def test_editing_the_recipe_after_planning_changes_nothing(directory: Path, tmp_path: Path) -> None:
    """The launcher reads the manifest only; the shards' manifest, which planning read, may even be gone."""
    entries = plan_sweep(directory)
    (tmp_path / "shards" / "manifest.json").unlink()
    assert launch(directory)[0] == 0
    for entry in entries:
        written = json.loads((directory / entry.run_id / "config.json").read_text())["settings"]
        assert written["data"]["fingerprint"] == "f" * 64
        assert written["budget"]["steps"] == entry.config.total_steps


def test_an_edited_manifest_is_not_launched(directory: Path) -> None:
    plan_sweep(directory)
    path = directory / "manifest.jsonl"
    path.write_text(path.read_text().replace('"lr_width": 0.25', '"lr_width": 0.5', 1))
    code, text = launch(directory)
    assert code == 2
    assert "edited by hand" in text
    assert not executed(directory)
