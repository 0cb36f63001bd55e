"""The same thing asked for twice: two processes on one run, a finished run again, several plans in one second."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drill_faults as faults
from drill_processes import Processes
from drill_runs import Calm
from fake_sweep import plan_sweep, wait_for
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, ended, read_record
from sweeps import manifest


def test_launched_twice_at_once(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """Both finish, each in an attempt of its own, and agree; there is one record."""
    pair = [processes.start(disturbed) for _ in range(2)]
    codes = [child.wait() for child in pair]
    directory = run_directory(disturbed)
    assert codes == [0, 0], "\n".join(child.log.read_text() for child in pair)
    assert [path.name for path in attempts(directory)] == ["0001", "0002"]
    for attempt in attempts(directory):
        told = ended(attempt)
        assert told is not None and told["status"] == "done"
    assert list(directory.glob("alarm-*")) == []
    calm.check(processes, disturbed)


def test_the_old_process_of_a_requeued_run_still_lives(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """A zombie writer, stopped in the middle of a checkpoint, wakes when its successor has finished: no harm done."""
    zombie = processes.start(disturbed, faults.frozen_in_a_checkpoint)
    directory = run_directory(disturbed)
    zombie.until(lambda: list(directory.rglob("*.tmp")) and faults.is_stopped(zombie.process.pid), "it to stop")
    record = processes.finish(disturbed)
    assert record["result"] == calm.result
    published = (directory / "record.json").read_bytes()
    before = listing(attempts(directory)[1])
    faults.wake(zombie.process.pid)
    assert zombie.wait() == 0, zombie.log.read_text()
    assert (directory / "record.json").read_bytes() == published
    assert listing(attempts(directory)[1]) == before, "the old process wrote into the new one's attempt"
    assert list(directory.glob("alarm-*")) == []
    calm.check(processes, disturbed)


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Everything below a folder: name -> (inode, time of change, digest)."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.stat().st_ino, path.stat().st_mtime_ns, digest)
    return found


def test_a_finished_run_is_left_alone(processes: Processes, calm: Calm) -> None:
    before = listing(run_directory(calm.config))
    record = processes.finish(calm.config)
    assert record["result"] == calm.result
    assert listing(run_directory(calm.config)) == before


def plan_when_told(directory: Path, go: Path, seeds: list[int]) -> None:
    """Plan a sweep the moment ``go`` exists, on a disk so slow that all would meet between reading and writing."""
    write_atomic = manifest.write_atomic

    def slowly(*arguments: Any) -> None:
        time.sleep(0.3)
        write_atomic(*arguments)

    manifest.write_atomic = slowly
    wait_for(go.exists, "the signal to begin")
    plan_sweep(directory, seeds=seeds)


def plan_at_once(processes: Processes, folder: Path, seeds: list[list[int]]) -> list[Any]:
    plan_sweep(folder / "before")  # writes the manifest of the shards, which all plans read
    children = [processes.call(plan_when_told, folder / "runs", folder / "go", chosen) for chosen in seeds]
    (folder / "go").touch()
    return [(child.wait(), child.log.read_text()) for child in children]


def test_four_plans_of_one_sweep_in_the_same_second(processes: Processes, tmp_path: Path) -> None:
    outcomes = plan_at_once(processes, tmp_path, [[0]] * 4)
    assert [code for code, _ in outcomes] == [0] * 4, outcomes
    assert len(manifest.read(tmp_path / "runs")) == 6
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names <= {manifest.FILE_NAME, manifest.LOCK_NAME}, "something half written was left"


def test_four_growing_plans_in_the_same_second(processes: Processes, tmp_path: Path) -> None:
    """Each adds a seed: what a plan said it wrote is in the manifest, or the plan was refused."""
    outcomes = plan_at_once(processes, tmp_path, [[0, 1], [0, 2], [0, 3], [0, 4]])
    kept = {entry.config.seed for entry in manifest.read(tmp_path / "runs")}
    for seed, (code, text) in enumerate(outcomes, start=1):
        assert seed in kept if code == 0 else "ManifestError" in text, text
    assert 0 in [code for code, _ in outcomes]


def test_a_run_directory_is_named_by_content_not_by_time(make_config: Callable[..., RunConfig]) -> None:
    """Two sweeps that plan the same run at the same moment mean one directory; any other run has another."""
    names = [run_directory(make_config(seed=seed, sweep=sweep)).name for seed in (0, 1) for sweep in ("one", "other")]
    assert names[0] == names[1] and names[2] == names[3] and names[0] != names[2]
    assert json.dumps(names)  # plain text, safe in a path


def test_nothing_was_published_by_accident(calm: Calm) -> None:
    """The run all drills are compared with is what it was when they began."""
    record = read_record(run_directory(calm.config))
    assert record is not None and record["result"] == calm.result
