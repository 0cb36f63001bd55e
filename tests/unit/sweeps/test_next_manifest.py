"""A manifest of several generations: lines are added at the end, planning again changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from law_sweep import plan_law_sweep

from sweeps import manifest
from sweeps.adaptive.notes import notes, numbers, only_planner, write_note
from sweeps.adaptive.offers import Offer, lines_of
from sweeps.adaptive.shapes import shapes_of
from sweeps.estimate import Speeds, estimate
from sweeps.manifest import Entry, ManifestError, SweepError

SMALL = {"sizes": ["d24", "d32"], "tokens": [51_200, 102_400]}


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, list[Entry]]:
    """The sweep with seed 1 of d24 added by generation 1, which keeps but one of its points."""
    directory = tmp_path / "runs"
    entries = plan_law_sweep(directory, **SMALL)
    offer = Offer(shapes_of(entries, "early", "n_total")["d24"], (102_400,), 1.0)
    new = [Entry(config, estimate(config, Speeds()), 1) for config in lines_of(offer, seed=1)]
    before = (directory / manifest.FILE_NAME).read_bytes()
    manifest.append(directory, new)
    assert (directory / manifest.FILE_NAME).read_bytes().startswith(before)
    return directory, [*entries, *new]


def test_appended_lines_are_read_back_with_their_generation(grown: tuple[Path, list[Entry]]) -> None:
    directory, entries = grown
    assert manifest.read(directory) == entries
    assert [e.generation for e in manifest.read(directory)] == [0] * 6 + [1] * 2
    lines = (directory / manifest.FILE_NAME).read_text().splitlines()
    assert all(("generation" in json.loads(line)) == (at >= 6) for at, line in enumerate(lines))


def test_planning_the_sweep_again_is_a_no_op(grown: tuple[Path, list[Entry]]) -> None:
    directory, entries = grown
    before = (directory / manifest.FILE_NAME).read_bytes()
    assert plan_law_sweep(directory, **SMALL) == entries
    assert (directory / manifest.FILE_NAME).read_bytes() == before


def test_planning_more_adds_only_what_no_generation_has(grown: tuple[Path, list[Entry]]) -> None:
    directory, entries = grown
    before = (directory / manifest.FILE_NAME).read_bytes()
    more = plan_law_sweep(directory, **SMALL, seeds=[0, 1])
    assert more[: len(entries)] == entries and len(more) == 12 and len({e.run_id for e in more}) == 12
    assert (directory / manifest.FILE_NAME).read_bytes().startswith(before)
    with pytest.raises(ManifestError, match="7 of its 12 runs are not in this one"):
        plan_law_sweep(directory, **{**SMALL, "sizes": ["d24"]})  # 3 are in it, 2 are of `next`


def test_a_line_twice_or_without_its_trunk_is_not_appended(grown: tuple[Path, list[Entry]]) -> None:
    directory, entries = grown
    before = (directory / manifest.FILE_NAME).read_bytes()
    with pytest.raises(ManifestError, match="names a run twice"):
        manifest.append(directory, entries[:1])
    offer = Offer(shapes_of(entries, "early", "n_total")["d24"], (102_400,), 1.0)
    branch = lines_of(offer, seed=7)[1]
    with pytest.raises(ManifestError, match="which is not in it"):
        manifest.append(directory, [Entry(branch, estimate(branch, Speeds()))])
    assert (directory / manifest.FILE_NAME).read_bytes() == before


def test_notes_are_numbered_and_count_only_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    assert numbers(tmp_path) == []
    assert [write_note(tmp_path, {"runs": [{"run_id": name}]}) for name in ("a", "b", "c")] == [1, 2, 3]
    assert [note["runs"][0]["run_id"] for note in notes(tmp_path, {"a", "c"})] == ["a", "c"]
    assert sorted(p.name for p in (tmp_path / "next").iterdir()) == ["0001.json", "0002.json", "0003.json"]
    with only_planner(tmp_path), pytest.raises(SweepError, match="another `nmm sweep next` is at work"):
        only_planner(tmp_path).__enter__()
