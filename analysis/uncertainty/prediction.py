"""What a fit predicts at new points: the fitted value, how well it is known, and where a new run would land.

Shapes: n points, B draws, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.fit import FitError
from analysis.result import FitResult
from analysis.uncertainty.draws import spread_of

_LEAST_DRAWS = 20_000
_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Prediction:
    """fitted (n,); low, high (n,): band of the law itself; run_low, run_high (n,): band for one new run there, with the
    noise of a run and of a row. method: where the bands come from."""

    fitted: Array
    low: Array
    high: Array
    run_low: Array
    run_high: Array
    level: float
    method: str


def predict(
    result: FitResult, columns: Mapping[str, ArrayLike], level: float = 0.95, entropy: ArrayLike | None = None,
    seed: int = 0,
) -> Prediction:  # fmt: skip
    """Fitted response with bands at the points ``columns`` (symbol -> (n,) or a number, natural units).

    Bands are pointwise, in ln L for positive laws. They come from the bootstrap draws, stretched as the fit says, or
    without draws from the sandwich covariance by the delta method. entropy: known entropy of the points, for form
    "known" (else the mean of the fitted rows); other forms ignore it. The band of a run holds for a run like those that
    were fitted, not for another recipe. Raises ``ValueError`` naming a missing column or a bad level, ``FitError`` for
    a fit with neither draws nor covariance.
    """
    law = result.shape
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}; it must lie between 0 and 1, as 0.95")
    if missing := [symbol for symbol in law.columns if symbol not in columns]:
        raise ValueError(f"law {law.name} also reads {', '.join(missing)}; given are {', '.join(columns) or 'none'}")
    spread = spread_of(result)
    if not spread.method:
        raise FitError(
            f"{result.group}/{result.target}: the fit has neither bootstrap draws nor a covariance; fit with "
            "--bootstrap > 0"
        )
    given = np.broadcast_arrays(*(np.atleast_1d(np.asarray(columns[symbol], float)) for symbol in law.columns))
    arrays = dict(zip(law.columns, given, strict=True))
    added = result.added_entropy(None if entropy is None else np.asarray(entropy, float))
    values = result.respond(arrays, spread.theta) + added
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.log(values) if law.positive else values
    deviation = spread.widening * (scaled[1:] - scaled[0])
    back = np.exp if law.positive else np.asarray
    size, draws, words = _noise(result, values[0], len(deviation), seed)
    low, high = (back(scaled[0] + end) for end in _ends(deviation, level))
    run_low, run_high = (back(scaled[0] + end) for end in _ends_with_noise(deviation, size, draws, level))
    return Prediction(values[0], low, high, run_low, run_high, level, f"{spread.method}; {words}")


def _ends(deviation: Array, level: float) -> Array:
    """Percentiles (2, n) of deviations (..., n), the point always inside."""
    percent = 50.0 * np.array([1.0 - level, 1.0 + level])
    low, high = np.nanpercentile(deviation.reshape(-1, deviation.shape[-1]), percent, axis=0)
    return np.stack([np.minimum(low, 0.0), np.maximum(high, 0.0)])


def _ends_with_noise(deviation: Array, size: Array, draws: Array, level: float) -> Array:
    """The same for deviations (B, n) plus ``size`` (n,) times ``draws`` (M, B), some points at a time."""
    step = max(1, _ELEMENTS // draws.size)
    pieces = []
    for begin in range(0, len(size), step):
        here = slice(begin, begin + step)
        pieces.append(_ends(deviation[None, :, here] + size[here] * draws[:, :, None], level))
    return np.concatenate(pieces, axis=1)


def _noise(result: FitResult, fitted: Array, count: int, seed: int) -> tuple[Array, Array, str]:
    """Noise of a new run as size (n,) times draws (M, B), with the tails of t where its variances are uncertain.

    All points share the draws, so that a band along a curve is as smooth as the curve.
    """
    shape = max(1, -(-_LEAST_DRAWS // count)), count
    rng = np.random.default_rng([seed, 104729])
    freedom = max(result.n_rows - len(result.params) + len(result.fixed), 1)
    if result.noise is None:
        words = f"a new run varies by {result.sigma:.2g} (robust, from the residuals)"
        return _as_loss(result, fitted) * result.sigma, rng.standard_t(freedom, shape), words
    run, row = result.noise
    out = row * rng.standard_t(freedom, shape)
    words = f"a new run varies by {row:.2g}"
    if result.n_clusters < result.n_rows:
        out += run * rng.standard_t(max(result.n_clusters - 3, 1), shape)
        words = f"a new run varies by {run:.2g}, its rows by {row:.2g}"
    return np.ones_like(fitted), out, words


def _as_loss(result: FitResult, fitted: Array) -> Array:
    """(n,): change of ln L (of L for laws that may be negative) per unit of the residual that was minimised."""
    positive, logged = result.shape.positive, result.objective.startswith("log")
    to_loss = fitted - result.added_entropy() if logged else np.ones_like(fitted)
    return np.broadcast_to(to_loss / fitted if positive else to_loss, fitted.shape)
