"""Rows with arms are fitted and compared by arm; all others by architecture, as ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.commands.compare import compare_main
from analysis.commands.fit import fit_main
from analysis.rows.columns import USUAL_GROUP, usual_group
from analysis.rows.table import Columns, load
from analysis.simulation.synthetic import SURFACES, simulate

CAPTION = SURFACES["early"]["caption"]
TWICE = replace(CAPTION, B=CAPTION.B * 2**-CAPTION.beta)  # every token is worth two, so half the compute will do


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    made = simulate({"twice": {"caption": TWICE}, "control": {"caption": CAPTION}}, trunk_noise=0.003, row_noise=0.001)
    return [{**row, "arm": row["arch"], "arch": "early"} for row in made]


def groups_of(rows: list[dict[str, Any]], **changes: str) -> list[str]:
    return load(rows, Columns(targets=("caption",), **{"group": USUAL_GROUP, **changes})).groups


def test_the_usual_group(rows: list[dict[str, Any]]) -> None:
    assert groups_of(rows) == ["control", "twice"]  # what others are measured against comes first
    assert groups_of([{k: v for k, v in row.items() if k != "arm"} for row in rows]) == ["early"]
    assert groups_of([{**row, "arm": ""} for row in rows]) == ["early"]
    assert groups_of([{**row, "arm": None} for row in rows]) == ["early"]  # as a CSV has it
    assert groups_of([{**row, "arm": "" if row["arm"] == "control" else "twice"} for row in rows]) == ["none", "twice"]
    late = [{**row, "arch": "late", "run_id": row["run_id"] + "-late"} for row in rows]
    assert groups_of([*rows, *late]) == ["early control", "early twice", "late control", "late twice"]


def test_a_group_that_is_named_is_taken(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    assert usual_group(frame, Columns(group="size"))[1].group == "size"
    assert usual_group(frame, Columns(group="arch"))[1].group == "arch"
    assert groups_of([{**row, "model": "m"} for row in rows], group="model") == ["m"]


def test_a_table_loads_again_with_the_columns_it_gave(rows: list[dict[str, Any]]) -> None:
    late = [{**row, "arch": "late", "run_id": row["run_id"] + "-late"} for row in rows]
    first = load([*rows, *late], Columns(targets=("caption",), group=USUAL_GROUP))
    assert first.columns.group == "arch_arm"
    assert load([*rows, *late], first.columns).groups == first.groups


def test_compare_finds_what_a_token_of_the_arm_is_worth(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    fits, found = tmp_path / "fits.json", tmp_path / "found.json"
    assert fit_main([str(tmp_path / "runs.csv"), "--out", str(fits), "--law", "chinchilla", "--bootstrap", "40"]) == 0
    assert json.loads(fits.read_text())["columns"]["group"] == "arm"
    assert compare_main([str(fits), "--json", str(found)]) == 0
    assert "control / twice, caption: " in capsys.readouterr().out
    (comparison,) = json.loads(found.read_text())
    assert (comparison["left"], comparison["right"]) == ("control", "twice")
    curve = comparison["multiplier_curve"]
    resolved = [value for value, mark in zip(curve["value"], curve["mark"], strict=True) if not mark]
    assert len(resolved) > 3
    assert resolved == pytest.approx([0.5] * len(resolved), rel=0.1)
