from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import FORMS, FitError
from analysis.table import RunTable
from analysis.validate import holdout


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
        after = holdout(type(sample)(**{**sample.__dict__, "loss": moved}), form)
        np.testing.assert_allclose(after.predicted, before.predicted, rtol=1e-9)
        assert after.bias == pytest.approx(100 * ((1 + before.bias / 100) / 1.1 - 1), abs=0.02)
        assert before.mean_error <= before.max_error


def test_what_cannot_be_held_out_is_said(table: RunTable) -> None:
    sample, _ = table.sample("early", "avg")
    two = sample.where(sample.size <= np.unique(sample.size)[1])
    with pytest.raises(FitError, match="2 distinct values"):
        holdout(two, "known")
    with pytest.raises(ValueError, match="allowed are size, tokens"):
        holdout(sample, "known", "depth")
