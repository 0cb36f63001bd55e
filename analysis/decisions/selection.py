"""Choosing runs: greedy by what they tell per FLOP, improved by exchange, beside repetition and blind choice.

Shapes: M candidate runs, P free parameters. A set of runs is a list of candidate numbers, which may repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.decisions.information import Blocks, inverse_information
from analysis.engine.jet import Array

_POWERS = (0.0, 0.5, 1.0)
_PASSES = 6
_WORTHWHILE = 1e-6
_SLACK = 1.0 + 1e-9
_BLIND_SETS = 64


@dataclass(frozen=True)
class Choice:
    """What may be chosen. flops (M,); information (P, P) that is there already; gradient (P,) of the quantity whose
    variance shall fall."""

    blocks: Blocks
    flops: Array
    information: Array
    gradient: Array

    def covariance(self, picked: Sequence[int] = ()) -> Array:
        """Covariance (P, P) after these runs."""
        added = self.blocks.information[list(picked)].sum(axis=0) if len(picked) else 0.0
        return inverse_information(self.information + added)

    def variance(self, picked: Sequence[int] = ()) -> float:
        """Variance of the quantity after these runs."""
        return float(self.gradient @ self.covariance(picked) @ self.gradient)

    def spent(self, picked: Sequence[int]) -> float:
        """FLOPs of these runs."""
        return float(self.flops[list(picked)].sum())


def best_set(choice: Choice, budget: float, max_runs: int) -> list[int]:
    """The set within the budget and the number of runs that leaves the least variance, of those tried: greedy by gain
    per FLOP^w for w = 0, 1/2 and 1, each improved by exchange."""
    tried = [exchanged(choice, greedy(choice, budget, max_runs, power), budget, max_runs) for power in _POWERS]
    return min(tried, key=choice.variance)


def greedy(choice: Choice, budget: float, max_runs: int, power: float) -> list[int]:
    """Add the run that lowers ln(variance) most per FLOP^power until nothing that tells anything fits any more."""
    picked: list[int] = []
    covariance, left = choice.covariance(), budget
    while len(picked) < max_runs:
        before = float(choice.gradient @ covariance @ choice.gradient)
        gains = choice.blocks.gains(covariance, choice.gradient)
        fall = -np.log1p(-np.minimum(gains / before, 1.0 - 1e-12))
        score = np.where(choice.flops <= left * _SLACK, fall / choice.flops**power, -np.inf)
        best = int(np.argmax(score))
        if not (np.isfinite(score[best]) and fall[best] > _WORTHWHILE):
            break
        picked.append(best)
        covariance, left = choice.blocks.updated(covariance, best), left - choice.flops[best]
    return picked


def exchanged(choice: Choice, picked: Sequence[int], budget: float, max_runs: int) -> list[int]:
    """The set after taking out every run in turn for the best one that then fits, and filling what is left."""
    current = list(picked)
    for _ in range(_PASSES):
        before = choice.variance(current)
        for place in range(len(current)):
            rest = current[:place] + current[place + 1 :]
            current = _with_best(choice, rest, budget, current[place])
        if len(current) < max_runs:
            current = _with_best(choice, current, budget, None)
        if choice.variance(current) >= before * (1.0 - _WORTHWHILE):
            break
    return current


def _with_best(choice: Choice, rest: list[int], budget: float, present: int | None) -> list[int]:
    """``rest`` and the affordable run that leaves the least variance; ``present`` stays unless another is better."""
    gains = choice.blocks.gains(choice.covariance(rest), choice.gradient)
    fits = choice.flops <= (budget - choice.spent(rest)) * _SLACK
    if not fits.any():
        return rest if present is None else [*rest, present]
    best = int(np.argmax(np.where(fits, gains, -np.inf)))
    if present is not None and gains[best] <= gains[present] * (1.0 + _WORTHWHILE):
        best = present
    return [*rest, best]


def in_order(choice: Choice, picked: Sequence[int]) -> list[int]:
    """The same runs, the one that tells most per FLOP first."""
    left, order, covariance = list(picked), [], choice.covariance()
    while left:
        gains = choice.blocks.gains(covariance, choice.gradient)[left] / choice.flops[left]
        best = left.pop(int(np.argmax(gains)))
        order.append(best)
        covariance = choice.blocks.updated(covariance, best)
    return order


def repeated_variance(choice: Choice, budget: float) -> float | None:
    """Variance after repeating all runs of ``choice``, cheapest first, round after round while the budget lasts; None
    when it buys none."""
    order = np.argsort(choice.flops, kind="stable")
    rounds = int(budget * _SLACK // choice.flops.sum())
    left = budget * _SLACK - rounds * choice.flops.sum()
    last = order[np.cumsum(choice.flops[order]) <= left]
    if not rounds and not len(last):
        return None
    each = choice.blocks.information
    covariance = inverse_information(choice.information + rounds * each.sum(axis=0) + each[last].sum(axis=0))
    return float(choice.gradient @ covariance @ choice.gradient)


def blind_variance(choice: Choice, budget: float, max_runs: int, seed: int) -> float:
    """Median variance over sets drawn blindly from the candidates until the budget or the number of runs is used up."""
    rng = np.random.default_rng([seed, 31])
    found = []
    for _ in range(_BLIND_SETS):
        picked: list[int] = []
        left = budget * _SLACK
        for at in rng.integers(0, len(choice.flops), 8 * max_runs):
            if len(picked) < max_runs and choice.flops[at] <= left:
                picked.append(int(at))
                left -= choice.flops[at]
        found.append(choice.variance(picked))
    return float(np.median(found))
