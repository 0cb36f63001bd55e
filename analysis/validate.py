"""Fit on the small, predict the large: the only test a scaling law cannot pass by flexibility alone."""

from __future__ import annotations

import numpy as np

from analysis.fit import FitError, fit_law, prepare
from analysis.result import Holdout
from analysis.table import Sample

HOLDOUTS = {"size": "largest size", "tokens": "largest token count"}


def holdout(sample: Sample, form: str, by: str = "size", delta: float | str = "auto") -> Holdout:
    """Fit without the rows of the largest ``by`` ("size" or "tokens") and predict their loss.

    Errors are per cent of the observed loss: mean and largest absolute, and the signed mean (positive = predicted too
    high). distance: largest value over the next one. Raises ``FitError`` when the rest cannot carry the law.
    """
    if by not in HOLDOUTS:
        raise ValueError(f"holdout by {by!r}; allowed are {', '.join(HOLDOUTS)}")
    usable = prepare(sample, form)[0].sample
    values = usable.size if by == "size" else usable.tokens
    levels = np.unique(values)
    if len(levels) < 3:
        raise FitError(
            f"{sample.group}/{sample.target}: {len(levels)} distinct values; holding out the largest needs 3"
        )
    hidden = values == levels[-1]
    fit = fit_law(usable.where(~hidden), form, delta, check=False)
    rows = usable.where(hidden)
    predicted = fit.predict(rows.size, rows.tokens, rows.entropy)
    error = 100.0 * (predicted / rows.loss - 1.0)
    return Holdout(
        what=HOLDOUTS[by],
        num_rows=len(rows),
        mean_error=float(np.mean(np.abs(error))),
        max_error=float(np.max(np.abs(error))),
        bias=float(np.mean(error)),
        observed=tuple(map(float, rows.loss)),
        predicted=tuple(map(float, predicted)),
        distance=float(levels[-1] / levels[-2]),
    )
