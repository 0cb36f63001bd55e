"""The sensitivity table: every cell is the fit it names, flat ones are not numbers, and movers are those that move."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from grids import grid as grid_of
from rich.console import Console

from analysis.fit import FitError, fit_law
from analysis.rows.table import Columns, RunTable, load
from analysis.simulation.synthetic import simulate
from analysis.uncertainty.bootstrap import bootstrap
from analysis.validation.influence import influence
from analysis.validation.sensitivity import Sensitivity, convention_samples, print_sensitivity, row_filters, sensitivity

grid = partial(grid_of, noise=0.01, sizes=7)


@pytest.fixture(scope="module")
def full() -> Sensitivity:
    """Every choice there is."""
    return sensitivity(grid(), "free")


def test_every_cell_is_the_fit_it_names(full: Sensitivity) -> None:
    sample, found = grid(), full
    filters = row_filters(sample)
    # six objectives, of which the two Huber ones come with four deltas
    assert len(found.choices) == (4 + 2 * 4) * len(filters) and not found.skipped
    for choice in found.choices[::7]:
        delta = choice.delta_rule if choice.delta_rule in ("auto", "-") else float(choice.delta_rule)
        delta = "auto" if delta == "-" else delta
        kept = sample.where(filters[choice.rows])
        fit = fit_law(kept, "free", delta, check=False, objective=choice.objective)
        assert choice.n_rows == len(kept) and choice.status == fit.status == "converged"
        assert choice.objective_value == pytest.approx(fit.objective_value, rel=2e-6)
        assert [choice.params[n] for n in ("E", "alpha", "beta")] == pytest.approx(
            [fit.params[n] for n in ("E", "alpha", "beta")], rel=2e-4
        )
        ratio = choice.params["beta"] / (choice.params["alpha"] + choice.params["beta"])
        assert choice.derived["a"] == pytest.approx(ratio)


def test_the_base_comes_first_and_axes_leave_it_one_at_a_time() -> None:
    some = ("log-huber", "lin-mse", "log-mse")
    found = sensitivity(grid(), "free", "lin-mse", objectives=some, deltas=("auto", 1e-2), with_influence=False)
    assert (found.base.objective, found.base.delta_rule, found.base.rows) == ("lin-mse", "-", "all rows")
    alone = [c.differs_in(found.base) for c in found.one_at_a_time()]
    assert alone[0] == () and all(len(axes) == 1 for axes in alone[1:])
    beta = next(s for s in found.spreads if s.name == "beta")
    values = [c.params["beta"] for c in found.choices]
    assert (beta.low, beta.high) == (min(values), max(values)) and beta.counted == len(values)
    low, high = beta.by_axis["rows"]
    assert beta.low <= low <= found.base.params["beta"] <= high <= beta.high
    assert beta.ratio == pytest.approx((beta.high - beta.low) / (beta.interval.high - beta.interval.low))


def test_a_bootstrapped_base_gives_its_own_intervals() -> None:
    sample = grid()
    fit = bootstrap(fit_law(sample, "free", "chinchilla"), sample, draws=60, seed=1)
    found = sensitivity(sample, fit, objectives=("log-huber",), deltas=(1e-3,), with_influence=False)
    assert found.interval_method == fit.ci_method and found.base.delta_rule == "0.001"
    alpha = next(s for s in found.spreads if s.name == "alpha")
    assert (alpha.interval.low, alpha.interval.high) == pytest.approx((fit.ci["alpha"].low, fit.ci["alpha"].high))
    assert found.base.objective_value == pytest.approx(fit.objective_value, rel=1e-12)


def test_row_filters_keep_what_they_say() -> None:
    sample = replace(grid(), loss=np.round(grid().loss, 1))
    found = row_filters(sample, dropped=(1, 2, 3), quantile=0.1)
    highest = np.sort(sample.loss)[::-1]
    assert all(sample.loss[found[name]].max() < limit for name, limit in
               (("loss below the largest", highest[0]), ("loss below the 3rd largest", highest[2])))  # fmt: skip
    ratio = sample.tokens / sample.size
    name = next(label for label in found if label.startswith("D/N"))
    assert found[name].sum() == (ratio >= np.quantile(ratio, 0.1)).sum() < len(sample)
    assert sample.size[found["without the smallest N"]].min() > sample.size.min()
    kept = [keep.tobytes() for keep in found.values()]
    assert len(set(kept)) == len(kept) and found["all rows"].all()


def test_filters_that_leave_too_little_are_listed() -> None:
    sample = grid(sizes=2)
    few = np.arange(len(sample)) < 4
    found = sensitivity(sample, "free", objectives=("log-mse",), filters={"few": few}, with_influence=False)
    assert found.skipped == ("as given, few: 4 rows are left",)
    assert {c.rows for c in found.choices} == {"all rows"}
    with pytest.raises(FitError, match="usable rows"):
        sensitivity(sample.where(few), "free")


def test_flat_choices_are_words_and_stay_out_of_the_range() -> None:
    sample = grid(noise=0.03, sizes=3, tokens=3, seed=4)
    found = sensitivity(sample, "free", objectives=("log-huber", "lin-mse"), with_influence=False)
    flat = [c for c in found.choices if "E" in c.unidentified]
    assert flat and all(c.status in ("not_identified", "failed") and c.value("E") is None for c in flat)
    assert all(c.value("a") is None for c in flat)
    offset = next(s for s in found.spreads if s.name == "E")
    assert offset.left_out >= len(flat) and offset.counted + offset.left_out == len(found.choices)
    text = printed(found)
    assert "not identified" in text and "do not identify it" in text


def test_conventions_are_fitted_beside_each_other() -> None:
    size = "n_active_non_embedding"
    rows = [row | {"n_total": row[size] + 5e4, "n_active": row[size] + 5e4} for row in simulate()]
    columns = Columns(targets=("caption",))
    samples, missing = convention_samples(rows, columns, "early", "caption")
    assert list(samples) == ["total = active = decoder_with_embedding", "active_non_embedding"]
    assert any(reason.startswith("decoder:") for reason in missing)
    sample = load(rows, columns).sample("early", "caption")[0]
    found = sensitivity(sample, "known", objectives=("log-huber",), deltas=("auto",), conventions=samples)
    base, total = found.base, next(c for c in found.one_at_a_time() if c.convention.startswith("total"))
    assert total.params["alpha"] > base.params["alpha"]  # a constant added to N steepens the slope in N
    same = next(c for c in found.one_at_a_time() if c.convention == "active_non_embedding")
    assert same.params == pytest.approx(base.params, rel=1e-9)
    assert "convention" in next(s for s in found.spreads if s.name == "alpha").by_axis


def test_a_spoilt_row_is_the_strongest_mover() -> None:
    sample = grid(noise=0.004)
    spoilt = sample.loss.copy()
    spoilt[0] *= 1.08
    sample = replace(sample, loss=spoilt)
    fit = fit_law(sample, "free", objective="log-mse", check=False)
    found = influence(sample, fit)
    first = found.movers[0]
    assert (first.what, first.label, first.num_rows) == ("row", "run-0", 1) and not found.failed
    without = fit_law(sample.where(np.arange(len(sample)) > 0), "free", objective="log-mse", check=False)
    assert [first.params[n] for n in ("E", "alpha", "beta")] == pytest.approx(
        [without.params[n] for n in ("E", "alpha", "beta")], rel=1e-6
    )
    shift = (without.params["beta"] - fit.params["beta"]) / found.standard_error["beta"]
    assert first.shift["beta"] == pytest.approx(shift, rel=1e-4) and abs(first.largest) == max(
        map(abs, first.shift.values())
    )
    assert [m.label for m in found.movers if m.what == "together"] == [f"the {k} strongest" for k in (2, 3, 5, 10)]
    assert [m.what for m in found.movers] == ["row"] * 10 + ["size"] * 7 + ["together"] * 4


def test_runs_with_several_rows_are_left_out_whole(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    found = influence(sample, fit_law(sample, "known", check=False), top=100)
    runs = [m for m in found.movers if m.what == "run"]
    assert len(runs) == sample.num_clusters and all(m.num_rows == 4 for m in runs)


def test_many_runs_are_ranked_by_one_step_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that one step of Newton ranks highest are those that a refit of every row finds."""
    sample = grid(noise=0.01)
    fit = fit_law(sample, "free", check=False)
    every = influence(sample, fit, top=100)
    monkeypatch.setattr("analysis.validation.influence._MOST_RUNS", 15)
    few = influence(sample, fit, top=100)
    rows = [[m.label for m in found.movers if m.what == "row"] for found in (every, few)]
    assert len(rows[0]) == 42 and len(rows[1]) == 15 and set(rows[0][:5]) <= set(rows[1])
    assert few.standard_error == pytest.approx(every.standard_error, rel=0.25)


def test_blocks_that_leave_no_fit_are_named() -> None:
    sample = grid(sizes=2, tokens=4)
    found = influence(sample, fit_law(sample, "free", check=False))
    assert not [m for m in found.movers if m.what == "size"] and "the 3 strongest" in found.failed


def printed(found: Sensitivity) -> str:
    text = io.StringIO()
    print_sensitivity(found, Console(file=text, width=160))
    return text.getvalue()


def test_it_prints_and_is_plain_json(full: Sensitivity) -> None:
    found = full
    text = printed(found)
    for part in (
        "ways to fit it",
        "moved most by",
        "base: log-huber, delta auto",
        "loss below the 3rd largest",
        "row: run-",
        "size: N = ",
    ):
        assert part in text
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert back["choices"][0]["params"] == found.base.params and back["spreads"][0]["main_axis"]
    assert len(back["influence"]["movers"]) == 10 + 7 + 4 and found.seconds > 0
