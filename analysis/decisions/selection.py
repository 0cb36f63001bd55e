"""Choosing runs: greedy by what they tell per FLOP, improved by exchange, beside repetition and blind choice.

Shapes: M candidate runs, P free parameters. A set of runs is a list of candidate numbers, which may repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.information import RIDGE, Blocks, inverse_information
from analysis.engine.jet import Array

_POWERS = (0.0, 0.5, 1.0)
_PASSES = 6
_WORTHWHILE = 1e-6
_SLACK = 1.0 + 1e-9
_BLIND_SETS = 64


@dataclass(frozen=True)
class Weighing:
    """A fit that weighs rows without regard to the noise they share: the variance of a quantity with gradient g is
    g' H^-1 S H^-1 g. normal, scatter (M, P, P): what every candidate adds to H and S; *_now (P, P): what is there."""

    normal: Array
    scatter: Array
    normal_now: Array
    scatter_now: Array

    def variances(self, picked: Sequence[int], gradient: Array, more: bool) -> Array:
        """After ``picked`` (1,), or with ``more`` after each candidate on top of them (M,)."""
        chosen = list(picked)
        normal = self.normal_now + self.normal[chosen].sum(axis=0)
        scatter = self.scatter_now + self.scatter[chosen].sum(axis=0)
        if more:
            normal, scatter = normal + self.normal, scatter + self.scatter
        else:
            normal, scatter = normal[None], scatter[None]
        scale = 1.0 / np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-300))
        even = scale[:, :, None] * normal * scale[:, None, :] + RIDGE * np.eye(len(gradient))
        along = scale * np.linalg.solve(even, (scale * gradient)[:, :, None])[:, :, 0]
        return np.asarray(np.einsum("mp,mpq,mq->m", along, scatter, along))


@dataclass(frozen=True)
class Choice:
    """What may be chosen. flops (M,); information (P, P) that is there already; gradient (P,) of the quantity whose
    variance shall fall. counts (M,): runs that each counts as, 1 by default. once (M,): of the candidates that share a
    number from 0 up only one may be chosen; -1 may be chosen again, as all may by default. weighing: of the fit whose
    variance it is; None for one that weighs rows by what they tell, the least there is."""

    blocks: Blocks
    flops: Array
    information: Array
    gradient: Array
    counts: NDArray[np.intp] | None = None
    once: NDArray[np.intp] | None = None
    weighing: Weighing | None = None

    def fits(self, picked: Sequence[int], budget: float, max_runs: int) -> NDArray[np.bool_]:
        """(M,): what may be added to ``picked``."""
        chosen = list(picked)
        found = self.flops <= budget * _SLACK - self.spent(chosen)
        found &= (1 if self.counts is None else self.counts) <= max_runs - self.runs(chosen)
        if self.once is not None:
            found &= (self.once < 0) | ~np.isin(self.once, self.once[chosen])
        return np.asarray(found)

    def runs(self, picked: Sequence[int]) -> int:
        """How many runs these count as."""
        return len(picked) if self.counts is None else int(self.counts[list(picked)].sum())

    def covariance(self, picked: Sequence[int] = ()) -> Array:
        """Covariance (P, P) after these runs."""
        added = self.blocks.information[list(picked)].sum(axis=0) if len(picked) else 0.0
        return inverse_information(self.information + added)

    def variance(self, picked: Sequence[int] = ()) -> float:
        """Variance of the quantity after these runs."""
        if self.weighing is not None:
            return float(self.weighing.variances(picked, self.gradient, more=False)[0])
        return float(self.gradient @ self.covariance(picked) @ self.gradient)

    def variances(self, picked: Sequence[int]) -> Array:
        """Variance of the quantity after these runs and one more, for every one there is, (M,)."""
        if self.weighing is not None:
            return self.weighing.variances(picked, self.gradient, more=True)
        covariance = self.covariance(picked)
        return float(self.gradient @ covariance @ self.gradient) - self.blocks.gains(covariance, self.gradient)

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
    while True:
        before = choice.variance(picked)
        fall = np.log(before / np.maximum(choice.variances(picked), 1e-12 * before))
        score = np.where(choice.fits(picked, budget, max_runs), fall / choice.flops**power, -np.inf)
        best = int(np.argmax(score))
        if not (np.isfinite(score[best]) and fall[best] > _WORTHWHILE):
            return picked
        picked.append(best)


def exchanged(choice: Choice, picked: Sequence[int], budget: float, max_runs: int) -> list[int]:
    """The set after taking out every run in turn for the best one that then fits, and filling what is left."""
    current = list(picked)
    for _ in range(_PASSES):
        before = choice.variance(current)
        for place in range(len(current)):
            rest = current[:place] + current[place + 1 :]
            current = _with_best(choice, rest, budget, max_runs, current[place])
        current = _with_best(choice, current, budget, max_runs, None)
        if choice.variance(current) >= before * (1.0 - _WORTHWHILE):
            break
    return current


def _with_best(choice: Choice, rest: list[int], budget: float, max_runs: int, present: int | None) -> list[int]:
    """``rest`` and the affordable run that leaves the least variance; ``present`` stays unless another is better."""
    fits = choice.fits(rest, budget, max_runs)
    if not fits.any():
        return rest if present is None else [*rest, present]
    after = choice.variances(rest)
    best = int(np.argmin(np.where(fits, after, np.inf)))
    if present is None:
        return [*rest, best] if after[best] < choice.variance(rest) * (1.0 - _WORTHWHILE) else rest
    return [*rest, best if after[best] < after[present] * (1.0 - _WORTHWHILE) else present]


def in_order(choice: Choice, picked: Sequence[int]) -> list[int]:
    """The same runs, the one that tells most per FLOP first."""
    left: list[int] = list(picked)
    order: list[int] = []
    while left:
        falls = choice.variance(order) - choice.variances(order)[left]
        order.append(left.pop(int(np.argmax(falls / choice.flops[left]))))
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
    return choice.variance([*(list(range(len(order))) * rounds), *last.tolist()])


def blind_variance(choice: Choice, budget: float, max_runs: int, seed: int) -> float:
    """Median variance over sets drawn blindly from the candidates until the budget or the number of runs is used up."""
    rng = np.random.default_rng([seed, 31])
    found = []
    for _ in range(_BLIND_SETS):
        picked: list[int] = []
        left, room, used = budget * _SLACK, max_runs, set()
        for at in rng.integers(0, len(choice.flops), 8 * max_runs).tolist():
            count = 1 if choice.counts is None else int(choice.counts[at])
            once = -1 if choice.once is None else int(choice.once[at])
            if choice.flops[at] <= left and count <= room and (once < 0 or once not in used):
                picked.append(at)
                used.add(once)
                left, room = left - choice.flops[at], room - count
        found.append(choice.variance(picked))
    return float(np.median(found))
