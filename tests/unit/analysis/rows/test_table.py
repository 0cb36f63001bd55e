from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from analysis.rows.table import Columns, RunTable, Sample, TableError, load
from analysis.simulation.synthetic import simulate

PLAIN = Columns("n", "d", targets=("loss",))
ROWS = [{"n": 10.0 * i, "d": 100.0 * j, "loss": 3.0 + 1.0 / (i * j)} for i in (1, 2, 3) for j in (1, 2)]


def with_column(name: str, values: list[object]) -> list[dict[str, object]]:
    return [row | {name: value} for row, value in zip(ROWS, values, strict=True)]


def test_missing_columns_are_named_with_those_there_are() -> None:
    rows = [{"n": 1.0, "d": 2.0, "loss": 3.0}]
    with pytest.raises(TableError, match=r"no column 'n_active_non_embedding' for --n; the columns are: n, d, loss"):
        load(rows)
    with pytest.raises(TableError, match="no column loss_nats or nats"):
        load(rows, Columns("n", "d", targets=("nats",)))
    with pytest.raises(TableError, match="no column 'model' for --group"):
        load(rows, Columns("n", "d", group="model", targets=("loss",)))
    with pytest.raises(TableError, match="no column 'run' for --run"):
        load(rows, Columns("n", "d", cluster="run", targets=("loss",)))
    with pytest.raises(TableError, match="no column 'flop' for --c"):
        load(rows, Columns("n", "d", "flop", targets=("loss",)))
    with pytest.raises(TableError, match="name one with --loss"):
        load(rows, Columns("n", "d"))


def test_near_matches_come_first_and_long_headers_are_cut() -> None:
    row = {"Model Size": 1.0, "Training FLOP": 2.0, "loss": 3.0} | {f"acc_{i}": 0.0 for i in range(50)}
    with pytest.raises(TableError, match=r"did you mean 'Model Size'\? the columns are: Model Size, .* \(13 more\)"):
        load([row], Columns("model_size", "d", targets=("loss",)))
    with pytest.raises(TableError, match="no column loss_Loss or Loss; did you mean 'loss'"):
        load([row], Columns("Model Size", "Training FLOP", targets=("Loss",)))


def test_names_with_spaces_are_columns_like_any_other() -> None:
    rows = [{"Model Size": r["n"], "Training Tokens": r["d"], "Final Loss": r["loss"]} for r in ROWS]
    table = load(rows, Columns("Model Size", "Training Tokens", targets=("Final Loss",)))
    assert table.sample("all", "Final Loss")[0].size.tolist() == [r["n"] for r in ROWS]


def test_a_plain_table_gets_one_group_its_own_clusters_and_6nd() -> None:
    rows = [{"n": 10.0 * i, "d": 100.0, "loss": 3.0} for i in (1, 2, 3)]
    table = load(rows, PLAIN)
    sample, _ = table.sample("all", "loss")
    np.testing.assert_array_equal(sample.compute, 6.0 * sample.size * sample.tokens)
    assert sample.num_clusters == 3 and sample.entropy is None
    assert sorted(sample.columns) == ["C", "D", "N"] and table.symbols == {"N": "n", "D": "d", "C": "6ND"}
    assert load(rows, table.columns).columns == table.columns


def test_a_law_may_need_less_than_n_and_d() -> None:
    rows = [{"flop": r["n"] * r["d"], "loss": r["loss"], "seed": i} for i, r in enumerate(ROWS)]
    columns = Columns(compute="flop", targets=("loss",))
    sample, _ = load(rows, columns, needed=("C",)).sample("all", "loss")
    assert list(sample.columns) == ["C"] and sample.where(np.arange(6) < 2).compute.tolist() == [1e3, 2e3]
    with pytest.raises(TableError, match=r"all/loss: the table has no column for tokens D \(--d\)"):
        _ = sample.tokens
    with pytest.raises(TableError, match="no column 'n' for --n"):
        load(rows, replace(columns, size="n"), needed=("C",))
    with pytest.raises(TableError, match="without it C is 6 N D, which needs --n and --d"):
        load(rows, Columns(targets=("loss",)), needed=("C",))
    with pytest.raises(TableError, match="--min-tokens needs a column of tokens"):
        load(rows, columns, min_tokens=1.0, needed=("C",))


def test_extra_columns_come_by_symbol_and_may_be_zero_or_negative() -> None:
    rows = with_column("share", [0.0, 0.5, 1.0, -1.0, 0.25, float("inf")])
    columns = replace(PLAIN, extra=(("h", "share"),))
    table = load(rows, columns)
    assert table.sample("all", "loss")[0].columns["h"].tolist() == [0.0, 0.5, 1.0, -1.0, 0.25]
    assert [e.reason for e in table.exclusions] == ["share is inf, a number is needed"]
    with pytest.raises(TableError, match="no column 'shares' for --column h=; did you mean 'share'"):
        load(rows, replace(PLAIN, extra=(("h", "shares"),)))


def test_a_needed_symbol_is_found_by_its_usual_name_or_its_own() -> None:
    rows = with_column("unique_tokens", [50.0] * 6)
    table = load(rows, PLAIN, needed=("N", "D", "U"))
    assert table.columns.extra == (("U", "unique_tokens"),)
    assert load(with_column("S", [0.0] * 6), PLAIN, needed=("N", "S")).symbols["S"] == "S"
    assert "U" not in load(rows, PLAIN).symbols
    with pytest.raises(
        TableError, match="the law needs G; name its column with --column G=NAME; the columns are: n, d"
    ):
        load(ROWS, PLAIN, needed=("N", "D", "G"))


def test_columns_survive_json_and_refuse_a_symbol_twice() -> None:
    columns = Columns(extra=(("U", "u"), ("lr", "peak")), n_convention="decoder", c_convention="late")
    data = asdict(columns)
    assert Columns(**data | {"extra": [["U", "u"], ["lr", "peak"]], "targets": list(data["targets"])}) == columns
    with pytest.raises(TableError, match="'U' is given twice"):
        Columns(extra=(("U", "u"), ("U", "v")))
    with pytest.raises(TableError, match="'N': N, D, C and the loss are named by --n"):
        Columns(extra=(("N", "n"),))


def test_responses_at_or_below_zero_are_for_linear_space_only() -> None:
    rows = [row | {"accuracy": 0.1 * i - 0.1} for i, row in enumerate(ROWS)]
    columns = replace(PLAIN, targets=("accuracy",))
    assert len(load(rows, columns, positive_loss=False).sample("all", "accuracy")[0]) == 6
    table = load(rows, columns)
    assert [(e.run_id, e.kind, e.where) for e in table.exclusions] == [
        ("row-0", "loss", "accuracy"),
        ("row-1", "loss", "accuracy"),
    ]
    assert table.exclusions[0].reason == "loss is -0.1, a positive number is needed"


def test_a_loss_missing_for_one_target_leaves_the_row_to_the_others() -> None:
    rows = simulate()
    rows[6]["loss_text"] = -1.0
    table = load(rows)
    sample, left_out = table.sample(rows[6]["arch"], "text")
    assert [e.run_id for e in left_out] == [rows[6]["run_id"]] and rows[6]["run_id"] not in sample.run_ids
    assert rows[6]["run_id"] in table.sample(rows[6]["arch"], "avg")[0].run_ids and not table.exclusions


def test_arrays_are_copies_of_the_table(table: RunTable) -> None:
    first, _ = table.sample("early", "avg")
    before = first.digest()
    for values in (*first.columns.values(), first.loss, first.entropy):
        assert values is not None and values.dtype == np.float64
        values[:] = -1.0
    assert table.sample("early", "avg")[0].digest() == before != first.digest()


def test_where_keeps_every_field_in_step(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    keep = sample.size > np.median(sample.size)
    part = sample.where(keep)
    assert len(part) == keep.sum() and part.run_ids == tuple(np.array(sample.run_ids)[keep])
    for symbol in sample.columns:
        np.testing.assert_array_equal(part.columns[symbol], sample.columns[symbol][keep])
    assert part.num_clusters < sample.num_clusters and part.entropy is not None and len(part.entropy) == len(part)


def test_digest_changes_with_any_number(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    other, _ = table.sample("late", "avg")
    loss, compute = sample.loss.copy(), sample.compute.copy()
    loss[3] += 1e-12
    compute[0] *= 1.0 + 1e-12
    variants = [
        Sample(**{**sample.__dict__, "loss": loss}),
        replace(sample, columns=sample.columns | {"C": compute}),
        replace(sample, columns={"N": sample.size, "D": sample.tokens}),
        replace(sample, columns={"N": sample.size, "D": sample.tokens, "U": sample.compute}),
    ]
    assert len({s.digest() for s in (sample, other, *variants)}) == 6
    shuffled = dict(reversed(sample.columns.items()))
    assert replace(sample, columns=shuffled).digest() == sample.digest()


def test_groups_are_ordered_and_text(table: RunTable) -> None:
    assert table.groups == ["early", "late", "moe"]
    frame = pd.DataFrame(with_column("model", [7, 7, 13, 13, 70, 70]))
    assert load(frame, replace(PLAIN, group="model")).groups == ["13", "7", "70"]
