"""Published tables of runs, read with the column names they came with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.rows.table import Columns, load

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the published tables are not beside this repository")


def test_the_chinchilla_rule_is_a_row_filter() -> None:
    """Rows below the fifth largest loss (arXiv 2404.10102): 240 of 245, by rank or by the number itself."""
    frame = pd.read_csv(DATA / "besiroglu_chinchilla" / "svg_extracted_data.csv")
    frame["tokens"] = frame["Training FLOP"] / (6 * frame["Model Size"])
    columns = Columns("Model Size", "tokens", "Training FLOP", targets=("loss",))
    assert len(load(frame, columns).sample("all", "loss")[0]) == 245
    want = frame["loss"][frame["loss"] < frame["loss"].nlargest(5).min()]
    for keep in ("rank(loss) > 5", f"loss < {float(frame['loss'].nlargest(5).min())!r}"):
        table = load(frame, columns, keep=keep)
        sample, _ = table.sample("all", "loss")
        assert len(sample) == 240 and [e.kind for e in table.exclusions] == ["keep"] * 5
        np.testing.assert_array_equal(sample.loss, want)
    dropped = {e.run_id for e in table.exclusions}
    short = {e.run_id for e in load(frame, columns, keep="D/N > 0.4").exclusions}
    assert short < dropped and len(short) == 4  # the fifth has 0.4045 tokens per parameter


def test_repeated_data_come_with_their_unique_tokens() -> None:
    path = DATA / "datablations" / "repeat_runs.csv"
    columns = Columns("N", "D", targets=("loss",), extra=(("U", "U"),))
    sample, _ = load(path, columns, needed=("N", "D", "U")).sample("all", "loss")
    assert len(sample) == 182 and (sample.columns["U"] <= sample.tokens).all()


def test_over_training_runs_by_data_set() -> None:
    path = DATA / "gadre_overtraining" / "models.csv"
    table = load(path, Columns("N", "D", "C6ND", group="dataset", targets=("c4_val",)))
    assert table.groups == ["c4_original", "rpj", "rw_original"]
    samples = [table.sample(group, "c4_val")[0] for group in table.groups]
    assert sum(map(len, samples)) + len(table.exclusions) == 104 == len(table.every_row)
    np.testing.assert_allclose(samples[0].compute, 6 * samples[0].size * samples[0].tokens, rtol=1e-9)


def test_routed_curves_are_checkpoints_of_their_runs() -> None:
    path = DATA / "clark_routing" / "curves.csv.gz"
    columns = Columns("dense_parameter_count", "step", cluster="hyper_id", targets=("validation",))
    table = load(path, columns, keep="step > 0 and router_type in ('Dense', 'S-Base')")
    sample, _ = table.sample("all", "validation")
    assert sample.num_clusters < len(sample) / 10 and sample.run_ids[0].endswith("#2")
    assert len(sample) + len(table.exclusions) == 5799 == len(table.every_row)
    assert {e.kind for e in table.exclusions} == {"keep", "value", "loss"}  # step 0 is no D; 8 rows have no loss


def test_annealing_curves_need_no_model_size() -> None:
    path = DATA / "multipowerlaw" / "loss_curves.csv"
    columns = Columns(tokens="step", group="model", cluster="schedule", targets=("loss",), extra=(("lr", "lr"),))
    table = load(path, columns, needed=("D", "lr"))
    samples = [table.sample(group, "loss")[0] for group in table.groups]
    assert table.groups == ["100M", "25M", "400M"] and sum(map(len, samples)) == 6265
    assert [sorted(sample.columns) for sample in samples] == [["D", "lr"]] * 3
    assert {sample.num_clusters for sample in samples} == {9}
