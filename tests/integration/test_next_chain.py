"""plan -> launch -> fit -> next -> launch -> fit through the command line, on runs whose losses follow a known law."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT
from law_sweep import ALPHA, RUNNER, environment, next_runs, plan_law_sweep, run_all

from sweeps import manifest

QUICK = ("--bootstrap", "60")
LAUNCH = (f"runner={RUNNER}", "workers=1", "pin=off")


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nmm.cli", *words],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(fits: Path) -> int:
    return int(json.loads(fits.read_text())["summary"][0]["n_rows"])


def note(directory: Path, number: int) -> dict[str, Any]:
    return json.loads((directory / "next" / f"{number:04d}.json").read_text())


def test_the_whole_chain_by_hand(tmp_path: Path) -> None:
    directory, before, after = tmp_path / "runs", tmp_path / "before.json", tmp_path / "after.json"
    planned = plan_law_sweep(directory)
    old_lines = (directory / "manifest.jsonl").read_bytes()
    command("sweep", "launch", str(directory), *LAUNCH)
    command("fit", str(directory), "--out", str(before), *QUICK)
    status, text = next_runs(directory, "--budget", "8e11", "--fits", str(before))
    assert status == 0, text
    assert f"nmm sweep launch {directory}" in text and "next/0001.json" in text
    entries = manifest.read(directory)
    new = entries[len(planned) :]
    assert entries[: len(planned)] == planned and (directory / "manifest.jsonl").read_bytes().startswith(old_lines)
    assert new and all(e.generation == 1 for e in new)
    why = note(directory, 1)
    assert why["cost"] == pytest.approx(sum(e.estimate.flops for e in new)) and why["cost"] <= 8e11
    assert why["goal"] == "interval of alpha for early" and {r["run_id"] for r in why["runs"]} == {
        e.run_id for e in new
    }
    status, text = next_runs(directory, "--budget", "8e11", *QUICK)
    assert status == 2 and f"{len(new)} planned runs are not finished" in text
    command("sweep", "launch", str(directory), *LAUNCH)
    command("fit", str(directory), "--out", str(after), *QUICK)
    more = sum(e.role == "branch" for e in new)
    assert rows_of(before) == 12 and rows_of(after) == 12 + more  # how much narrower: test_next_promise.py
    assert why["expected"]["high"] - why["expected"]["low"] < why["interval"]["high"] - why["interval"]["low"]
    assert plan_law_sweep(directory) == entries


def test_rounds_end_and_go_on_where_they_were(tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    planned = plan_law_sweep(directory)
    run_all(directory, planned[:-2])  # two are left open: they are run first
    asked = ("--budget", "3e11", *QUICK, *LAUNCH)
    status, text = next_runs(directory, *asked, "--rounds", "1")
    assert status == 0 and "running 2 planned runs" in text and "all 1 rounds are over" in text, text
    first = manifest.read(directory)
    status, text = next_runs(directory, *asked, "--rounds", "1")
    assert status == 0 and "1 of 1 rounds" in text and manifest.read(directory) == first
    asked = ("--budget", "6e11", *QUICK, *LAUNCH)
    status, text = next_runs(directory, *asked, "--rounds", "2", "--until", "1e-6")
    assert status == 1 and "not reached: the interval is" in text and "2 of 2 rounds" in text, text
    costs = [note(directory, number + 1)["cost"] for number in range(len(list((directory / "next").glob("0*.json"))))]
    assert sum(costs) <= 6e11 * (1 + 1e-9) and len(costs) == 2
    status, text = next_runs(directory, *asked, "--rounds", "3", "--until", "10")
    assert status == 0 and "reached: the interval is" in text, text
    shown = float(text.split("interval of alpha for early: ")[1].split()[0])
    assert shown == pytest.approx(ALPHA, rel=0.5)


def test_rounds_stop_when_a_run_fails_and_go_on_when_it_does_not(tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    planned = plan_law_sweep(directory)
    bad = next(e.run_id for e in planned if e.role == "branch")
    (directory / "fails.json").write_text(json.dumps([bad]))
    asked = ("--budget", "3e11", *QUICK, *LAUNCH, "--rounds", "1")
    status, text = next_runs(directory, *asked)
    assert status not in (0, 2) and f"1 runs open (first: {bad})" in text and "goes on from here" in text, text
    assert not list((directory / "next").glob("0*.json"))
    (directory / "fails.json").unlink()
    (directory / "diverges.json").write_text(json.dumps([bad]))  # an end, if not a good one
    status, text = next_runs(directory, *asked)
    assert status == 0 and "fitting 11 points" in text and "all 1 rounds are over" in text, text
