from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nmm.config import to_dict
from sweeps import manifest
from sweeps.manifest import Entry, ManifestError


def test_what_is_written_is_read_back(entries: list[Entry], tmp_path: Path) -> None:
    path = manifest.write(tmp_path / "new", entries)
    assert manifest.read(tmp_path / "new") == entries
    first = json.loads(path.read_text().splitlines()[0])
    assert set(first) == {"run_id", "role", "parent", "config", "estimate"}
    assert set(first["estimate"]) == {"flops", "seconds", "memory_bytes"}
    assert first["parent"] is None
    assert not list((tmp_path / "new").glob(".*tmp"))


def edit(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[0]["config"].update(seed=7), "does not belong to its config"),
        (lambda lines: lines[0].update(run_id="early-d16-x"), "edited by hand or made by another"),
        (lambda lines: lines[0].update(role="branch"), "edited by hand"),
        (lambda lines: lines[0]["config"].update(colour="red"), "unknown key colour"),
        (lambda lines: lines[1].pop("estimate"), "manifest.jsonl:2 is not a line of a manifest"),
        (lambda lines: lines.append(lines[0]), "names a run twice"),
        (lambda lines: lines.pop(0), "which is not in it"),
        (lambda lines: lines.clear(), "is empty"),
    ],
)
def test_an_edited_manifest_is_refused(plan, change, message: str) -> None:
    path = plan().path
    edit(path, change)
    with pytest.raises(ManifestError, match=message):
        manifest.read(path.parent)


def test_a_torn_or_absent_manifest_is_refused(plan, tmp_path: Path) -> None:
    path = plan().path
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ManifestError, match="is not a line of a manifest"):
        manifest.read(path.parent)
    with pytest.raises(ManifestError, match="nmm sweep plan"):
        manifest.read(tmp_path)


def test_the_directory_and_settings_without_effect_are_not_identity(entries: list[Entry]) -> None:
    moved = dataclasses.replace(entries[0].config, out="/elsewhere")
    assert Entry(moved, entries[0].estimate).run_id == entries[0].run_id


def test_merge_keeps_the_old_lines_and_appends_the_new(entries: list[Entry]) -> None:
    assert manifest.merge(entries[2:3], entries) == [entries[2], *entries[:2], *entries[3:]]
    assert manifest.merge(entries, entries) == entries


def test_merge_refuses_to_drop_or_change(entries: list[Entry]) -> None:
    with pytest.raises(ManifestError, match="1 of its 6 runs are not in this one"):
        manifest.merge(entries, entries[1:])
    config = entries[0].config
    other = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, log_every_steps=7))
    with pytest.raises(ManifestError, match=r"would change trainer\.log_every_steps \(50 -> 7\)"):
        manifest.merge(entries, [Entry(other, entries[0].estimate), *entries[1:]])


def test_lines_hold_plain_json_of_the_whole_config(plan) -> None:
    made = plan()
    lines = [json.loads(line) for line in made.path.read_text().splitlines()]
    assert [line["config"] for line in lines] == [to_dict(entry.config) for entry in made.entries]
