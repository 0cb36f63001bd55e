from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import manifest
from sweeps.manifest import ManifestError
from sweeps.plan import big, duration, show


def shown(plan, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    show(plan, console)
    return console.file.getvalue()


def test_trunks_come_first_and_the_longest_first_in_each_role(plan) -> None:
    entries = plan(archs=["early", "moe"]).entries
    roles = [e.role for e in entries]
    assert roles == sorted(roles, reverse=True)
    for role in ("trunk", "branch"):
        seconds = [e.estimate.seconds for e in entries if e.role == role]
        assert seconds == sorted(seconds, reverse=True)


def test_planning_again_changes_no_byte(plan) -> None:
    first = plan()
    before = first.path.read_bytes()
    again = plan()
    assert again.added == 0
    assert again.path.read_bytes() == before
    assert "already planned" in shown(again)


def test_more_seeds_add_lines_at_the_end(plan) -> None:
    first = plan()
    before = first.path.read_text()
    more = plan(seeds=[0, 1])
    assert more.added == len(first.entries)
    assert more.path.read_text().startswith(before)
    assert "wrote 6 runs, added to 6" in shown(more)


def test_fewer_seeds_or_other_tokens_are_refused(plan) -> None:
    path = plan(seeds=[0, 1]).path
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="A plan may only grow"):
        plan(seeds=[0])
    with pytest.raises(ManifestError, match="new token count changes its trunk"):
        plan(seeds=[0, 1], tokens=[25_600, 51_200, 102_400])
    assert path.read_bytes() == before


def test_a_hand_edited_manifest_is_not_planned_over(plan) -> None:
    path = plan().path
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5', 1))
    with pytest.raises(ManifestError, match="edited by hand"):
        plan()


def test_the_table_fits_80_columns_and_says_what_it_costs(plan) -> None:
    text = shown(plan(archs=["early", "late", "moe"]))
    assert "…" not in text
    for word in (
        "early",
        "late",
        "moe",
        "d16",
        "d32",
        "trunks",
        "memory*",
        "GB",
        "* estimates, from a model of one free core",
    ):
        assert word in text
    assert "6 trunks + 12 points" in text
    assert "sharing trunks saves 25 %" in text
    assert "nmm sweep launch" in text


def test_the_manifest_lies_beside_the_runs(plan, tmp_path: Path) -> None:
    made = plan()
    assert made.path == tmp_path / "runs" / manifest.FILE_NAME
    assert {e.config.out for e in made.entries} == {str(tmp_path / "runs")}


def test_numbers_read_as_a_person_says_them() -> None:
    assert [big(x) for x in (12, 1500, 2_000_000, 3.2e9)] == ["12", "1.5k", "2M", "3.2G"]
    seconds = (4, 600, 3 * 3600 + 300, 52 * 3600)
    assert [duration(x) for x in seconds] == ["4 s", "10 min", "3 h 05 min", "2 d 4 h"]
