"""Fit on the small, predict the large: the only test a scaling law cannot pass by flexibility alone.

``holdout`` hides the largest size or token count once. ``rolling`` moves the cut through the data: every cut fits what
lies at or below it and predicts everything above. What such predictions were worth, by how far they reached, decides
what a prediction outside the data may claim (``analysis.validation.rolling``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.engine.point import objective_with
from analysis.fit import FitError, Setup, fit_law, prepare
from analysis.result import FitResult, Holdout
from analysis.rows.table import Sample
from analysis.validation.folds import Folds, Keep, fit_folds
from analysis.validation.rolling import Claim, Cut, Rolling, claim_flag, claims, score, validated_range

__all__ = [
    "HOLDOUTS",
    "Claim",
    "Rolling",
    "claim_flag",
    "claims",
    "holdout",
    "rolled_for",
    "rolling",
    "validated_range",
]

HOLDOUTS = {"size": "largest size", "tokens": "largest token count"}
ROLLED = ("N", "D", "C")
_MIN_LEVELS = 3
_ROWS_PER_PARAMETER = 2


def holdout(
    sample: Sample,
    form: str,
    by: str = "size",
    delta: float | str = "auto",
    objective: str = "log-huber",
    fixed: Mapping[str, float] | None = None,
    tilt: float = 1.0,
    domains: Sequence[str] = (),
) -> Holdout:
    """Fit without the rows of the largest ``by`` ("size" or "tokens") and predict their loss.

    The rest is as in ``fit_law``. Errors are per cent of the observed loss: mean and largest absolute, and the signed
    mean (positive = predicted too high). distance: largest value over the next one. Raises ``FitError`` when the rest
    cannot carry the law, or when the table has no such column.
    """
    if by not in HOLDOUTS:
        raise ValueError(f"holdout by {by!r}; allowed are {', '.join(HOLDOUTS)}")
    usable = prepare(sample, form, fixed, domains)[0].sample
    symbol = "N" if by == "size" else "D"
    if symbol not in usable.columns:
        raise FitError(f"{sample.group}/{sample.target}: the table has no {symbol}, so the {HOLDOUTS[by]} is unknown")
    values = usable.columns[symbol]
    levels = np.unique(values)
    if len(levels) < 3:
        raise FitError(
            f"{sample.group}/{sample.target}: {len(levels)} distinct values; holding out the largest needs 3"
        )
    hidden = values == levels[-1]
    fit = fit_law(usable.where(~hidden), form, delta, False, objective, fixed, tilt, domains)
    rows = usable.where(hidden)
    predicted = fit.respond(rows.columns)[0] + fit.added_entropy(rows.entropy)
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


def rolling(
    sample: Sample,
    form: str,
    by: Sequence[str] = (),
    objective: str = "log-huber",
    delta: float | str = "auto",
    fixed: Mapping[str, float] | None = None,
    tilt: float = 1.0,
    domains: Sequence[str] = (),
    max_cuts: int = 8,
) -> Rolling:
    """Rolling hold-out by every column of ``by`` (default: N, D and C as far as the sample has them).

    A cut needs twice as many fitted rows as free parameters, and three distinct values of each of N, D and C that the
    law reads; ``skipped`` names the highest cut of a column that has less. Where a column has more than ``max_cuts``
    values the cuts are spread evenly over the rows. All cuts are row weights of one batch; "auto" finds a delta for
    every cut from its own rows, so nothing above a cut reaches its fit. Raises ``FitError`` as ``fit_law`` does, when
    no cut is possible, and when a response is not positive.
    """
    began = time.perf_counter()
    setup, _ = prepare(sample, form, fixed, domains)
    where = f"{sample.group}/{sample.target}, form {form}"
    if not (setup.sample.loss > 0).all():
        raise FitError(f"{where}: relative errors need a positive response, and the smallest here is "
                       f"{setup.sample.loss.min():.3g}")  # fmt: skip
    columns = tuple(by) or tuple(name for name in ROLLED if name in setup.sample.columns)
    wanted, skipped = [], []
    for column in columns:
        found, reasons = _cuts(setup, column, max_cuts)
        wanted += [(column, value) for value in found]
        skipped += reasons
    if not wanted:
        raise FitError(f"{where}: no cut leaves enough rows below it; {'; '.join(skipped[:3])}")
    keep = np.array([setup.sample.column(column) <= value for column, value in wanted])
    folds = fit_folds(setup, keep, objective, delta, tilt)
    cuts, failed = _predicted(setup, folds, wanted)
    rule = objective_with(objective, delta)[1]
    seconds = time.perf_counter() - began
    law, names = setup.law.name, (sample.group, sample.target)
    return Rolling(law, *names, objective, rule, tuple(cuts), tuple(skipped + failed), seconds)


def _cuts(setup: Setup, column: str, max_cuts: int) -> tuple[list[float], list[str]]:
    """The largest fitted values of the cuts of one column, and why others were left out."""
    values = setup.sample.column(column)
    levels = np.unique(values)[:-1]
    good, reasons = [], []
    for level in levels:
        problem = _too_little(setup, values <= level)
        if problem:
            reasons.append(f"{column} <= {level:.4g}: {problem}")
        else:
            good.append(float(level))
    if len(good) > max_cuts:
        rows = np.sort(values[values <= good[-1]])
        first = int(np.searchsorted(rows, good[0], side="right")) - 1
        at = np.linspace(first, len(rows) - 1, max_cuts).round().astype(int)
        good = sorted(set(map(float, rows[at])))
    return good, reasons[-1:]


def _too_little(setup: Setup, keep: Keep) -> str:
    needed = _ROWS_PER_PARAMETER * setup.num_free
    if keep.sum() < needed:
        return f"{keep.sum()} rows, {needed} needed for {setup.num_free} parameters"
    for name in ROLLED:
        if name in setup.law.columns:
            levels = len(np.unique(setup.sample.columns[name][keep]))
            if levels < _MIN_LEVELS:
                return f"{levels} distinct values of {name}, {_MIN_LEVELS} needed"
    return ""


def _predicted(setup: Setup, folds: Folds, wanted: list[tuple[str, float]]) -> tuple[list[Cut], list[str]]:
    law, sample = setup.law, setup.sample
    with np.errstate(all="ignore"):
        every = law.loss(folds.theta, sample.columns, setup.centre) + setup.added
    free = np.array([name not in setup.fixed for name in law.names])
    cuts, failed = [], []
    for (column, value), keep, fitted, status in zip(wanted, folds.keep, every, folds.status(free), strict=True):
        ahead = ~keep
        if not np.isfinite(fitted[ahead]).all():
            failed.append(f"{column} <= {value:.4g}: the fit predicts no finite response above it")
            continue
        observed, predicted = sample.loss[ahead], fitted[ahead]
        cuts.append(
            Cut(
                column=column,
                value=value,
                num_fitted=int(keep.sum()),
                num_predicted=int(ahead.sum()),
                num_shared=int(np.isin(sample.cluster[ahead], sample.cluster[keep]).sum()),
                status=status,
                score=score(observed, predicted),
                run_ids=tuple(name for name, out in zip(sample.run_ids, ahead, strict=True) if out),
                distance=tuple(map(float, sample.column(column)[ahead] / value)),
                observed=tuple(map(float, observed)),
                predicted=tuple(map(float, predicted)),
                error=tuple(map(float, 100.0 * (predicted / observed - 1.0))),
            )
        )
    return cuts, failed


def rolled_for(sample: Sample, fit: FitResult) -> Rolling:
    """Hold-outs under the very options of a fit."""
    delta = fit.delta if fit.delta_rule == "fixed" and fit.delta is not None else "auto"
    delta = "chinchilla" if fit.delta_rule.startswith("chinchilla") else delta
    return rolling(sample, fit.form, (), fit.objective, delta, fit.fixed, fit.tilt, fit.domains)
