"""Whether a law of all arms may be believed: does it describe every arm, and are the runs as independent as it takes?

Shapes: n rows, C cells (a size with its data), S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.engine.jet import Array
from analysis.interventions.paired import Estimate, mean
from analysis.laws.arms import arm_labels
from analysis.result import FitResult
from analysis.rows.table import Sample

_LEAST = 2


def rows_of(sample: Sample, arm: str) -> NDArray[np.bool_]:
    """(n,) which rows of the sample belong to an arm."""
    return np.asarray(sample.columns[f"is_{arm_labels((arm,))[0]}"] > 0)


def residuals(sample: Sample, fit: FitResult) -> Array:
    """(n,) ln of measured over fitted loss."""
    return np.asarray(np.log(sample.loss / np.array(fit.fitted)))


def at_most_data(sample: Sample, fit: FitResult, arm: str) -> Estimate:
    """Mean residual in per cent over the runs of ``arm`` with the most data, where a floor of its own shows first."""
    mine, tokens = rows_of(sample, arm), sample.columns["D"]
    return mean(100 * residuals(sample, fit)[mine & (tokens >= tokens[mine].max())], unit="runs")


def is_missed(late: Estimate) -> bool:
    """Whether the runs with the most data lie off the law by more than chance."""
    return late.known and not late.low <= 0.0 <= late.high


@dataclass(frozen=True)
class SeedEffect:
    """Whether all runs of one seed of an arm move together, as when a seed is also one draw of a subset of the data.

    chance: probability of seeds that differ this much if all runs were independent given the control's (NaN with fewer
    than two seeds or cells). ratio: F, how much more the seeds' means differ than independent runs would let them.
    """

    chance: float
    ratio: float
    seeds: int
    cells: int

    def stretch(self, freedom: int) -> float:
        """Factor for intervals that take runs as independent (``freedom`` degrees of it): sqrt(F), where F > 1, and the
        t of Satterthwaite's degrees of freedom between those of the seeds and those of the runs.

        No test decides between two widths, so there is no gap where a seed effect is there and not seen; independent
        runs pay a little width for it (``benchmarks/intervention_coverage.py``, lines law and moved).
        """
        if not self.ratio > 1.0:
            return 1.0
        runs = (self.seeds - 1) * (self.cells - 1)
        mixed = self.ratio**2 / ((self.ratio - 1.0) ** 2 / (self.seeds - 1) + 1.0 / runs)
        few, many = (float(stats.t.ppf(0.975, df)) for df in (np.clip(mixed, self.seeds - 1, freedom), freedom))
        return math.sqrt(self.ratio) * few / many


def seed_effect(sample: Sample, fit: FitResult, arm: str, control: str) -> SeedEffect:
    """Two-way analysis of variance of the residuals' differences arm - control over seeds and cells."""
    table = _differences(sample, residuals(sample, fit), arm, control)
    cells, seeds = table.shape
    if cells < _LEAST or seeds < _LEAST:
        return SeedEffect(math.nan, math.nan, seeds, cells)
    own = table - table.mean(axis=1, keepdims=True)
    between = cells * float(np.sum(own.mean(axis=0) ** 2)) / (seeds - 1)
    within = float(np.sum((own - own.mean(axis=0)) ** 2)) / ((seeds - 1) * (cells - 1))
    ratio = between / max(within, 1e-300)
    return SeedEffect(float(stats.f.sf(ratio, seeds - 1, (seeds - 1) * (cells - 1))), ratio, seeds, cells)


def _differences(sample: Sample, residual: Array, arm: str, control: str) -> Array:
    """(C, S) differences of the residuals in the cells that both arms have for all seeds."""
    columns = (sample.columns[name] for name in ("N", "D", "seed"))
    keys = list(zip(*columns, strict=True))
    sides = [{keys[i]: float(residual[i]) for i in np.flatnonzero(rows_of(sample, name))} for name in (arm, control)]
    shared = [key for key in sides[0] if key in sides[1]]
    seeds = sorted({seed for _, _, seed in shared})
    cells = [cell for cell in dict.fromkeys(key[:2] for key in shared) if all((*cell, s) in shared for s in seeds)]
    found = [[sides[0][*cell, s] - sides[1][*cell, s] for s in seeds] for cell in cells]
    return np.array(found).reshape(len(cells), len(seeds))


def caution(sample: Sample, fit: FitResult, arm: str, control: str, comparisons: int) -> str:
    """What a reader of this arm's law must know, in sentences; empty when both checks pass at 5 % over all arms."""
    found = []
    if is_missed(late := at_most_data(sample, fit, arm)):
        found.append(
            f"The law misses {arm} by {late.value:+.2g} % at its largest data, so its floor may not be the shared one: "
            "read its ladder beside the law."
        )
    effect = seed_effect(sample, fit, arm, control)
    if effect.chance < 0.05 / comparisons:
        stretch = effect.stretch(sample.num_clusters - 1)
        found.append(
            f"All runs of one seed of {arm} move together (p = {effect.chance:.1g}), so its intervals are "
            f"{stretch:.2g} times as wide as independent runs would make them."
        )
    return " ".join(found)
