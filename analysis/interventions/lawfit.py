"""One law per arm with a shared floor, and what an arm is worth in data and in compute.

    L = E + A / N^alpha + B_arm / D^beta

Shapes: n rows, B draws, K costs.

E (known or fitted), A and alpha are shared by all arms; beta is shared unless the rows say otherwise. Intervals refit
resampled blocks of runs, and a block holds the runs of every arm with the same size, data and seed: what these share
(order of the data, initial weights) cancels in the multiplier. With runs of a single size A / N^alpha is part of E.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.fit import FitError, fit_law
from analysis.interventions import budget, lawcheck
from analysis.interventions.multiplier import AT_LEAST, AT_MOST, OBSERVED, Multiplier, from_draws
from analysis.interventions.rows import Data, RowsError, value_of
from analysis.interventions.samples import sample_of
from analysis.laws.arms import arm_labels
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.uncertainty.bootstrap import bootstrap
from analysis.uncertainty.draws import interval_from

DRAWS = 400
FAMILY_LEVEL = 0.05
_BUDGETS = 41


@dataclass(frozen=True)
class ArmLaws:
    """The fitted laws of all arms of a study on one metric.

    fit: the law that verdicts use, with draws. own_beta: whether every arm has a data exponent of its own in it.
    shared, own: both laws (``own`` is None where the rows do not identify it). why: the reason for the choice, as a
    sentence. sample: the rows that were fitted. budgets: the tested sizes, data and costs of each arm.
    """

    metric: str
    label: str
    control: str
    arms: tuple[str, ...]
    fit: FitResult
    own_beta: bool
    shared: FitResult
    own: FitResult | None
    why: str
    sample: Sample
    budgets: Mapping[str, budget.Budget]

    def data_multiplier(self, arm: str, fit: FitResult | None = None) -> Interval:
        """Data of the control per datum of ``arm`` at equal loss: (B_control / B_arm)^(1 / beta).

        With exponents of their own it depends on the loss, and is given at the geometric mean of the arm's data.
        """
        used = fit or self.fit
        tokens = self.budgets[arm].tokens
        middle = np.array([math.sqrt(tokens[0] * tokens[1])])
        values = np.exp(_data_ratio(used, self.control, arm, middle))[:, 0]
        return interval_from(values, used.widening * self._stretch(arm), what="ratio")

    def data_curve(self, arm: str) -> Multiplier:
        """Data the control needs over the data ``arm`` used, over the arm's tested data; costs are not counted."""
        ours, theirs = self.budgets[arm].tokens, self.budgets[self.control].tokens
        tokens = np.geomspace(*ours, _BUDGETS)
        log_value = _data_ratio(self.fit, self.control, arm, tokens)
        log_value = log_value[:1] + self.fit.widening * self._stretch(arm) * (log_value - log_value[:1])
        ends = np.log(theirs[0] / tokens), np.log(theirs[1] / tokens)
        mark = np.where(log_value[0] > ends[1], AT_LEAST, np.where(log_value[0] < ends[0], AT_MOST, OBSERVED))
        result = np.full(len(tokens), math.nan)
        names = self._names(arm) | {"unit": "data", "axis": f"data D of {arm} (tokens)"}
        return from_draws(log_value, mark, ends, np.zeros(len(tokens), dtype=bool), tokens, result, names, False)

    def compute_multiplier(self, arm: str, comparisons: int | None = None) -> Multiplier:
        """C_control(L*) / [C_arm(L*) + charged] over the arm's total cost, at the best tested split of every budget.

        Only sizes and data that were trained are used, for both arms; where the control never reached the loss the
        value is a bound. Charged costs of the control are counted as well. comparisons: for how many arms together
        the band, and so the verdict, shall hold (default: all arms of the fit).
        """
        ours, theirs = self.budgets[arm], self.budgets[self.control]
        cost, grid = np.geomspace(*ours.span, _BUDGETS), np.geomspace(*theirs.span, 2 * _BUDGETS)
        reached, edge = self._frontier(arm, cost)
        reference, reference_edge = self._frontier(self.control, grid)
        usable = np.isfinite(reached[0])
        cost, reached, edge = cost[usable], reached[:, usable], edge[usable]
        kept = np.isfinite(reference[0])
        grid, reference, reference_edge = grid[kept], reference[:, kept], reference_edge[kept]
        if not len(cost) or len(grid) < 2:
            raise RowsError(f"{arm} and {self.control}: no budget has a tested split in both")
        reference = np.minimum.accumulate(reference, axis=1)
        needed = budget.cost_of_loss(reference, np.log(grid), reached)
        nearest = np.abs(needed[0][:, None] - np.log(grid)[None, :]).argmin(axis=1)
        ends = np.log(grid[0] / cost), np.log(grid[-1] / cost)
        first, last = reference[0][0], reference[0][-1]
        mark = np.where(reached[0] < last, AT_LEAST, np.where(reached[0] > first, AT_MOST, OBSERVED))
        edge = edge | reference_edge[nearest]
        names = self._names(arm) | {"unit": "FLOPs", "axis": f"total cost of {arm}, charged FLOPs included (FLOPs)"}
        family = comparisons or len(self.arms) - 1
        log_value, result = needed - np.log(cost), np.exp(reached[0])
        log_value = log_value[:1] + self._stretch(arm) * (log_value - log_value[:1])
        return from_draws(log_value, mark, ends, edge, cost, result, names, False, None, family)

    def _frontier(self, arm: str, cost: Array) -> tuple[Array, NDArray[np.bool_]]:
        """ln of the lowest loss (1 + B, K) at every total cost, draws stretched about the point; and where the best
        split is on the border of the tests (K,)."""

        def loss_at(size: Array, tokens: Array) -> Array:
            which = {
                f"is_{label}": np.full(len(size), float(label == arm_labels((arm,))[0])) for label in self.fit.domains
            }
            return self.fit.respond({"N": size, "D": tokens} | which, _thetas(self.fit))

        loss, edge = budget.frontier(self.budgets[arm], cost, loss_at)
        log = np.log(loss)
        return np.concatenate([log[:1], log[:1] + self.fit.widening * (log[1:] - log[:1])]), edge

    def _stretch(self, arm: str) -> float:
        """How much wider the arm's intervals must be than independent runs would make them."""
        effect = lawcheck.seed_effect(self.sample, self.fit, arm, self.control)
        return effect.stretch(self.sample.num_clusters - 1)

    def _names(self, arm: str) -> dict[str, str]:
        basis = f"one law per arm, {self.fit.n_clusters} blocks of paired runs resampled"
        caution = lawcheck.caution(self.sample, self.fit, arm, self.control, len(self.arms) - 1)
        return {"arm": arm, "control": self.control, "metric": self.label, "basis": basis, "caution": caution}


def fit_arms(
    data: Data, metric: str = "", arms: Sequence[str] | None = None, entropy: float | None = None,
    block: Sequence[str] = ("n", "d", "seed"), draws: int = DRAWS, seed: int = 0, own_beta: bool | None = None,
    where: Mapping[str, Any] | None = None,
) -> ArmLaws:  # fmt: skip
    """Fit the laws of all arms at once, the control among them.

    arms: which, by default all that have rows. entropy: known E of the validation set; None fits one E for all arms.
    block: columns that runs resampled together share; ("n", "seed") where one run gave several d. own_beta: None
    decides: every arm gets its own beta when that law is identified and, for some arm, the 95 % interval of its
    difference from the control's excludes 0 (corrected for the number of arms). Raises ``RowsError`` or ``FitError``
    when the rows cannot carry the law: n or d missing, too few rows, a single d.
    """
    chosen = [data.control, *(a for a in (arms or data.arms) if a != data.control)]
    if len(chosen) < 2:
        raise RowsError(
            f"a multiplier needs an arm beside the control {data.control!r}; the study has rows of no other"
        )
    name = data.metric(metric)
    if name.better != "lower":
        raise RowsError(f"a law of losses needs a metric of which lower is better; {name.name} is not (use curve)")
    used = data.where(chosen, **dict(where or {}))
    used = Data(data.study, tuple(row for row in used.rows if math.isfinite(value_of(row, name.name))))
    sample = sample_of(used, name.name, chosen, block)
    shared, own, why = _both(sample, arm_labels(chosen), entropy, draws, seed, own_beta)
    wider = own is not None and (own_beta or (own_beta is None and bool(differing(own))))
    budgets = {arm: budget.budget_of(used.where(arm), arm) for arm in chosen}
    fit = own if own is not None and wider else shared
    return ArmLaws(
        name.name, name.label, data.control, tuple(chosen), fit, fit is own, shared, own, why, sample, budgets
    )


def _both(
    sample: Sample, labels: Sequence[str], entropy: float | None, draws: int, seed: int, own_beta: bool | None
) -> tuple[FitResult, FitResult | None, str]:
    """The law with one beta, the one with a beta per arm where it is identified and wanted, and why which counts."""
    one_size = len(np.unique(sample.columns["N"])) == 1
    forms = ("arms_data_shared", "arms_data_own") if one_size else ("arms_shared", "arms_own")
    fixed = {} if entropy is None or one_size else {"E": entropy}
    shared = bootstrap(fit_law(sample, forms[0], fixed=fixed, domains=labels), sample, draws, seed)
    if shared.status == "failed":
        raise FitError(f"the law of the arms {', '.join(labels)} did not converge on {len(sample)} rows; use curve")
    if own_beta is False:
        return shared, None, "One data exponent for all arms, as asked for."
    try:
        own = bootstrap(fit_law(sample, forms[1], fixed=fixed, domains=labels), sample, draws, seed)
    except FitError as error:
        return shared, None, f"One data exponent for all arms: a law with one each cannot be fitted ({error})."
    lost = sorted(name for name in own.unidentified if name.startswith("beta"))
    if own.status == "failed" or lost:
        what = f"{lost[0]} {own.unidentified[lost[0]]}" if lost else "the fit did not converge"
        return shared, None, f"One data exponent for all arms: the rows do not identify one each ({what})."
    if own_beta:
        return shared, own, "A data exponent for each arm, as asked for."
    if found := differing(own):
        return shared, own, f"A data exponent for each arm: that of {', '.join(found)} differs from the control's."
    return shared, own, "One data exponent for all arms: none differs from the control's by more than its interval."


def differing(own: FitResult) -> tuple[str, ...]:
    """Labels of the arms whose beta differs from the control's, 95 % for all of them together (Bonferroni)."""
    natural = own.shape.to_natural(_thetas(own), own.centre)
    column = {label: natural[:, own.shape.names.index(f"beta_{label}")] for label in own.domains}
    control, *others = own.domains
    tail = 100 * FAMILY_LEVEL / (2 * len(others))
    found = []
    for label in others:
        gap = column[label] - column[control]
        low, high = np.percentile(gap[0] + own.widening * (gap[1:] - gap[0]), [tail, 100 - tail])
        if low > 0 or high < 0:
            found.append(label)
    return tuple(found)


def _thetas(fit: FitResult) -> Array:
    """Working parameters (1 + B, P), the point first."""
    return fit.theta[None] if fit.draws is None else np.concatenate([fit.theta[None], fit.draws])


def _data_ratio(fit: FitResult, control: str, arm: str, tokens: Array) -> Array:
    """ln of the control's data over the arm's (1 + B, K) at equal loss, for data ``tokens`` (K,) of the arm."""
    natural, names = fit.shape.to_natural(_thetas(fit), fit.centre), fit.shape.names
    sides = {}
    for name, label in zip((control, arm), arm_labels((control, arm)), strict=True):
        beta = "beta" if "beta" in names else f"beta_{label}"
        sides[name] = np.log(natural[:, [names.index(f"B_{label}")]]), natural[:, [names.index(beta)]]
    (log_control, beta_control), (log_arm, beta_arm) = sides[control], sides[arm]
    log_tokens = np.log(tokens)[None, :]
    return np.asarray((log_control - log_arm + beta_arm * log_tokens) / beta_control - log_tokens)
