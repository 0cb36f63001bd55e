"""A whole study from one command: shards, a sweep with arms, results, page; stopped by a failure, gone on, a no-op."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import made_up_nmm
import yaml
from lab import child_environment

STEPS = ("shards", "runs-plan", "runs-launch", "page")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, made_up_nmm.__file__, *arguments],
        cwd=cwd,
        env=child_environment() | {"COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_one_command_from_nothing_to_the_page(tmp_path: Path) -> None:
    out = tmp_path / "study"
    first = run("intervention", "pieces", "out=study", "scale=tiny", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert [line.split()[1].rstrip(":") for line in first.stdout.splitlines() if line[1:3] == "/4"] == list(STEPS)
    assert f"A made-up study: page {out / 'page' / 'index.html'}" in first.stdout
    assert "A made-up study" in (out / "page" / "index.html").read_text()
    assert (out / "page" / "README.md").exists()

    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted((r["arm"], r["seed"]) for r in rows) == [("fast", 0), ("plain", 0)]
    spent = (out / "shards" / "manifest.json").stat().st_size
    assert {r["arm"]: r["charged"] for r in rows} == {"plain": 0.0, "fast": float(spent)}
    assert all(r["flops"] > 0 and r["n"] > 0 and r["d"] > 0 for r in rows)
    assert yaml.safe_load((out / "runs.yaml").read_text())["arms"]["plain"] == []
    study = json.loads((out / "study.json").read_text())
    assert (study["method"], study["control"], study["metrics"][0]["name"]) == ("pieces", "plain", "loss")

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    again = run("intervention", "pieces", "out=study", "scale=tiny", "workers=2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [line.split(": ")[1] for line in again.stdout.splitlines() if line[1:3] == "/4"] == ["done before"] * 4
    rewritten = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert rewritten <= {"study.json", "results.jsonl", "intervention.json"}

    other = run("intervention", "pieces", "out=study", "scale=cpu", cwd=tmp_path)
    assert other.returncode == 2
    assert "holds the study pieces scale=tiny, not pieces scale=cpu" in other.stderr


def test_a_failing_step_stops_with_its_own_words(tmp_path: Path) -> None:
    failed = run("intervention", "pieces", "out=study", "scale=cpu", cwd=tmp_path)
    assert failed.returncode == 2
    assert "step runs-plan ended with status 2" in failed.stderr
    assert "holds no manifest.json, so there are no finished shards; run `nmm shards" in failed.stderr
    assert "The command was: nmm sweep plan sweep=" in failed.stderr
    assert not (tmp_path / "study" / "results.jsonl").exists()
