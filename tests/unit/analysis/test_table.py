from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis.table as table_module
from analysis.synthetic import simulate
from analysis.table import Columns, TableError, load


def test_every_source_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = simulate()
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_parquet(tmp_path / "runs.parquet")
    frame.to_json(tmp_path / "runs.jsonl", orient="records", lines=True, double_precision=15)
    monkeypatch.setattr(table_module, "load_table", lambda path: rows if path == tmp_path else [])
    want = load(rows).sample("late", "text")[0]
    for source in (frame, tmp_path / "runs.csv", str(tmp_path / "runs.parquet"), tmp_path / "runs.jsonl", tmp_path):
        got = load(source).sample("late", "text")[0]
        assert got.run_ids == want.run_ids
        np.testing.assert_allclose(got.loss, want.loss, rtol=1e-12)
        np.testing.assert_array_equal(got.cluster, want.cluster)


def test_missing_columns_are_named_with_those_there_are() -> None:
    rows = [{"n": 1.0, "d": 2.0, "loss": 3.0}]
    with pytest.raises(TableError, match=r"no column 'n_active_non_embedding' for --n; the columns are: n, d, loss"):
        load(rows)
    with pytest.raises(TableError, match="no column loss_nats or nats"):
        load(rows, Columns("n", "d", targets=("nats",)))
    with pytest.raises(TableError, match="no column 'model' for --group"):
        load(rows, Columns("n", "d", group="model", targets=("loss",)))
    with pytest.raises(TableError, match="name one with --loss"):
        load(rows, Columns("n", "d"))


def test_a_plain_table_gets_one_group_its_own_clusters_and_6nd() -> None:
    rows = [{"n": 10.0 * i, "d": 100.0, "loss": 3.0} for i in (1, 2, 3)]
    table = load(rows, Columns("n", "d", targets=("loss",)))
    sample, _ = table.sample("all", "loss")
    np.testing.assert_array_equal(sample.compute, 6.0 * sample.size * sample.tokens)
    assert sample.num_clusters == 3 and sample.entropy is None
    assert load(rows, table.columns).columns == table.columns


def test_bad_rows_are_listed_with_their_reason() -> None:
    rows = simulate()
    rows[0]["tokens"] = 0.0
    rows[1]["n_active_non_embedding"] = float("nan")
    rows[2]["status"] = "diverged"
    rows[3]["on_plateau"], rows[3]["colour_excess"] = True, 1.37
    rows[5]["run_id"] = rows[4]["run_id"]
    rows[6]["loss_text"] = -1.0
    table = load(rows, min_tokens=1.5e6)
    kinds = {e.run_id: e.kind for e in table.exclusions}
    assert [kinds[rows[i]["run_id"]] for i in (0, 1, 2, 3)] == ["value", "value", "status", "plateau"]
    assert [e.kind for e in table.exclusions].count("short") == sum(r["tokens"] == 1e6 for r in rows[1:])
    assert any(e.kind == "duplicate" for e in table.exclusions)
    assert "colour excess 1.37" in next(e.reason for e in table.exclusions if e.kind == "plateau")
    sample, left_out = table.sample(rows[6]["arch"], "text")
    assert [e.run_id for e in left_out] == [rows[6]["run_id"]] and rows[6]["run_id"] not in sample.run_ids
    assert len(table.frame) + len(table.exclusions) == len(rows)


def test_a_table_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    rows = [row | {"status": "diverged"} for row in simulate()]
    with pytest.raises(TableError, match="all 60 rows of the given rows are excluded"):
        load(rows)
    with pytest.raises(TableError, match="no finished run"):
        load([])
    with pytest.raises(TableError, match="does not exist"):
        load(tmp_path / "nothing.csv")
    (tmp_path / "runs.xlsx").write_text("")
    with pytest.raises(TableError, match="cannot read a .xlsx file"):
        load(tmp_path / "runs.xlsx")


def test_plateau_flags_survive_csv(tmp_path: Path) -> None:
    rows = simulate()
    rows[0]["on_plateau"] = True
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    assert [e.kind for e in load(tmp_path / "runs.csv").exclusions] == ["plateau"]


def test_digest_changes_with_any_number(table: table_module.RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    other, _ = table.sample("late", "avg")
    loss = sample.loss.copy()
    loss[3] += 1e-12
    changed = table_module.Sample(**{**sample.__dict__, "loss": loss})
    assert len({sample.digest(), other.digest(), changed.digest()}) == 3
