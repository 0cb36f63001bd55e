"""What a report shows of one group, computed once: hold-outs, profiles, slices, the three approaches; or why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from analysis.approaches.bias import Additive
from analysis.approaches.envelope import EnvelopeResult, envelope
from analysis.approaches.isoflop import IsoflopResult, isoflop
from analysis.approaches.isoflop import Options as Slicing
from analysis.approaches.summary import Parametric, ThreeWays, three_ways
from analysis.decisions.usual import MAIN, has_frontier, usual_values
from analysis.engine.jet import Array
from analysis.fit import FitError
from analysis.result import FitResult, Interval
from analysis.rows.table import RunTable, Sample
from analysis.study import Study
from analysis.uncertainty.delta import sandwich_intervals
from analysis.uncertainty.profiles import Profile, profiles
from analysis.validation.holdout import rolled_for
from analysis.validation.rolling import Rolling

_ADDITIVE = ("chinchilla", "chinchilla_excess")
_USUAL_COST = 1e-3

# Budgets that were read off a figure run into each other at the usual gap; the cut with more usable slices counts.
_CUTS = tuple(Slicing(tolerance=gap) for gap in (0.1, 0.05))

T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Something that could not be computed or drawn, and why, as a sentence a reader understands."""

    why: str


def attempted(work: Callable[[], T]) -> T | Missing:
    """What ``work`` gives, or its refusal (``ValueError``, of which ``FitError`` and ``TableError`` are kinds)."""
    try:
        return work()
    except ValueError as error:
        return Missing(str(error))


@dataclass(frozen=True)
class Shown:
    """One group on the page: its main fit, the rows of that fit, and everything derived from both.

    given: values of the law's columns beyond N, D and C at which frontiers are drawn (those most rows have).
    """

    fit: FitResult
    sample: Sample
    given: dict[str, float]
    rolled: Rolling | Missing
    profiles: dict[str, Profile] | Missing
    sandwich: dict[str, Interval]
    slices: IsoflopResult | Missing
    envelope: EnvelopeResult | Missing
    ways: ThreeWays | Missing

    @property
    def splits_budgets(self) -> bool:
        """Whether the law says how to split compute between N and D."""
        return {"N", "D"} <= set(self.fit.shape.columns) and self.fit.cost is not None

    @property
    def has_frontier(self) -> bool:
        """Whether a lowest loss at each compute is defined: a law of N and D, or of C."""
        return has_frontier(self.fit)

    @property
    def near(self) -> Sample:
        """The rows at the values ``given``, which a picture over N, D and C alone may put together."""
        return at_values(self.sample, self.given)

    def loss_at(self, size: Array, tokens: Array, theta: Array | None = None) -> Array:
        """Loss (B, n) of the law at N and D (n,) and the values ``given``, for draws (B, P) or the fit itself."""
        columns = {name: np.full(len(size), value) for name, value in self.given.items()}
        return self.fit.respond(columns | {"N": size, "D": tokens}, theta) + self.fit.added_entropy()


Evidence: TypeAlias = dict[str, Shown]


def gather(table: RunTable, study: Study, target: str) -> Evidence:
    """Everything about the main fit of every group that has one for ``target``, by group."""
    found = {}
    for group in study.groups:
        fit = study.main_form(group, target)
        if fit is not None:
            found[group] = _shown(fit, rows_of(fit, table.sample(group, target)[0]))
    return found


def rows_of(fit: FitResult, sample: Sample) -> Sample:
    """The rows that were fitted."""
    return sample.where(np.isin(np.array(sample.run_ids), fit.excluded, invert=True)) if fit.excluded else sample


def at_values(sample: Sample, given: Mapping[str, float]) -> Sample:
    """The rows in which every column of ``given`` has its value."""
    if not given:
        return sample
    return sample.where(np.all([np.isclose(sample.columns[name], value) for name, value in given.items()], axis=0))


def _shown(fit: FitResult, sample: Sample) -> Shown:
    given = usual_values(fit.shape, [sample])
    slices, curve = _slices(at_values(sample, given)), _envelope(at_values(sample, given))
    return Shown(
        fit=fit,
        sample=sample,
        given=given,
        rolled=attempted(lambda: _rolled(fit, sample)),
        profiles=attempted(lambda: profiles(fit, sample)),
        sandwich=fit.sandwich_ci or sandwich_intervals(fit),
        slices=slices,
        envelope=curve,
        ways=attempted(lambda: _ways(fit, slices, curve)),
    )


def _rolled(fit: FitResult, sample: Sample) -> Rolling:
    if not set(MAIN) & set(sample.columns):
        raise FitError("the rows have no N, D or C along which the largest could be held out")
    return rolled_for(sample, fit)


def _columns(sample: Sample) -> tuple[Array, Array, Array, Array]:
    if missing := [name for name in MAIN if name not in sample.columns]:
        raise FitError(f"the table has no {missing[0]}")
    return sample.size, sample.tokens, sample.loss, sample.compute


def _slices(sample: Sample) -> IsoflopResult | Missing:
    def work() -> IsoflopResult:
        size, tokens, loss, compute = _columns(sample)
        tried = [isoflop(size, tokens, loss, compute, clusters=sample.cluster, options=how) for how in _CUTS]
        found = max(tried, key=lambda one: len(one.slices))
        if not found.slices and all(refusal.kind == "TooFew" for refusal in found.refusals):
            most = _most_sizes(compute, size)
            sizes = f"{most} size{'s' if most > 1 else ''}"
            raise FitError(f"no isoFLOP slice: runs at nearly one compute have at most {sizes}, four are needed")
        return found

    return attempted(work)


def _most_sizes(compute: Array, size: Array) -> int:
    """The largest number of sizes among rows within 10 % of one compute."""
    near = np.abs(np.log(compute[:, None] / compute)) < 0.1
    return max(len(np.unique(size[row])) for row in near)


def _envelope(sample: Sample) -> EnvelopeResult | Missing:
    def work() -> EnvelopeResult:
        size, tokens, loss, compute = _columns(sample)
        return envelope(size, tokens, loss, compute, clusters=sample.cluster if _has_runs(sample) else None)

    return attempted(work)


def _has_runs(sample: Sample) -> bool:
    return sample.num_clusters < len(sample)


def _ways(fit: FitResult, slices: IsoflopResult | Missing, curve: EnvelopeResult | Missing) -> ThreeWays:
    surface = attempted(lambda: parametric(fit))
    found: Mapping[str, object] = {"envelope": curve, "isoflop": slices, "parametric": surface}
    there = {name: value for name, value in found.items() if not isinstance(value, Missing)}
    return three_ways(fit.ranges["C"][1] if "C" in fit.ranges else 1.0, **there)  # type: ignore[arg-type]


def parametric(fit: FitResult) -> Parametric:
    """Approach 3 from a fit. Raises ``FitError`` for a law that is not additive in N and D, or a flat one."""
    if fit.law not in _ADDITIVE or "C" not in fit.ranges:
        raise FitError(f"approach 3 needs the additive law of N and D with a compute column; this is {fit.law}")
    draws = None if fit.draws is None else _surfaces(fit, fit.draws)
    point = Additive(*map(float, _surfaces(fit, fit.theta[None])[0]))
    scale, power, _ = fit.cost or (6.0, 1.0, 0.0)
    usual = abs(power - 1) < _USUAL_COST and abs(scale / 6 - 1) < _USUAL_COST

    def cost(size: Array, tokens: Array) -> Array:
        return np.asarray(scale * size**power * tokens)

    method = f"fitted surface, {fit.ci_method}"
    return Parametric(
        point, fit.compute_range, None if usual else cost, draws=draws, widening=fit.widening, method=method
    )


def _surfaces(fit: FitResult, theta: Array) -> Array:
    """(B, 5): E, A, B, alpha, beta; E is the known entropy for a law of the excess."""
    natural = dict(zip(fit.shape.names, fit.shape.to_natural(theta, fit.centre).T, strict=True))
    natural.setdefault("E", np.full(len(theta), float(np.mean(fit.added_entropy()))))
    return np.stack([natural[name] for name in ("E", "A", "B", "alpha", "beta")], axis=1)
