"""Which rows, runs or sizes carry a fit: leave each out, then the strongest together, all as row weights of one batch.

Shapes: n rows, B blocks that are left out, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.problem import derivatives
from analysis.fit import Setup, objective_of, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample
from analysis.validation.folds import Keep, fit_folds

TOGETHER = (2, 3, 5, 10)
_MOST_SIZES = 40
_MOST_RUNS = 400


@dataclass(frozen=True)
class Mover:
    """The fit without one block. what: "row", "run", "size" or "together" (the strongest rows or runs at once).

    params: natural parameters without it. shift: their change in jackknife standard errors; ``largest`` is the largest
    in absolute value, and ``parameter`` the one it belongs to.
    """

    what: str
    label: str
    num_rows: int
    params: dict[str, float]
    shift: dict[str, float]

    @property
    def parameter(self) -> str:
        """The parameter that moves most."""
        return max(self.shift, key=lambda name: abs(self.shift[name]))

    @property
    def largest(self) -> float:
        """Its shift in standard errors, with its sign."""
        return self.shift[self.parameter]


@dataclass(frozen=True)
class Influence:
    """movers: rows or runs, then sizes, largest shift first, then those left out together. standard_error: delete-one
    jackknife over rows, or runs when some run gave several rows. failed: blocks without which there is no fit."""

    movers: tuple[Mover, ...]
    standard_error: dict[str, float]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Block:
    what: str
    label: str
    keep: Keep


def influence(sample: Sample, result: FitResult, top: int = 10) -> Influence:
    """Refit ``result`` without each row (or run), without each size, and without the strongest 2, 3, 5, 10 together.

    The objective and its delta stay those of ``result``. Shifts are of the exponents and E, the numbers that a study
    reports. A size that is a single run counts as that run. Beyond 400 runs only the 400 are refitted that move the
    parameters most in one step of Newton, whose steps then also give the standard error. top: movers kept of rows or
    runs, and of sizes.
    """
    setup, _ = prepare(sample, result.form, result.fixed, result.domains)
    names = reported(setup)
    runs, error = _strongest(setup, result, _runs(setup.sample), names)
    known = {block.keep.tobytes() for block in runs}
    sizes = [block for block in _sizes(setup.sample) if block.keep.tobytes() not in known]
    theta, failed = _without(setup, result, [*runs, *sizes])
    natural = setup.law.to_natural(theta, setup.centre)
    if error is None:
        at = [setup.law.names.index(name) for name in names]
        error = _jackknife(natural[: len(runs)][:, at])
    movers = [_mover(setup, result, b, row, names, error) for b, row in zip([*runs, *sizes], natural, strict=True)]
    movers = sorted((m for m in movers if np.isfinite(m.largest)), key=lambda mover: -abs(mover.largest))
    alone = [mover for mover in movers if mover.what != "size"]
    by_size = [mover for mover in movers if mover.what == "size"]
    joint = _together(runs, [mover.label for mover in alone])
    theta, missing = _without(setup, result, joint)
    natural = setup.law.to_natural(theta, setup.centre)
    last = [_mover(setup, result, b, row, names, error) for b, row in zip(joint, natural, strict=True)]
    kept = (*alone[:top], *by_size[:top], *(m for m in last if np.isfinite(m.largest)))
    return Influence(kept, dict(zip(names, map(float, error), strict=True)), tuple(failed + missing))


def _strongest(
    setup: Setup, result: FitResult, runs: list[_Block], names: tuple[str, ...]
) -> tuple[list[_Block], Array | None]:
    """All runs up to 400, else the 400 strongest by one step, with the standard error (P,) of these steps."""
    if len(runs) <= _MOST_RUNS:
        return runs, None
    problem = setup.problem(np.ones((1, len(setup.y))), objective_of(result))
    found = derivatives(problem, result.theta[None], with_metric=True)
    assert found.metric is not None
    bread = found.hessian[0]
    if not np.linalg.eigvalsh(bread)[0] > 0:
        bread = found.metric[0]  # least absolute deviations have no second derivative
    steps = found.scores[0] @ np.linalg.pinv(bread)
    at = [setup.law.names.index(name) for name in names]
    moved = np.stack([steps[~block.keep][:, at].sum(axis=0) for block in runs])
    error = np.sqrt(np.sum(moved**2, axis=0))
    order = np.argsort(-np.max(np.abs(moved) / np.maximum(error, 1e-300), axis=1))
    return [runs[i] for i in order[:_MOST_RUNS]], error


def reported(setup: Setup) -> tuple[str, ...]:
    """The free parameters whose values a study reports: exponents and E; all free ones when there is neither."""
    law = setup.law
    names = tuple(n for n in law.names if n not in setup.fixed and (n in law.exponents or n == "E"))
    return names or tuple(n for n in law.names if n not in setup.fixed)


def enough(setup: Setup, keep: Keep) -> bool:
    """True when the rows ``keep`` (n,) can carry the law: one more than parameters, and no column of it constant."""
    varies = (len(np.unique(setup.sample.columns[name][keep])) > 1 for name in setup.law.columns if name in "NDC")
    return bool(keep.sum() > setup.num_free and all(varies))


def _runs(sample: Sample) -> list[_Block]:
    if sample.num_clusters == len(sample):
        return [_Block("row", name, np.arange(len(sample)) != i) for i, name in enumerate(sample.run_ids)]
    codes = np.unique(sample.cluster)
    first = [sample.run_ids[int(np.argmax(sample.cluster == code))] for code in codes]
    return [_Block("run", name, sample.cluster != code) for code, name in zip(codes, first, strict=True)]


def _sizes(sample: Sample) -> list[_Block]:
    if "N" not in sample.columns:
        return []
    levels = np.unique(sample.size)
    if not 3 < len(levels) <= _MOST_SIZES:
        return []
    return [_Block("size", f"N = {level:.4g}", sample.size != level) for level in levels]


def _together(runs: list[_Block], order: list[str]) -> list[_Block]:
    by_label = {block.label: block for block in runs}
    found = []
    for count in TOGETHER:
        if count <= len(order) // 2:
            keep = np.logical_and.reduce([by_label[label].keep for label in order[:count]])
            found.append(_Block("together", f"the {count} strongest", keep))
    return found


def _without(setup: Setup, result: FitResult, blocks: list[_Block]) -> tuple[Array, list[str]]:
    """theta (B, P), NaN where too few rows are left or the fit does not converge, and the labels of those."""
    theta = np.full((len(blocks), setup.law.num_params), np.nan)
    possible = np.array([enough(setup, block.keep) for block in blocks], dtype=bool)
    if possible.any():
        keep = np.array([block.keep for block in blocks])[possible]
        delta = "auto" if result.delta is None else result.delta
        folds = fit_folds(setup, keep, result.objective, delta, result.tilt, start=result.theta, tries=1)
        theta[possible] = np.where(folds.converged[:, None], folds.theta, np.nan)
    lost = np.isnan(theta[:, 0])
    return theta, [block.label for block, gone in zip(blocks, lost.tolist(), strict=True) if gone]


def _jackknife(values: Array) -> Array:
    """Delete-one standard error (P,) of values (B, P); rows with NaN do not count."""
    values = values[np.all(np.isfinite(values), axis=1)]
    count = len(values)
    if count < 2:
        return np.full(values.shape[1], np.nan)
    return np.sqrt((count - 1) / count * np.sum((values - values.mean(axis=0)) ** 2, axis=0))


def _mover(
    setup: Setup, result: FitResult, block: _Block, natural: Array, names: tuple[str, ...], error: Array
) -> Mover:
    params = dict(zip(setup.law.names, map(float, natural), strict=True))
    scale = np.maximum(error, 1e-12)
    shift = {name: float((params[name] - result.params[name]) / s) for name, s in zip(names, scale, strict=True)}
    return Mover(block.what, block.label, int((~block.keep).sum()), params, shift)
