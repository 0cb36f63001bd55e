"""How noisy the rows are: a variance shared by all rows of a run, and one of every row by itself.

Shapes: n rows, G runs, P parameters.

Noise is of ln L for positive losses and of L itself for laws that may be negative, whatever the fit minimised. The fit
has bent towards the noise, so mean squares are compared with what a fit leaves of noise of either kind (its expectation
under the linearised fit), and the degrees of freedom are Satterthwaite's. With 6 runs of one size each, three of the
six run means are absorbed by level, coefficient and exponent of size: this is found from the Jacobian, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array
from analysis.fit import FitError, Setup, objective_of, prepare
from analysis.result import FitResult
from analysis.rows.table import Sample
from analysis.uncertainty.linear import Linear, linearise

_LEAST_LEFT = 0.02
_LEAST_EXCESS = 0.05
_NULL_DRAWS = 400


@dataclass(frozen=True)
class TrunkNoise:
    """Variances shared by a run (``trunk``) and of a single row, and the degrees of freedom behind each."""

    trunk: float
    row: float
    freedom: float
    row_freedom: float = 1000.0

    def draw(self, codes: NDArray[np.intp], draws: int, rng: np.random.Generator) -> Array:
        """Noise (draws, n) for rows of the runs ``codes`` (n,), variances included.

        Every draw first draws the two mean squares from what is known of them, chi-squared with their degrees of
        freedom (Weerahandi, J. Am. Stat. Assoc. 88, 1993): a direction that hangs on the runs then gets the heavy tails
        of t(few), one that hangs on rows does not, and no common stretching is needed.
        """
        groups = int(codes.max()) + 1
        rows = groups / float(np.sum(1.0 / np.maximum(np.bincount(codes, minlength=groups), 1)))
        row = self.row * self.row_freedom / rng.chisquare(self.row_freedom, (draws, 1))
        between = (self.trunk + self.row / rows) * self.freedom / rng.chisquare(self.freedom, (draws, 1))
        trunk = np.maximum(between - row / rows, 0.0)
        shared = np.sqrt(trunk) * rng.standard_normal((draws, groups))
        return np.asarray(shared[:, codes] + np.sqrt(row) * rng.standard_normal((draws, len(codes))))


@dataclass(frozen=True)
class Leftover:
    """What the fit leaves of noise in its rows: residual = noise - jacobian (gain noise), in the space of the noise;
    scale (n,): change there per unit change in the space of the objective."""

    residual: Array
    jacobian: Array
    gain: Array
    scale: Array
    codes: NDArray[np.intp]

    def of(self, noise: Array) -> Array:
        """Residuals of noise (n, ...)."""
        return noise - self.jacobian @ (self.gain @ noise)

    @property
    def runs(self) -> Array:
        """(n, G): 1 where the row is of the run."""
        return np.asarray(self.codes[:, None] == np.arange(int(self.codes.max()) + 1), dtype=float)


def leftover(setup: Setup, result: FitResult, linear: Linear | None = None) -> Leftover:
    """Residuals and linearised fit in the space of the noise."""
    linear = linear or linearise(setup, result)
    fitted = np.array(result.fitted)
    to_loss = fitted - setup.added if objective_of(result).is_log else np.ones_like(fitted)
    scale = to_loss / fitted if setup.law.positive else to_loss
    loss = setup.sample.loss
    residual = np.log(loss / fitted) if setup.law.positive else loss - fitted
    return Leftover(residual, scale[:, None] * linear.jacobian, linear.gain / scale, scale, linear.codes)


def with_noise(setup: Setup, result: FitResult, noise: Array) -> Array:
    """Responses of the law (B, n) for the fitted loss plus noise (B, n); an excess keeps a twentieth of itself."""
    fitted = np.array(result.fitted)
    loss = fitted * np.exp(noise) if setup.law.positive else fitted + noise
    response = loss - setup.added
    if objective_of(result).is_log:
        response = np.maximum(response, _LEAST_EXCESS * (fitted - setup.added))
    return np.asarray(response)


def trunk_noise(setup: Setup, result: FitResult) -> TrunkNoise:
    """Variance components of the residuals, negative estimates set to zero.

    Raises ``FitError`` when the fit absorbs all that distinguishes the runs, so that nothing says how much they vary.
    """
    left = leftover(setup, result)
    runs, count = left.runs, len(left.residual)
    means = (runs / np.sqrt(runs.sum(axis=0))).T
    means_left = means - (means @ left.jacobian) @ left.gain
    shared_left = left.of(runs)
    hat = left.gain @ left.jacobian
    every_row = count - 2.0 * np.trace(hat) + np.trace((left.jacobian.T @ left.jacobian) @ (left.gain @ left.gain.T))
    shared_in_means = float(np.sum((means_left @ runs) ** 2))
    if shared_in_means < _LEAST_LEFT * count:
        raise FitError(
            f"{result.group}/{result.target}: {runs.shape[1]} runs cannot tell how much runs vary, the law follows "
            "each of them; use the method wild_cluster, or noise pooled over groups"
        )
    row_in_means = float(np.sum(means_left**2))
    expected = np.array([[row_in_means, shared_in_means], [every_row, float(np.sum(shared_left**2))]])
    squares = np.array([np.sum((means @ left.residual) ** 2), np.sum(left.residual**2)])
    row, trunk = np.linalg.solve(expected, squares)
    if trunk <= 0:
        row, trunk = squares[1] / every_row, 0.0
    row = max(float(row), 1e-12 * float(squares[1]) / count, 1e-300)
    spread = row * means_left @ means_left.T + trunk * (means_left @ runs) @ (means_left @ runs).T
    freedom = float(np.trace(spread) ** 2 / np.sum(spread**2))
    return TrunkNoise(float(trunk), row, freedom, max(float(every_row - row_in_means), 1.0))


def pooled_noise(fits: Sequence[tuple[FitResult, Sample]]) -> TrunkNoise | None:
    """One noise for fits of one form and target to several groups, weighted by degrees of freedom; None without fits.

    Groups whose runs all have a single row, or that cannot tell how much runs vary, say nothing and are left out.
    """
    found = []
    for result, sample in fits:
        setup, _ = prepare(sample, result.form, result.fixed, result.domains)
        if setup.sample.num_clusters == len(setup.sample):
            continue
        try:
            found.append(trunk_noise(setup, result))
        except FitError:
            continue
    if not found:
        return None
    weights, rows = (np.array([getattr(n, name) for n in found]) for name in ("freedom", "row_freedom"))
    trunk = float(np.average([n.trunk for n in found], weights=weights))
    row = float(np.average([n.row for n in found], weights=rows))
    return TrunkNoise(trunk, row, float(weights.sum()), float(rows.sum()))


def inflation(setup: Setup, result: FitResult, noise: TrunkNoise | None) -> float:
    """How many times larger than a fit's own residuals say the noise of its group is, by noise pooled over groups; 1
    without pooled noise. Few runs that happen to follow their law closely would otherwise look too certain."""
    if noise is None:
        return 1.0
    try:
        own = trunk_noise(setup, result)
    except FitError:
        return 1.0
    return float(np.sqrt(max((noise.trunk + noise.row) / (own.trunk + own.row), 1.0)))


def serial_correlation(setup: Setup, result: FitResult, noise: TrunkNoise, rng: np.random.Generator) -> float:
    """Probability of neighbouring rows of a run being as alike as they are, were they independent but for a shift.

    Neighbours in tokens (else compute, else the order of the table). The residuals of 400 simulated tables say what to
    expect. Small (below 0.05) means that a run wanders: its checkpoints are worth less than their number, and the
    ``TrunkNoise`` model is too simple.
    """
    left, columns = leftover(setup, result), setup.sample.columns
    along = next((columns[name] for name in ("D", "C") if name in columns), np.arange(float(len(left.residual))))
    order = np.lexsort((along, left.codes))
    same = np.diff(left.codes[order]) == 0
    size = np.bincount(left.codes)

    def statistic(residual: Array) -> Array:
        centred = residual - (left.runs @ ((left.runs.T @ residual) / size[:, None]))
        ordered = centred[order]
        return np.asarray(np.sum((ordered[1:] * ordered[:-1])[same], axis=0) / np.sum(ordered**2, axis=0))

    fixed = TrunkNoise(noise.trunk, noise.row, 1e9, 1e9)
    null = statistic(left.of(fixed.draw(left.codes, _NULL_DRAWS, rng).T))
    seen = statistic(left.residual[:, None])[0]
    return float((np.sum(null >= seen) + 1) / (_NULL_DRAWS + 1))
