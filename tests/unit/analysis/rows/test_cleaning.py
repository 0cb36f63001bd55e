from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.rows.table import Columns, TableError, load
from analysis.simulation.synthetic import simulate

PLAIN = Columns("n", "d", targets=("loss",))


def rows_of(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_bad_rows_are_listed_with_their_reason() -> None:
    rows = simulate()
    rows[0]["tokens"] = 0.0
    rows[1]["n_active_non_embedding"] = float("nan")
    rows[2]["status"] = "diverged"
    rows[3]["on_plateau"], rows[3]["colour_excess"] = True, 1.37
    rows[6] = dict(rows[5])
    rows[7]["trunk_id"] = None
    table = load(rows, min_tokens=1.5e6)
    kinds = {e.run_id: e.kind for e in table.exclusions}
    expected = {0: "value", 1: "missing", 2: "status", 3: "plateau", 6: "duplicate", 7: "missing"}
    assert {i: kinds.pop(rows[i]["run_id"]) for i in expected} == expected
    short = {r["run_id"]: "short" for r in rows[1:] if r["tokens"] == 1e6}
    assert len(short) == 14 and kinds == short
    assert "colour excess 1.37" in next(e.reason for e in table.exclusions if e.kind == "plateau")
    assert len(table.frame) + len(table.exclusions) == len(rows) == len(table.every_row)


def test_each_kind_of_bad_cell_shows_what_was_read() -> None:
    frame = rows_of(
        n=["1e6", "", "7B", "inf", "-3", "2e6", None], d=[1.0, 1.0, 1.0, 1.0, 1.0, np.nan, 1.0], loss=[3.0] * 7
    )
    table = load(frame, PLAIN)
    assert [(e.run_id, e.kind, e.reason) for e in table.exclusions] == [
        ("row-1", "missing", "n is missing, a positive number is needed"),
        ("row-2", "text", "n is 7B, a positive number is needed"),
        ("row-3", "infinite", "n is inf, a positive number is needed"),
        ("row-4", "value", "n is -3, a positive number is needed"),
        ("row-5", "missing", "d is missing, a positive number is needed"),
        ("row-6", "missing", "n is missing, a positive number is needed"),
    ]


def test_a_table_without_a_usable_row_is_refused() -> None:
    rows = [row | {"status": "diverged"} for row in simulate()]
    with pytest.raises(
        TableError, match=r"all 60 rows of the given rows are excluded \(early-s0-r0-d1e\+06: status is"
    ):
        load(rows)


def test_plateau_flags_survive_csv(tmp_path: Path) -> None:
    rows = simulate()
    rows[0]["on_plateau"] = True
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    assert [e.kind for e in load(tmp_path / "runs.csv").exclusions] == ["plateau"]


def test_checkpoints_of_one_run_are_rows_of_one_cluster_not_duplicates() -> None:
    frame = rows_of(
        run_id=["a", "a", "b", "a"], n=[1.0, 1.0, 2.0, 1.0], d=[1.0, 2.0, 1.0, 2.0], loss=[4.0, 3.0, 3.5, 3.0]
    )
    table = load(frame, PLAIN)
    sample, _ = table.sample("all", "loss")
    assert sample.run_ids == ("a#1", "a#2", "b") and sample.cluster.tolist() == [0, 0, 1]
    assert [(e.run_id, e.kind) for e in table.exclusions] == [("a#3", "duplicate")]
    named = load(frame, replace(PLAIN, cluster="run_id")).sample("all", "loss")[0]
    assert named.run_ids == sample.run_ids and named.cluster.tolist() == [0, 0, 1]


def test_a_copied_row_keeps_the_name_of_its_run() -> None:
    frame = rows_of(run_id=["a", "a", "b"], n=[1.0, 1.0, 2.0], d=[1.0] * 3, loss=[4.0, 4.0, 3.5], wall=[1, 2, 3])
    table = load(frame, PLAIN)
    assert [(e.run_id, e.kind) for e in table.exclusions] == [("a", "duplicate")]
    assert table.sample("all", "loss")[0].run_ids == ("a", "b")


def test_what_a_law_reads_decides_what_is_a_copy() -> None:
    frame = rows_of(run_id=["a", "a"], n=[1.0, 1.0], d=[1.0, 1.0], loss=[4.0, 4.0], lr=[0.1, 0.2])
    assert [e.kind for e in load(frame, PLAIN).exclusions] == ["duplicate"]
    assert not load(frame, replace(PLAIN, extra=(("lr", "lr"),))).exclusions
    two_groups = frame.assign(arch=["x", "y"])
    assert not load(two_groups, PLAIN).exclusions


def test_a_named_run_column_gives_generated_ids() -> None:
    frame = rows_of(
        model=["m", "m", "k", "m"], n=[1.0, 1.0, 2.0, 1.0], d=[1.0, 2.0, 1.0, 2.0], loss=[4.0, 3.0, 3.5, 3.0]
    )
    table = load(frame, replace(PLAIN, cluster="model"))
    sample, _ = table.sample("all", "loss")
    assert sample.run_ids == ("m#1", "m#2", "k#1") and sample.num_clusters == 2
    assert [e.run_id for e in table.exclusions] == ["m#3"]
    told_apart = frame.assign(step=[1, 2, 1, 3])
    assert not load(told_apart, replace(PLAIN, cluster="model")).exclusions


def test_a_coarser_run_column_wins_over_run_ids() -> None:
    frame = rows_of(run_id=["a", "b", "c"], trunk=["t", "t", "u"], n=[1.0, 2.0, 3.0], d=[1.0] * 3, loss=[3.0] * 3)
    sample, _ = load(frame, replace(PLAIN, cluster="trunk")).sample("all", "loss")
    assert sample.run_ids == ("a", "b", "c") and sample.cluster.tolist() == [0, 0, 1]


def test_an_anonymous_row_is_a_copy_only_when_every_column_agrees() -> None:
    frame = rows_of(n=[1.0, 1.0, 1.0], d=[1.0] * 3, loss=[3.0] * 3, seed=[0, 1, 1])
    table = load(frame, PLAIN)
    assert [(e.run_id, e.kind) for e in table.exclusions] == [("row-2", "duplicate")]
    assert table.sample("all", "loss")[0].num_clusters == 2


def test_keep_is_the_last_rule_and_ranks_what_the_others_left() -> None:
    frame = rows_of(n=[1.0, 2.0, 3.0, 4.0, 5.0], d=[1.0] * 5, loss=[9.0, 8.0, np.inf, 6.0, 5.0], status=["done"] * 5)
    frame.loc[0, "status"] = "killed"
    table = load(frame, PLAIN, keep="rank(loss) > 1 and N > 1")
    assert {e.run_id: (e.kind, e.where) for e in table.exclusions} == {
        "row-0": ("status", "all"),
        "row-1": ("keep", "all"),
        "row-2": ("loss", "loss"),
    }
    assert table.exclusions[1].reason == "--keep rank(loss) > 1 and N > 1: not met (N 2, loss 8)"
    assert table.keep == "rank(loss) > 1 and N > 1" and len(table.frame) == 2
    with pytest.raises(TableError, match="all 5 rows"):
        load(frame, PLAIN, keep="loss < 0")


def test_loss_in_keep_needs_one_response() -> None:
    with pytest.raises(TableError, match="no column 'loss'; did you mean 'loss_"):
        load(simulate(), Columns(targets=("avg", "text")), keep="loss < 5")
    assert load(simulate(), Columns(targets=("avg", "text")), keep="loss_text < 5").exclusions == ()


def test_rows_that_may_not_be_comparable_are_noted_not_dropped() -> None:
    frame = rows_of(
        n=[1.0, 2.0, 3.0], d=[4.0, 4.0, 4.0], loss=[3.0, 2.9, 2.8], c=[8.0, 16.0, 24.0],
        schedule=["wsd", "cosine", "wsd"], unique_tokens=[1.0, 4.0, 2.0],
    )  # fmt: skip
    table = load(frame, replace(PLAIN, compute="c"))
    assert [note.split(":")[0] for note in table.notes] == [
        "schedule has several values inside all",
        "2 rows repeat their data (D above unique_tokens)",
        "c is 2 N D in every row",
    ]
    assert not table.exclusions and not load(frame.drop(columns=["c", "schedule", "unique_tokens"]), PLAIN).notes
    with_lr = load(frame.assign(lr=0.1), replace(PLAIN, extra=(("lr", "lr"), ("U", "unique_tokens"))))
    assert with_lr.notes == ()
