from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest

from analysis.interventions.rows import RowsError, load, value_of


def test_a_study_is_read_back_with_its_rows_in_order(tmp_path: Path) -> None:
    data = load(made_up.write(tmp_path))
    assert data.study.title == made_up.STUDY["title"]
    assert [arm.role for arm in data.study.arms] == ["control", "treatment", "baseline", "ceiling"]
    assert data.arms == ("control", "lowest", "random")  # "dream" has no row
    assert data.of_role("ceiling") == ()
    assert [dict(row) for row in data.rows] == [dict(row) for row in made_up.worth_two().rows]


def test_rows_are_chosen_by_arm_and_by_columns(tmp_path: Path) -> None:
    data = load(made_up.write(tmp_path))
    part = data.where("lowest", n=20_000, seed=(0, 2))
    assert part.arms == ("lowest",) and part.seeds() == (0, 2) and len(part.rows) == 2 * 4
    assert data.levels("n") == (20_000, 50_000, 120_000)
    assert np.array_equal(part.values("total"), part.values("flops") + 2e11)


def test_the_primary_metric_is_the_first_and_others_go_by_name(tmp_path: Path) -> None:
    data = load(made_up.write(tmp_path))
    assert data.metric().name == "loss" and data.metric().sign == -1
    assert data.metric("accuracy").sign == 1
    with pytest.raises(RowsError, match="no metric 'bleu'.*loss, accuracy"):
        data.metric("bleu")
    with pytest.raises(RowsError, match="no arm 'nobody'.*control, lowest"):
        data.arm("nobody")


def test_null_is_nan_and_a_missing_column_says_what_there_is() -> None:
    row = {"arm": "a", "seed": 1, "loss": None, "note": "x", "flops": 1.0, "charged": 2.0}
    assert np.isnan(value_of(row, "loss")) and value_of(row, "total") == 3.0
    with pytest.raises(RowsError, match="arm a, seed 1 has no column 'steps'; it has arm, seed"):
        value_of(row, "steps")
    with pytest.raises(RowsError, match="column 'note' of arm a, seed 1 is 'x'"):
        value_of(row, "note")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"title": ""}, "title is ''; it must be a text"),
        ({"arms": []}, r"arms is \[\]; it must be a list"),
        ({"control": "nobody"}, "control is 'nobody', which is no arm; the arms are control, lowest"),
        ({"arms": [{"name": "control", "role": "hero", "what": "x"}]}, "role of arm control is 'hero'; allowed are"),
        ({"metrics": [{"name": "loss", "label": "l", "better": "less"}]}, "better of metric loss is 'less'"),
        ({"metrics": [{"name": "loss", "label": "l", "better": "lower"}] * 2}, "two metrics are called 'loss'"),
    ],
)
def test_a_wrong_study_names_file_field_and_what_is_allowed(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(RowsError, match=words) as caught:
        load(made_up.write(tmp_path, **changes))
    assert "study.json" in str(caught.value)


ROW = {"arm": "control", "seed": 0, "n": 1, "d": 1, "flops": 1.0, "charged": 0.0, "loss": 1.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{'arm'", "line 2 is damaged"),
        ("[1]", "line 2 holds a list, not a row"),
        ({k: v for k, v in ROW.items() if k != "charged"}, "line 2: field charged is missing"),
        (ROW | {"arm": "other"}, "line 2: arm 'other' is not in study.json; its arms are control, lowest"),
        (ROW | {"seed": 1.5}, "line 2: seed is 1.5; it must be a whole number"),
        (ROW | {"loss": "low"}, "line 2: loss is 'low'; it must be a finite number"),
        (ROW | {"flops": None}, "line 2: flops is None; it must be a finite number"),
        (ROW | {"charged": -1.0}, "line 2: charged is -1.0; it must not be negative"),
        (ROW | {"n": 0}, "line 2: n is 0"),
        (json.dumps(ROW).replace("0.5", "NaN"), "line 2: accuracy is nan; it must be a finite number"),
    ],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path: Path, row: Any, words: str) -> None:
    folder = made_up.write(tmp_path)
    second = row if isinstance(row, str) else json.dumps(row)
    (folder / "results.jsonl").write_text(json.dumps(ROW) + "\n" + second + "\n")
    with pytest.raises(RowsError, match=words):
        load(folder)


def test_missing_files_say_which_command_makes_them(tmp_path: Path) -> None:
    with pytest.raises(
        RowsError, match="study.json is not there; finish the study first: nmm intervention METHOD out="
    ):
        load(tmp_path)
    made_up.write(tmp_path)
    (tmp_path / "results.jsonl").unlink()
    with pytest.raises(RowsError, match="results.jsonl is not there"):
        load(tmp_path)


def test_a_study_without_a_row_of_the_reference_arm_is_refused(tmp_path: Path) -> None:
    data = made_up.worth_two()
    with pytest.raises(RowsError, match="no row of the reference arm 'control' among 96 rows"):
        load(made_up.write(tmp_path, data.where(("lowest", "random"))))
