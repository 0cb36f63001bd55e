"""How many runs does it take to tell two laws apart? Simulate, fit, compare, count the right and the wrong verdicts.

Shapes: S simulated pairs of sweeps, K budgets, P parameters, B normal draws.

All simulated sweeps of one design are fitted in one batch (``analysis.simulation.batch``). The comparison is that of
``decisions.compare``: the difference of ln(loss) at equal compute along the tested frontiers, with a simultaneous 95 %
band, counted where it excludes zero over a factor of 2 in compute, away from the edges of the tests. Bands come from
the covariance of each fit, which costs nothing, instead of a bootstrap of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.decisions.allocate import Frontier, frontier
from analysis.decisions.compare import interior_budgets
from analysis.decisions.optimum import cost_of, landscape
from analysis.engine.jet import Array
from analysis.fit import fit_law
from analysis.result import FitResult, Interval
from analysis.rows.table import load
from analysis.simulation.batch import BatchFit, fit_batch
from analysis.simulation.simulator import COLUMNS, Design, Noise, repeated, responses, simulate_rows
from analysis.simulation.surfaces import Truth
from analysis.uncertainty.draws import simultaneous_band
from analysis.uncertainty.quantities import quantity

LOSS = "loss"
_BUDGETS = 21
_DRAWS = 300
_SPAN = 2.0
_CHUNK = 200
_EQUAL = 1e-9
_STEP = 1e-4


@dataclass(frozen=True)
class PowerRow:
    """One design. runs, flops: of both groups together. right, wrong, undecided: share of the simulations with that
    verdict, with its exact 95 % binomial interval.

    truth: what endless runs would say: "left" or "right" (lower loss, smaller quantity), "crossing" or "equal". effect:
    the true difference, right minus left, where it is largest: of ln(loss) along the frontier, or of the quantity (of
    its logarithm if that is how it is measured). spread: median standard deviation of one simulated difference there.
    """

    label: str
    runs: int
    flops: float
    simulations: int
    right: Interval
    wrong: Interval
    undecided: Interval
    truth: str
    effect: float
    spread: float


def power(
    left: Truth,
    right: Truth,
    designs: Sequence[Design | tuple[Design, Design]],
    noise: Noise,
    *,
    question: str = LOSS,
    simulations: int = 400,
    seed: int = 0,
    labels: Sequence[str] = (),
    on_design: Callable[[str], None] = lambda label: None,
) -> list[PowerRow]:
    """Share of right and wrong verdicts on two true laws for every design.

    designs: one for both groups, or a pair. question: "loss" (which group is lower at equal compute), or a quantity of
    ``uncertainty.quantities`` whose difference has a sign, as "alpha" or "loss(1e22)". A verdict is wrong when it
    claims a sign at a budget where the truth has another; with two equal laws every claim is wrong and "undecided" is
    the answer to hope for. The same seed gives the same shares. Raises ``ValueError`` when the laws are not of N and D,
    when the groups of a design share less than a factor of 2 in compute, and for fewer than 20 simulations.
    """
    if simulations < 20:
        raise ValueError(f"{simulations} simulations say nothing about a share; use at least 20 (400 is usual)")
    rows = []
    for i, given in enumerate(designs):
        pair = given if isinstance(given, tuple) else (given, given)
        label = labels[i] if i < len(labels) else f"{pair[0].num_runs} + {pair[1].num_runs} runs"
        on_design(label)
        rows.append(_one_design(label, (left, right), pair, noise, question, simulations, seed))
    return rows


def growing(design: Design, seeds: Iterable[int]) -> list[Design]:
    """The same design with more and more seeds."""
    return [repeated(design, count) for count in seeds]


def runs_needed(rows: Sequence[PowerRow], share: float = 0.8) -> PowerRow | None:
    """The design with the fewest runs from which on the right verdict keeps coming in at least this share, or None."""
    ordered = sorted(rows, key=lambda row: row.runs)
    enough = [all(later.right.value >= share for later in ordered[i:]) for i in range(len(ordered))]
    return ordered[enough.index(True)] if any(enough) else None


def _one_design(
    label: str,
    truths: tuple[Truth, Truth],
    designs: tuple[Design, Design],
    noise: Noise,
    question: str,
    simulations: int,
    seed: int,
) -> PowerRow:
    groups = [_Group.of(truth, design) for truth, design in zip(truths, designs, strict=True)]
    budgets = _shared_budgets(groups)
    first, second = (group.measured(group.fit.theta[None], question, budgets)[0][0] for group in groups)
    true = second - first
    seen = np.isfinite(true)
    if question == LOSS:
        seen &= interior_budgets(groups[0].at_edge(budgets) | groups[1].at_edge(budgets), budgets)
    if not seen.any():
        raise ValueError(f"{label}: {question} has no value for both laws at any compute that both designs cover")
    true_sign = np.where(np.abs(true) > _EQUAL, np.sign(true), 0.0)
    at = int(np.argmax(np.where(seen, np.abs(true), -1.0)))
    claims, spreads = np.zeros(3), []
    for begin in range(0, simulations, _CHUNK):
        count = min(_CHUNK, simulations - begin)
        low, high = _bands(groups, question, budgets, noise, count, (seed, begin), seen)
        sign = np.where(low > 0, 1.0, np.where(high < 0, -1.0, 0.0))
        claims += _counted(sign, true_sign[seen], budgets[seen])
        spreads.append((high - low)[:, int(np.sum(seen[:at]))] / 2.0)
    shares = [_share(int(c), simulations) for c in claims]
    return PowerRow(
        label=label,
        runs=sum(design.num_runs for design in designs),
        flops=sum(design.flops() for design in designs),
        simulations=simulations,
        right=shares[0],
        wrong=shares[1],
        undecided=shares[2],
        truth=_truth_word(true_sign[seen]),
        effect=float(true[at]),
        spread=float(np.median(np.concatenate(spreads)) / stats.norm.ppf(0.975)),
    )


def _bands(
    groups: Sequence[_Group], question: str, budgets: Array, noise: Noise, count: int, seed: tuple[int, int],
    seen: NDArray[np.bool_],
) -> tuple[Array, Array]:  # fmt: skip
    """95 % bands (S, K) of the difference, right minus left, in ``count`` fresh simulations."""
    values, moves = [], []
    for at, group in enumerate(groups):
        fit = group.fitted(noise, count, [*seed, at])
        value, slope = group.measured(fit.theta, question, budgets)
        values.append(value[:, seen])
        moves.append(_normal_moves(fit, slope[:, seen], [*seed, at, 1]))
    gap = values[1] - values[0]
    return simultaneous_band(gap, gap[:, None, :] + moves[1] - moves[0])


def _normal_moves(fit: BatchFit, slope: Array, seed: Sequence[int]) -> Array:
    """Deviations (S, B, K) of a curve with this derivative (S, K, P), normal with the covariance of the fit, as wide as
    its t distribution asks for."""
    values, vectors = np.linalg.eigh(fit.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    normal = np.random.default_rng(seed).standard_normal((root.shape[2], _DRAWS))
    return np.asarray(fit.widening * (slope @ root @ normal).transpose(0, 2, 1))


def _counted(sign: Array, truth: Array, budgets: Array) -> Array:
    """How many rows of ``sign`` (S, K) make a right claim, a wrong one, and none."""
    claimed = np.zeros(sign.shape, dtype=bool)
    for side in (1.0, -1.0):
        held = sign == side
        first = np.where(held, budgets, np.inf).min(axis=1)
        last = np.where(held, budgets, -np.inf).max(axis=1)
        wide = held.any(axis=1) if len(budgets) == 1 else last >= _SPAN * first
        claimed |= held & wide[:, None]
    made = claimed.any(axis=1)
    wrong = (claimed & (sign != truth)).any(axis=1)
    return np.array([np.sum(made & ~wrong), np.sum(wrong), np.sum(~made)], dtype=float)


def _share(hits: int, count: int) -> Interval:
    """A share with its exact (Clopper-Pearson) 95 % interval."""
    low = float(stats.beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return Interval(hits / count, low, high)


def _truth_word(sign: Array) -> str:
    if {-1.0, 1.0} <= set(sign):
        return "crossing"
    return "left" if (sign > 0).any() else "right" if (sign < 0).any() else "equal"


def _shared_budgets(groups: Sequence[_Group]) -> Array:
    low = max(group.fit.compute_range[0] for group in groups)
    high = min(group.fit.compute_range[1] for group in groups)
    if not high >= _SPAN * low:
        raise ValueError("the compute of the two designs overlaps by less than a factor of 2; choose closer designs")
    return np.geomspace(low, high, _BUDGETS)


@dataclass(frozen=True)
class _Group:
    """One true law at one design. fit: the law fitted to its noise-free rows: the truth itself, seen as a fit."""

    truth: Truth
    design: Design
    columns: dict[str, Array]
    fit: FitResult

    @classmethod
    def of(cls, truth: Truth, design: Design) -> _Group:
        columns = design.with_compute()
        if missing := [name for name in ("N", "D") if name not in columns]:
            raise ValueError(f"the design has no column {missing[0]}; power compares laws of N and D")
        rows = simulate_rows(truth.law, truth.params, design, group=truth.name)
        sample, _ = load(rows, COLUMNS).sample(truth.name, "loss")
        return cls(truth, design, columns, fit_law(sample, truth.law, delta="chinchilla", check=False))

    def fitted(self, noise: Noise, count: int, seed: Sequence[int]) -> BatchFit:
        law = self.fit.shape
        drawn = responses(law, self.truth.params, self.design, noise, count, seed)
        return fit_batch(law, self.columns, drawn, self.design.run, start=self.truth.params)

    def measured(self, theta: Array, question: str, budgets: Array) -> tuple[Array, Array]:
        """What is compared and its derivative: ln of the frontier loss (S, K), or one quantity repeated K times."""
        if question != LOSS:
            wanted = quantity(self.fit, question, cost=None)
            slope = wanted.gradient(theta, np.ones(theta.shape[1], dtype=bool))
            shape = len(theta), len(budgets), theta.shape[1]
            return np.repeat(wanted.scaled(theta)[:, None], len(budgets), axis=1), np.broadcast_to(
                slope[:, None], shape
            )
        best, land = self._frontier(theta, budgets), landscape(self.fit)
        slope = np.zeros((*best.loss.shape, theta.shape[1]))
        for p, move in enumerate(_STEP * np.eye(theta.shape[1])):
            up, down = (np.log(land.loss(theta + side * move)(best.size, best.tokens)) for side in (1.0, -1.0))
            # The optimum is flat, so N and D may stay where they are (envelope theorem); at an edge they cannot move.
            slope[:, :, p] = (up - down) / (2.0 * _STEP)
        return np.log(best.loss), slope

    def at_edge(self, budgets: Array) -> NDArray[np.bool_]:
        """Budgets (K,) at which the true optimum lies outside the tested sizes or tokens."""
        return self._frontier(self.fit.theta[None], budgets).at_edge[0]

    def _frontier(self, theta: Array, budgets: Array) -> Frontier:
        fit = self.fit
        return frontier(
            lambda n, d: fit.predict_draws(theta, n, d), budgets, cost_of(fit), fit.size_range, fit.tokens_range
        )
