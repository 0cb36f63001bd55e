"""Which runs to add next: the ones that shrink the interval of one quantity most for a budget of FLOPs.

A fit and its noise say how much every possible run would tell (``decisions.information``). Runs are chosen greedily by
what they tell per FLOP^w, for several w, each set is improved by exchanging runs while that helps, and the best set
within the budget wins. It is compared with what the same FLOPs buy when the existing runs are repeated, cheapest first,
and when runs are picked blindly from the same candidates.

The promise holds as far as the law does: a design cannot see that the law is wrong outside the tests. The law is taken
as linear in its parameters over the present interval; a quantity that is not identified now is only ranked roughly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.decisions.candidates import BEYOND as BEYOND
from analysis.decisions.candidates import Candidate as Candidate
from analysis.decisions.candidates import affordable, beside_known, continued, rows_of, scatter_beside
from analysis.decisions.candidates import default_candidates as default_candidates
from analysis.decisions.information import blocks_of
from analysis.decisions.optimum import Cost, Landscape, landscape
from analysis.decisions.selection import Choice, Weighing, best_set, blind_variance, in_order, repeated_variance
from analysis.engine.jet import Array
from analysis.fit import FitError, held, prepare
from analysis.result import FitResult, Interval
from analysis.rows.table import Sample
from analysis.simulation.simulator import Design, Noise
from analysis.uncertainty.noise import trunk_noise
from analysis.uncertainty.quantities import Quantity, bootstrap_interval, quantity

MAX_RUNS = 24
_WIDE = 4.0
_FEW_PLACES = 3
_REPEAT = (
    "repeating the existing runs tells as much: more of the cheap ones (max_runs) or other candidates may do better"
)
_Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Step:
    """One run to add. before, after: expected 95 % interval of the quantity; ratio: width after over width before."""

    run: Candidate
    cumulative: float
    before: Interval
    after: Interval
    ratio: float


@dataclass(frozen=True)
class Plan:
    """The runs to add, the one that tells most per FLOP first.

    before, after: under the noise assumed, as if it were known. fitted: of the fit's own draws, wider where few runs
    say how noisy runs are, and not known without draws; expected: ``fitted`` shrunk by ``ratio``, else ``after``.
    ratio: width of the expected interval (in logarithms for positive quantities) after all runs over that before, of
    the fit as it is: rows weigh alike, though those of one run share noise.
    repeat_ratio: the same for repeating the existing runs, cheapest first and as many as it takes, for at most the
    FLOPs spent; None when they buy none. blind_ratio: the median over blind choices among the candidates for the
    budget. noise: as assumed. notes: what limits the promise.
    """

    quantity: str
    budget: float
    spent: float
    noise: Noise
    before: Interval
    after: Interval
    fitted: Interval
    expected: Interval
    ratio: float
    steps: tuple[Step, ...]
    repeat_ratio: float | None
    blind_ratio: float
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, float | str]]:
        """One dict a run, for a table."""
        return [
            {
                "N": step.run.size,
                "D": " ".join(f"{tokens:.4g}" for tokens in step.run.tokens),
                "FLOPs": step.run.flops,
                "cumulative": step.cumulative,
                "low before": step.before.low,
                "high before": step.before.high,
                "low": step.after.low,
                "high": step.after.high,
                "ratio": step.ratio,
            }
            for step in self.steps
        ]

    def as_design(self) -> Design:
        """The runs as a design, for simulating them."""
        lengths = [len(step.run.tokens) for step in self.steps]
        size = np.repeat([step.run.size for step in self.steps], lengths)
        tokens = np.concatenate([np.array(step.run.tokens) for step in self.steps])
        run = np.repeat(np.arange(len(lengths)), lengths).astype(np.intp)
        return Design({"N": size, "D": tokens}, run, np.zeros(len(run), dtype=np.intp))


def design(
    fit: FitResult,
    sample: Sample,
    wanted: str,
    budget: float,
    *,
    noise: Noise | None = None,
    candidates: Sequence[Candidate] | None = None,
    max_runs: int = MAX_RUNS,
    beyond: float = BEYOND,
    cost: Cost | None = None,
    given: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Plan:
    """Choose runs to add to ``sample``, to which ``fit`` was made, for at most ``budget`` FLOPs in all.

    wanted: see ``uncertainty.quantities``, as "alpha" or "N*(1e22)". noise: of ln L, from the residuals by default.
    candidates: possible runs, each of which may be chosen again (another seed) unless it continues a run of the sample;
    by default ``default_candidates``, up to ``beyond`` times the tested sizes and tokens. max_runs: at most so many,
    counted as the candidates say. given: values of further columns of the
    law for the new runs. Raises ``ValueError`` for an unknown quantity or one that has no value under the fit, a law
    that is not one of N and D, noise without any size, or a budget that buys no candidate.
    """
    land = landscape(fit, cost, given)
    aim = quantity(fit, wanted, cost, given)
    setup, _ = prepare(sample, fit.form, fit.fixed, fit.domains)
    sample = setup.sample
    free = ~held(setup, fit.theta)
    point, slope = _aimed(aim, fit.theta, free)
    noise = noise or residual_noise(fit, sample)
    if not noise.total > 0:
        raise ValueError("the noise is 0, so nothing is uncertain; give noise=Noise(run=..., row=...)")
    offered = list(candidates) if candidates is not None else default_candidates(land, sample, beyond)
    offered = affordable(offered, budget, max_runs)
    codes = np.unique(sample.cluster, return_inverse=True)[1].astype(np.intp)
    now = blocks_of(land, fit.theta, sample.columns, codes, noise.run, noise.row, free)
    information = now.information.sum(axis=0)
    rows, of_run = rows_of(offered)
    new = blocks_of(land, fit.theta, rows, of_run, noise.run, noise.row, free)
    beside = continued(offered, sample, codes)
    told = now.normal.sum(axis=0), now.scatter.sum(axis=0)
    weighing = Weighing(new.normal, scatter_beside(new, now, beside, noise.run), *told)
    new = beside_known(new, now, beside, noise.run)
    flops, counts = np.array([c.flops for c in offered]), np.array([c.runs for c in offered])
    choice = Choice(new, flops, information, slope, counts, beside, weighing)
    picked = in_order(choice, best_set(choice, budget, max_runs))
    steps = _steps(choice, picked, offered, aim, point)
    again = Weighing(now.normal, now.scatter, *told)
    old = Choice(now, _flops_of_runs(land, sample, codes), information, slope, weighing=again)
    before = choice.variance()
    ratio = float(np.sqrt(choice.variance(picked) / before))
    after = _interval(aim, point, choice.variance(picked))
    fitted = fit.ci.get(wanted) or bootstrap_interval(fit, aim)
    repeat = repeated_variance(old, choice.spent(picked))
    return Plan(
        quantity=wanted,
        budget=budget,
        spent=choice.spent(picked),
        noise=noise,
        before=_interval(aim, point, before),
        after=after,
        fitted=fitted,
        expected=_shrunk(aim, fitted, ratio) if fitted.known else after,
        ratio=ratio,
        steps=steps,
        repeat_ratio=None if repeat is None else float(np.sqrt(repeat / before)),
        blind_ratio=float(np.sqrt(blind_variance(choice, budget, max_runs, seed) / before)),
        notes=_notes(fit, aim, before, [offered[i] for i in picked])
        + (() if repeat is None or choice.variance(picked) < repeat else (_REPEAT,)),
    )


def residual_noise(fit: FitResult, sample: Sample) -> Noise:
    """Standard deviations of ln L of a run and of a row, from the residuals of a fit to these rows.

    With one row a run everything is the row's. Raises ``ValueError`` when the law follows every run, so that nothing
    says how much runs vary.
    """
    setup, _ = prepare(sample, fit.form, fit.fixed, fit.domains)
    if setup.sample.num_clusters == len(setup.sample):
        residual = np.log(np.array(fit.fitted) / setup.sample.loss)
        return Noise(0.0, float(np.sqrt(np.sum(residual**2) / max(len(residual) - setup.num_free, 1))))
    try:
        found = trunk_noise(setup, fit)
    except FitError as error:
        raise ValueError(f"{error}; here: give noise=Noise(run=..., row=...)") from error
    return Noise(float(np.sqrt(found.trunk)), float(np.sqrt(found.row)))


def _aimed(aim: Quantity, theta: Array, free: NDArray[np.bool_]) -> tuple[float, Array]:
    """The quantity and the derivative of its scaled value with respect to the free parameters."""
    slope = aim.gradient(theta[None], free)[0][free]
    point = float(aim.values(theta[None])[0])
    if not (np.isfinite(point) and np.isfinite(slope).all()):
        raise ValueError(f"{aim.name} has no value under this fit, so no run can narrow it")
    return point, slope


def _flops_of_runs(land: Landscape, sample: Sample, codes: NDArray[np.intp]) -> Array:
    """FLOPs of every run of the sample at its last checkpoint (G,)."""
    compute = sample.columns.get("C")
    spent = land.compute(sample.size, sample.tokens) if compute is None else compute
    found = np.zeros(int(codes.max()) + 1)
    np.maximum.at(found, codes, spent)
    return found


def _steps(
    choice: Choice, picked: Sequence[int], offered: Sequence[Candidate], aim: Quantity, point: float
) -> tuple[Step, ...]:
    steps = []
    for i, at in enumerate(picked):
        before, after = choice.variance(picked[:i]), choice.variance(picked[: i + 1])
        spent = choice.spent(picked[: i + 1])
        intervals = _interval(aim, point, before), _interval(aim, point, after)
        steps.append(Step(offered[at], spent, *intervals, float(np.sqrt(after / before))))
    return tuple(steps)


def _interval(aim: Quantity, point: float, variance: float) -> Interval:
    reach = _Z * np.sqrt(variance)
    if aim.log:
        return Interval(point, float(point * np.exp(-reach)), float(point * np.exp(reach)))
    return Interval(point, float(point - reach), float(point + reach))


def _shrunk(aim: Quantity, item: Interval, ratio: float) -> Interval:
    """The interval with both ends moved towards the value, on the scale of the quantity."""
    scale = np.log if aim.log else np.asarray
    with np.errstate(divide="ignore"):
        value, low, high = (float(scale(v)) for v in (item.value, item.low, item.high))
    low, high = (float(aim.natural(value + ratio * (end - value))) for end in (low, high))
    return Interval(item.value, low, high)


def _notes(fit: FitResult, aim: Quantity, variance: float, picked: Sequence[Candidate]) -> tuple[str, ...]:
    """Where the promise is weak: runs outside the tests, flat directions, an interval too wide to be linear."""
    notes = []
    outside = [c for c in picked if c.size > fit.size_range[1] * 1.001 or c.tokens[-1] > fit.tokens_range[1] * 1.001]
    if outside:
        notes.append(f"{len(outside)} of {len(picked)} runs lie beyond the tested N or D, where the law is unproven")
    if not picked:
        notes.append(f"no run on offer narrows {aim.name}, as this fit weighs its rows")
    places = len({(c.size, c.tokens) for c in picked})
    if len(picked) > places and places <= _FEW_PLACES:
        notes.append(f"only {places} different runs, repeated: best if the law is right, and blind to where it is not")
    if fit.unidentified:
        notes.append(f"not identified now: {', '.join(fit.unidentified)}; the expected intervals are rough")
    elif aim.log and _Z * np.sqrt(variance) > np.log(_WIDE):
        notes.append(f"{aim.name} is now known to a factor of {np.exp(_Z * np.sqrt(variance)):.0f}: ratios are rough")
    return tuple(notes)
