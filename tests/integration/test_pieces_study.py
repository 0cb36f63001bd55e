"""The study of POINTS' pieces at its smallest, from one command to its page; the same command again does nothing."""

from __future__ import annotations

import json
from pathlib import Path

from lab import nmm

from sweeps.interventions.pieces import TINY


def test_from_one_command_to_the_page(tmp_path: Path) -> None:
    command = ("intervention", "pieces", "out=study", "scale=tiny")
    done = nmm(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "study" / "results.jsonl").read_text().splitlines()]
    arms = {f"{arch}-{piece}" for arch, pieces in TINY.items() for piece in pieces}
    assert {row["arm"] for row in rows} == arms
    assert len(rows) == len(arms) * 2 * 2, "two seeds and two lengths each"
    assert len({row["positions"] for row in rows}) == 2, "every arm has the same ladder of positions"
    tiled, small = (next(r for r in rows if r["arm"] == f"early-{piece}") for piece in ("tiles", "thumb"))
    assert tiled["documents"] < small["documents"], "tiles take positions"
    page = (tmp_path / "study" / "page" / "README.md").read_text()
    assert "Are tiles worth their positions where the thumbnail shows" in page and "ladder-late" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "early").rglob("record.json")}
    again = nmm(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "early").rglob("record.json")} == before
