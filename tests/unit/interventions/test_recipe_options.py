"""Options of recipes: a folder that holds just one run stands for it."""

from __future__ import annotations

from pathlib import Path

from nmm.interventions.guide_options import GuideOptions, guide_options
from nmm.interventions.options import read_options


def _run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_with_one_run_stands_for_it(tmp_path):
    big, one, _ = _run(tmp_path / "big"), _run(tmp_path / "out" / "one"), _run(tmp_path / "two" / "a")
    found = guide_options([f"base={big}", f"expert={tmp_path / 'out'}"])
    assert (found.base, found.expert, found.amateur) == (str(big), str(one), "")
    _run(tmp_path / "two" / "b")
    assert guide_options([f"base={big}", f"expert={tmp_path / 'two'}"]).expert == str(
        tmp_path / "two"
    )  # which of them?


def test_other_fields_are_left_as_they_are(tmp_path):
    one = _run(tmp_path / "out" / "one")
    found = read_options(GuideOptions, "guide", [f"base={one.parent}", f"expert={one}"])
    assert found.base == str(one.parent)
