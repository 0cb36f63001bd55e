"""How uncertain a direction in parameter space is, without resampling.

Shapes: P parameters.

The same choice as for resampling (``uncertainty.resampling``): a sandwich over rows when every run gave one (HC2,
unbiased for equal noise and right for unequal); over whole runs from 12 runs on (CR3); variance components of runs and
rows below that, and the sandwich over runs again when rows of a run are serially correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.engine.jet import Array
from analysis.engine.leverage import covariance_of, scores_of
from analysis.fit import Setup
from analysis.result import FitResult, Interval
from analysis.uncertainty.linear import Linear
from analysis.uncertainty.noise import TrunkNoise, inflation, leftover
from analysis.uncertainty.quantities import quantity, quantity_names
from analysis.uncertainty.resampling import choose


@dataclass(frozen=True)
class Uncertainty:
    """parts: covariances (P, P) of theta that add up, each with its degrees of freedom. text: where they come from."""

    parts: tuple[tuple[Array, float], ...]
    text: str

    def variance(self, gradient: Array) -> float:
        """Variance of a quantity with this gradient (P,)."""
        return float(sum(gradient @ part @ gradient for part, _ in self.parts))

    def freedom(self, gradient: Array) -> float:
        """Degrees of freedom of that variance (Satterthwaite)."""
        each = [(float(gradient @ part @ gradient), freedom) for part, freedom in self.parts]
        below = sum(v * v / freedom for v, freedom in each)
        return sum(v for v, _ in each) ** 2 / below if below > 0 else float(each[0][1])

    def reach(self, gradient: Array, level: float = 0.95) -> float:
        """Half the width of the interval: t(df) standard deviations."""
        return float(stats.t.ppf(0.5 + level / 2, self.freedom(gradient)) * np.sqrt(self.variance(gradient)))


def uncertainty(setup: Setup, result: FitResult, linear: Linear, noise: TrunkNoise | None = None) -> Uncertainty:
    """The covariance that suits the table. noise: pooled over groups, for few runs of several rows."""
    plan, used = choose(setup, result, "auto", noise, np.random.default_rng(0))
    inverse = linear.inverse
    rows, runs = len(setup.y), linear.num_runs
    if plan.method == "pairs":
        freedom = max(rows - int(linear.free.sum()), 1)
        scores = scores_of(linear.jacobian, linear.slope, np.arange(rows), power=0.5)
        text = f"squares of {rows} independent runs' residuals, t({freedom})"
        return Uncertainty(((inverse @ (scores.T @ scores) @ inverse, freedom),), text)
    if used is None or plan.method == "wild_cluster":
        covariance = inflation(setup, result, used) ** 2 * covariance_of(
            inverse, scores_of(linear.jacobian, linear.slope, linear.codes)
        )
        return Uncertainty(((covariance, runs - 1),), f"sums over {runs} independent runs, t({runs - 1})")
    left = leftover(setup, result, linear)
    influence = linear.influence / left.scale
    shared = influence @ left.runs
    text = f"run and row noise estimated from {runs} independent runs of {rows} rows, t with Satterthwaite's df"
    return Uncertainty(
        ((used.trunk * shared @ shared.T, used.freedom), (used.row * influence @ influence.T, used.row_freedom)), text
    )


def sandwich_intervals(
    result: FitResult, names: tuple[str, ...] | None = None, level: float = 0.95
) -> dict[str, Interval]:
    """Intervals by the delta method from the sandwich covariance of a fit, for its parameters and closed forms.

    names: of quantities (``uncertainty.quantities``); by default every fitted parameter, a and b. The covariance sums
    scores over runs and corrects them for leverage (HC3 when every run gave one row, else CR3); t(n - P) or t(G - 1).
    Positive scales in logarithms. Where there is no covariance (a singular curvature) or a parameter sits at its bound,
    the interval is not known and says so.
    """
    free = np.zeros(len(result.theta), dtype=bool) if result.covariance is None else np.diag(result.covariance) > 0
    clustered = result.n_clusters < result.n_rows
    freedom = max(result.n_clusters - 1 if clustered else result.n_rows - int(free.sum()), 1)
    found = {}
    for name in names or quantity_names(result):
        wanted = quantity(result, name)
        point = wanted.scaled(result.theta[None])[0]
        gradient = wanted.gradient(result.theta[None], np.ones(len(free), dtype=bool))[0]
        value = float(wanted.natural(point))
        held = [n for n, moves, slope in zip(result.shape.names, free, gradient, strict=True) if slope and not moves]
        held = [n for n in held if n not in result.fixed]
        if result.covariance is None or held:
            why = (
                f"{held[0]} is at its bound" if held and result.covariance is not None else "the curvature is singular"
            )
            found[name] = Interval(value, np.nan, np.nan, False, why)
            continue
        reach = stats.t.ppf(0.5 + level / 2, freedom) * float(np.sqrt(gradient @ result.covariance @ gradient))
        low, high = (float(wanted.natural(point + side * reach)) for side in (-1, 1))
        found[name] = wanted.within(Interval(value, low, high))
    return found
