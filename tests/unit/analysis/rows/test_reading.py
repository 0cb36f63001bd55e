from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_records import write_records

import analysis.rows.reading as reading
from analysis.rows.columns import Columns, TableError, numbers
from analysis.rows.reading import read_rows
from analysis.rows.table import load
from analysis.simulation.synthetic import simulate

NAMES = Columns("n", "d", targets=("loss",))


def test_every_source_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = simulate()
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_csv(tmp_path / "more.CSV.gz", index=False, compression="gzip")
    frame.to_parquet(tmp_path / "runs.parquet")
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "runs.jsonl").write_text(lines)
    (tmp_path / "runs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    (tmp_path / "columns.json").write_text(json.dumps({name: list(frame[name]) for name in frame}, default=str))
    monkeypatch.setattr(reading, "_read_directory", lambda path: pd.DataFrame(rows if path == tmp_path else []))
    files = ("runs.csv", "more.CSV.gz", "runs.parquet", "runs.jsonl", "runs.jsonl.gz", "runs.json")
    arrays = {str(name): frame[name].to_numpy() for name in frame}
    sources = [frame, frame.convert_dtypes(), frame.set_index("run_id"), frame[::1], iter(rows), arrays, tmp_path]
    want = load(rows).sample("late", "text")[0]
    for source in (*sources, *(tmp_path / file for file in files), str(tmp_path / "runs.parquet")):
        got = load(source).sample("late", "text")[0]  # type: ignore[arg-type]
        assert got.digest() == want.digest(), source


def test_read_only_arrays_and_frames_are_copied_not_written() -> None:
    arrays = {"n": np.linspace(1e6, 1e8, 6), "d": np.full(6, 1e9), "loss": np.linspace(4.0, 3.0, 6)}
    for values in arrays.values():
        values.flags.writeable = False
    frame = pd.DataFrame(arrays, copy=False)
    before = frame.copy(deep=True)
    want = load(arrays, NAMES).sample("all", "loss")[0]
    assert all(values.flags.writeable for values in (*want.columns.values(), want.loss))
    for source in (frame, frame.astype("float64[pyarrow]"), frame.astype("Float64"), frame[frame["n"] > 0]):
        assert load(source, NAMES).sample("all", "loss")[0].digest() == want.digest()
    want.loss[:] = 0.0
    pd.testing.assert_frame_equal(frame, before)
    assert arrays["loss"][0] == 4.0


@pytest.mark.parametrize("kind", ["as read", "string", "string[pyarrow]", "object", "category"])
def test_text_columns_of_any_kind(kind: str) -> None:
    frame = pd.DataFrame({"n": [1.0, 2.0], "d": [1.0, 1.0], "loss": [3.0, 2.0], "model": ["a", None]})
    frame = frame if kind == "as read" else frame.astype({"model": kind})
    table = load(frame, Columns("n", "d", group="model", targets=("loss",)))
    assert table.groups == ["a"] and [e.reason for e in table.exclusions] == [
        "model is missing, so the group of the row is unknown"
    ]


def test_numbers_are_exact_whatever_they_came_as(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1.7976931348623157e308, 2.2250738585072014e-308, 10**25]
    (tmp_path / "x.csv").write_text("x\n" + "\n".join(map(repr, values)))
    (tmp_path / "x.json").write_text(json.dumps([{"x": v} for v in values]))
    for path in (tmp_path / "x.csv", tmp_path / "x.json"):
        assert numbers(read_rows(path)["x"]).tolist() == [float(v) for v in values]
    odd = pd.Series([Decimal("2.5"), None, "7B", " 8 ", pd.NA, True, 10**400], dtype=object)
    np.testing.assert_array_equal(numbers(odd), [2.5, np.nan, np.nan, 8.0, np.nan, 1.0, np.inf])
    assert np.isnan(numbers(pd.Series(pd.to_datetime(["2026-01-01"])))).all()


def test_headers_are_text_without_blanks_around(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("\ufeffn, d ,loss\n1,2,3\n".encode())
    assert list(read_rows(tmp_path / "x.csv")) == ["n", "d", "loss"]
    assert list(read_rows([{0: 1.0, "n": 2.0}])) == ["0", "n"]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for name, content in {
        "runs.xlsx": b"",
        "runs.pkl": b"",
        "bad.jsonl": b'{"n": 1}\n{"n": \n',
        "bad.csv.gz": gzip.compress(b"n,d\n1,2\n" * 50)[:-12],
        "bad.parquet": b"not parquet at all",
        "number.json": b"3.5",
        "list.json": b"[[1, 2]]",
        "empty.csv": b"",
        "header.csv": b"n,d,loss\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    for name, message in {
        "nothing.csv": "does not exist; give a sweep directory or a table",
        "runs.xlsx": "cannot read a .xlsx file; use .parquet, .csv",
        "runs.pkl": "cannot read a .pkl file",
        "bad.jsonl": "bad.jsonl, line 2: not JSON",
        "bad.csv.gz": "cannot be read as .csv",
        "bad.parquet": "cannot be read as .parquet",
        "number.json": "a list of rows or an object of columns is needed, not float",
        "list.json": "row 0 is a list, not a mapping",
        "empty.csv": "cannot be read as .csv",
        "header.csv": "no finished run",
    }.items():
        with pytest.raises(TableError, match=message):
            read_rows(tmp_path / name)
    with pytest.raises(TableError, match="no finished run in the given rows"):
        read_rows([])
    with pytest.raises(TableError, match="the columns differ in length: n 2, d 3"):
        read_rows({"n": [1, 2], "d": (1, 2, 3)})
    with pytest.raises(TableError, match="column 'n' is not a flat list"):
        read_rows({"n": np.ones((2, 2))})
    with pytest.raises(TableError, match="column 'n' is there twice"):
        read_rows(pd.DataFrame([[1, 2]], columns=["n", "n"]))


def test_records_that_cannot_be_read_are_listed_not_fatal(tmp_path: Path) -> None:
    """Of twelve runs one record is half-written and one of something else: the others are the table."""
    names = write_records(tmp_path, 12)
    (tmp_path / names[3] / "record.json").write_bytes((tmp_path / names[3] / "record.json").read_bytes()[:700])
    (tmp_path / names[5] / "record.json").write_text('{"score": 1}')
    table = load(tmp_path)
    assert list(table.frame["run_id"]) == [name for name in names if name not in (names[3], names[5])]
    (note,) = [note for note in table.notes if "cannot be read" in note]
    assert note.startswith("2 records cannot be read and are left out: ")
    assert f"{names[3]}/record.json: not JSON, half-written?" in note
    assert f"{names[5]}/record.json: not a record of nmm" in note


def test_a_directory_of_unreadable_records_only_says_so(tmp_path: Path) -> None:
    (name,) = write_records(tmp_path, 1)
    (tmp_path / name / "record.json").write_text("")
    with pytest.raises(TableError, match=r"1 records cannot be read: .*record\.json: empty"):
        load(tmp_path)
