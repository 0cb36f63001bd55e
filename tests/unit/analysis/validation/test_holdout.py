"""Hold-outs: errors are those of a fit that never saw the rows, and claims follow from them alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from grids import grid

from analysis.fit import FORMS, FitError, fit_law, prepare
from analysis.rows.table import RunTable, Sample
from analysis.validation.folds import fit_folds, flat_folds
from analysis.validation.holdout import claim_flag, claims, holdout, rolling, validated_range
from analysis.validation.rolling import Cut, Rolling, Score, score


@pytest.mark.parametrize("form", ["free", "known"])
@pytest.mark.parametrize("by", ["size", "tokens"])
def test_the_hidden_rows_of_a_noise_free_law_are_predicted(quiet_table: RunTable, form: str, by: str) -> None:
    held = holdout(quiet_table.sample("early", "caption")[0], form, by)
    assert held.max_error < 1e-4 and held.num_rows == (4 if by == "size" else 5)
    assert held.distance == pytest.approx(574 / 211 if by == "size" else 2.0)


def test_errors_are_those_of_a_fit_that_never_saw_the_rows(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    largest = sample.size == sample.size.max()
    moved = sample.loss.copy()
    moved[largest] *= 1.1
    for form in FORMS:
        before = holdout(sample, form)
        after = holdout(replace(sample, loss=moved), form)
        np.testing.assert_allclose(after.predicted, before.predicted, rtol=1e-9)
        assert after.bias == pytest.approx(100 * ((1 + before.bias / 100) / 1.1 - 1), abs=0.02)
        assert before.mean_error <= before.max_error


def test_a_hold_out_obeys_the_options_of_its_fit() -> None:
    sample = grid()
    below, above = sample.where(sample.size < 2.9e9), sample.where(sample.size > 2.9e9)
    fit = fit_law(below, "free", objective="lin-mse", fixed={"E": 1.6}, check=False)
    held = holdout(sample, "free", objective="lin-mse", fixed={"E": 1.6})
    np.testing.assert_allclose(held.predicted, fit.respond(above.columns)[0], rtol=1e-9)
    assert abs(held.bias - holdout(sample, "free").bias) > 1e-3


def test_what_cannot_be_held_out_is_said(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    two = sample.where(sample.size <= np.unique(sample.size)[1])
    with pytest.raises(FitError, match="2 distinct values"):
        holdout(two, "known")
    with pytest.raises(ValueError, match="allowed are size, tokens"):
        holdout(sample, "known", "depth")
    curve = replace(grid(), columns={"C": grid().compute})
    with pytest.raises(FitError, match="has no N, so the largest size is unknown"):
        holdout(curve, "power_C_offset")
    with pytest.raises(FitError, match="no cut leaves enough rows below it; N <= .* rows, 10 needed for 5 parameters"):
        rolling(grid(sizes=3, tokens=3), "free")


@pytest.mark.parametrize("objective", ["log-huber", "lin-mse", "log-lad"])
def test_every_cut_is_the_fit_of_its_own_rows(objective: str) -> None:
    """One batch gives what one fit at a time gives, its own delta included."""
    sample = grid()
    found = rolling(sample, "free", objective=objective)
    assert found.columns == ("N", "D", "C") and found.delta_rule.startswith("auto" if "huber" in objective else "none")
    for cut in found.cuts[::4]:
        below = sample.column(cut.column) <= cut.value
        fit = fit_law(sample.where(below), "free", objective=objective, check=False)
        rows = sample.where(~below)
        np.testing.assert_allclose(cut.predicted, fit.respond(rows.columns)[0], rtol=1e-5)
        assert cut.run_ids == rows.run_ids and cut.num_fitted + cut.num_predicted == len(sample)
        np.testing.assert_allclose(cut.distance, rows.column(cut.column) / sample.column(cut.column)[below].max())
        np.testing.assert_allclose(cut.error, 100 * (np.array(cut.predicted) / rows.loss - 1))


def test_rolling_cuts_never_see_what_they_predict() -> None:
    sample = grid()
    middle = np.unique(sample.size)[5]
    moved = replace(sample, loss=np.where(sample.size > middle, 1.2 * sample.loss, sample.loss))
    before, after = (rolling(s, "free", by=("N",)) for s in (sample, moved))
    for left, right in zip(before.cuts, after.cuts, strict=True):
        if left.value <= middle:
            far = np.array(left.distance) * left.value > middle
            np.testing.assert_allclose(np.array(left.predicted)[far], np.array(right.predicted)[far], rtol=1e-9)


def test_a_law_of_compute_alone_rolls_by_compute() -> None:
    columns = {"C": np.geomspace(1e18, 1e22, 12)}
    loss = 1.7 + 3e4 * columns["C"] ** -0.28
    curve = Sample("all", "loss", tuple("abcdefghijkl"), columns, loss, None, np.arange(12))
    found = rolling(curve, "power_C_offset", objective="log-mse")
    assert found.columns == ("C",) and found.score("N") is None
    assert all(cut.score.max_error < 1e-4 for cut in found.cuts)


def test_shared_runs_are_counted(table: RunTable) -> None:
    """Branches of one trunk sit on both sides of a cut by tokens, never of a cut by size."""
    found = rolling(table.sample("early", "avg")[0], "known", by=("N", "D"))
    assert all(cut.num_shared == 0 for cut in found.by("N"))
    assert found.by("D") and all(cut.num_shared == cut.num_predicted for cut in found.by("D"))
    reach = validated_range(found, tolerance=20.0)
    assert reach["N"].shared == 0.0 and reach["D"].shared == 1.0
    result = fit_law(table.sample("early", "avg")[0], "known", check=False)
    text = claim_flag(result, found, "D", 1.1 * result.ranges["D"][1], tolerance=20.0).text
    assert text.endswith("% error, 100 % of it on runs that were fitted too")


def test_the_score_is_the_textbook_one() -> None:
    observed, predicted = np.array([2.0, 3.0, 4.0]), np.array([2.2, 3.0, 3.6])
    log = np.log(observed)
    want = 1 - np.sum((log - np.log(predicted)) ** 2) / np.sum((log - log.mean()) ** 2)
    found = score(observed, predicted)
    assert found.r2 == pytest.approx(want) and found.mae == pytest.approx(0.2)
    assert found.mean_error == pytest.approx(20 / 3) and found.max_error == pytest.approx(10)
    assert found.bias == pytest.approx(0.0, abs=1e-12)
    assert score(observed, np.full(3, np.exp(log.mean()))).r2 == pytest.approx(0.0, abs=1e-12)
    assert score(observed, observed).r2 == 1.0 and score(observed[:1], predicted[:1]).r2 is None


def test_rolling_is_plain_json_and_comes_back_equal() -> None:
    found = rolling(grid(), "free", by=("N",))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Rolling.from_dict(json.loads(text)) == found
    summary = json.loads(text)["summary"]["N"]
    assert summary["score"]["num_rows"] == sum(cut.num_predicted for cut in found.cuts)
    assert sum(b["score"]["num_rows"] for b in summary["against_distance"]) == summary["score"]["num_rows"]
    with pytest.raises(ValueError, match="field cuts is missing"):
        Rolling.from_dict({k: v for k, v in found.to_dict().items() if k != "cuts"})


def by_hand(errors: dict[float, float]) -> Rolling:
    """Hold-outs by N whose predicted rows lie at the given distances with the given errors in per cent."""
    distance, error = tuple(errors), tuple(errors.values())
    predicted = tuple(2.0 * (1 + e / 100) for e in error)
    total = Score(len(error), 0.0, 0.0, 0.0, 0.0, None)
    ids, observed = tuple(map(str, distance)), (2.0,) * len(error)
    cut = Cut("N", 1e8, 20, len(error), 0, "converged", total, ids, distance, observed, predicted, error)
    return Rolling("chinchilla", "all", "loss", "log-huber", "auto", (cut,), (), 0.0)


def test_the_validated_range_ends_at_the_first_bin_that_fails() -> None:
    found = by_hand({1.2: 0.5, 1.9: -1.5, 2.5: 1.0, 2.9: 2.0, 3.5: 9.0, 7.0: 0.1})
    reach = validated_range(found, tolerance=2.0)["N"]
    assert reach.factor == pytest.approx(2.9) and reach.tested == pytest.approx(7.0) and reach.num_rows == 4
    assert reach.error == pytest.approx(1.5)
    assert validated_range(found, tolerance=10.0)["N"].factor == pytest.approx(7.0)
    nothing = validated_range(found, tolerance=0.1)["N"]
    assert nothing.factor == 1.0 and nothing.error is None
    with pytest.raises(ValueError, match="tolerance is 0"):
        validated_range(found, 0.0)


@pytest.mark.parametrize(
    ("factor", "kind", "text"),
    [(0.5, "inside", "inside the data"), (1.0, "inside", "inside the data"),
     (1.1, "validated", "extrapolates 1.1-fold, validated to 2.9-fold with 0.5 % error"),
     (2.7, "validated", "extrapolates 2.7-fold, validated to 2.9-fold with 1.5 % error"),
     (5.0, "refused", "beyond what was validated (5-fold asked, errors stayed within 2 % up to 2.9-fold): refused"),
     (40.0, "refused", "beyond what was validated (40-fold asked, 7-fold tested): refused")],
)  # fmt: skip
def test_claims_say_what_was_tested(factor: float, kind: str, text: str) -> None:
    found = by_hand({1.2: 0.5, 1.9: -1.5, 2.5: 1.0, 2.9: 2.0, 3.5: 9.0, 7.0: 0.1})
    result = fit_law(grid(), "free", check=False)
    claim = claim_flag(result, found, "N", factor * 3e9)
    assert (claim.kind, claim.text) == (kind, text) and claim.refused == (kind == "refused")


def test_claims_without_a_test_or_below_the_data_are_refused() -> None:
    result, found = fit_law(grid(), "free", check=False), by_hand({1.2: 0.5})
    assert (
        claim_flag(result, None, "N", 6e9).text == "beyond what was validated (2-fold asked, nothing tested): refused"
    )
    assert claim_flag(result, found, "D", 1e12).refused
    assert "4-fold below the data" in claim_flag(result, found, "N", 2.5e6).text
    several = claims(result, found, {"N": 1e8, "D": 1e13, "other": 3.0})
    assert [c.column for c in several] == ["D", "N"] and not several[1].refused
    with pytest.raises(ValueError, match="no column 'depth'; it has"):
        claim_flag(result, found, "depth", 1.0)
    with pytest.raises(ValueError, match="must be a positive number"):
        claim_flag(result, found, "N", -1.0)
    with pytest.raises(ValueError, match="roll the same law over the same rows"):
        claim_flag(result, replace(found, law="kaplan"), "N", 1e10)


def test_folds_follow_a_small_delta_to_its_optimum() -> None:
    """Newton from the squared-error optimum stalls at delta far below the residuals; the narrowing does not."""
    sample = grid(noise=0.02, seed=3)
    setup, _ = prepare(sample, "free")
    keep = np.ones((2, len(sample)), dtype=bool)
    keep[1, ::7] = False
    folds = fit_folds(setup, keep, "log-huber", 1e-6)
    absolute = fit_folds(setup, keep, "log-lad")
    assert folds.converged.all() and folds.delta is not None and (folds.delta == 1e-6).all()
    np.testing.assert_allclose(folds.value / 1e-6, absolute.value, rtol=1e-4)
    exact = fit_law(sample, "free", objective="log-lad", check=False)
    assert absolute.value[0] == pytest.approx(exact.objective_value, rel=1e-6)
    assert absolute.value[0] >= exact.objective_value * (1 - 1e-12)


def test_flat_folds_agree_with_the_profile_of_a_single_fit() -> None:
    """Three of eight sizes are enough to know E, a narrow corner of the grid is not."""
    sample = grid(noise=0.02, seed=2)
    setup, _ = prepare(sample, "free")
    keep = np.ones((3, len(sample)), dtype=bool)
    keep[1] = (sample.size < 1e8) & (sample.tokens < 5e9)
    keep[2] = sample.size < 2e8
    found = flat_folds(setup, fit_folds(setup, keep))
    want = [fit_law(sample.where(rows), "free").unidentified for rows in keep]
    assert [set(one) for one in found] == [set(one) for one in want]
    assert not want[0] and "E" in want[1]
