"""IsoFLOP slices: rows of nearly one compute, a polynomial of the loss in ln N, and the verdict on its minimum.

Shapes: n rows of one slice. z = (ln N - origin) / half_width runs from -1 (smallest size) to 1 (largest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis.approaches import parabola
from analysis.approaches.power import exponential
from analysis.approaches.rows import SAME_SIZE, Array, Labels, Refusal, Rows, group_close
from analysis.result import Interval

Shape = Literal["parabola", "cubic"]
Response = Literal["loss", "log"]
MIN_SIZES = {"parabola": 4, "cubic": 5}
DEGREE = {"parabola": 2, "cubic": 3}
_HUBER_EFFICIENT = 1.345
_MAD_TO_SIGMA = 1.4826
_GAPS_PER_SLICE = 3.0
_PRIOR_FREEDOM = 8
_LEAST_SIGMA = 1e-12


@dataclass(frozen=True)
class Cut:
    """One slice before it is judged.

    index (n,): its rows in the table. compute: geometric mean of C. away (n,): ln of each row's C over it.
    y (n,): the response (loss, or its ln), unit: what one relative step of the loss is in it.
    per_token: polynomial in z of ln(C / D), which turns N* into D* whatever the FLOP convention is.
    cost: (scale, power) of C = scale N^power D, the same in the form that has a closed-form optimum.
    """

    index: Labels
    compute: float
    away: Array
    origin: float
    half_width: float
    z: Array
    y: Array
    unit: float
    per_token: Array
    cost: tuple[float, float]
    num_sizes: int

    def log_size(self, z: Array) -> Array:
        """ln N of positions on the grid."""
        return self.origin + self.half_width * z

    def log_tokens(self, z: Array) -> Array:
        """ln D that spends the slice's compute at positions z, any shape."""
        return math.log(self.compute) - (parabola.powers(z, len(self.per_token) - 1) * self.per_token).sum(axis=-1)


@dataclass(frozen=True)
class Fit:
    """Coefficients (p,) in z, final row weights (n,) and the minimum of one slice."""

    coef: Array
    weights: Array
    found: parabola.Minimum
    delta: float

    def residual(self, cut: Cut, y: Array) -> Array:
        """Observed minus fitted response (n,)."""
        return y - parabola.powers(cut.z, len(self.coef) - 1) @ self.coef


@dataclass(frozen=True)
class Slice:
    """A slice with a usable minimum.

    compute, size, tokens, loss: C, N*, D* and the fitted loss there; the interval of N* is the delta method with the
    slice's noise (``noise_by_slice``). curvature: second derivative of the response in ln N at the minimum.
    off_centre: ln of N* over the middle of the size grid (its half width is ``half_width``).
    spread: largest |ln C| of a row from the slice's C; moved: largest correction of a loss to the slice's C, in nats.
    sizes, weights: N of each row and the weight it had in the fit; cost: (scale, power) of C = scale N^power D.
    log_size_error: standard error of ln N*.
    """

    compute: float
    size: Interval
    tokens: float
    loss: float
    curvature: Interval
    off_centre: float
    half_width: float
    spread: float
    moved: float
    num_sizes: int
    sizes: tuple[float, ...]
    weights: tuple[float, ...]
    cost: tuple[float, float]
    index: tuple[int, ...]
    log_size_error: float


def cut_slices(
    rows: Rows, labels: Labels | None, tolerance: float, shape: Shape, response: Response
) -> tuple[list[Cut], list[Refusal]]:
    """Slices in ascending compute, and those refused before any fit.

    Without labels, rows belong together while sorted neighbours lie within ``tolerance`` in ln C; a group that
    stretches over more than 3 of these gaps is no slice (checkpoints along curves do that). With labels no spread is
    too wide. Needs 4 distinct sizes (5 for a cubic); sizes within 0.1 % count as one.
    """
    log_c = np.log(rows.compute)
    codes = group_close(log_c, tolerance) if labels is None else labels
    cuts, refusals = [], []
    for code in np.unique(codes):
        index = np.nonzero(codes == code)[0]
        compute = math.exp(float(log_c[index].mean()))
        num_sizes = int(group_close(np.log(rows.size[index]), SAME_SIZE).max()) + 1
        if labels is None and np.ptp(log_c[index]) > _GAPS_PER_SLICE * tolerance:
            low, high = rows.compute[index].min(), rows.compute[index].max()
            why = f"{len(index)} rows run from {low:.3g} to {high:.3g} FLOPs without a gap; name the slices in a column"
            refusals.append(Refusal("WideSlice", compute, why))
        elif num_sizes < MIN_SIZES[shape]:
            why = f"{num_sizes} distinct sizes in {len(index)} rows; a {shape} needs at least {MIN_SIZES[shape]}"
            refusals.append(Refusal("TooFew", compute, why))
        else:
            cuts.append(_cut(rows.take(index), index, compute, response, num_sizes))
    return sorted(cuts, key=lambda cut: cut.compute), refusals


def _cut(rows: Rows, index: Labels, compute: float, response: Response, num_sizes: int) -> Cut:
    log_n = np.log(rows.size)
    same = group_close(log_n, SAME_SIZE)
    log_n = (np.bincount(same, log_n) / np.bincount(same))[same]
    origin, half_width = (log_n.max() + log_n.min()) / 2, np.ptp(log_n) / 2
    z = (log_n - origin) / half_width
    per_token = np.log(rows.compute / rows.tokens)
    power, level = np.polyfit(log_n, per_token, 1)
    return Cut(
        index=index,
        compute=compute,
        away=np.log(rows.compute / compute),
        origin=float(origin),
        half_width=float(half_width),
        z=z,
        y=np.log(rows.loss) if response == "log" else rows.loss,
        unit=1.0 if response == "log" else float(np.exp(np.log(rows.loss).mean())),
        per_token=np.polyfit(z, per_token, 2)[::-1],
        cost=(math.exp(level), float(power)),
        num_sizes=num_sizes,
    )


def fit_slices(
    cuts: Sequence[Cut], ys: Sequence[Array], shape: Shape, delta: float | Literal["auto"] | None
) -> list[Fit]:
    """One fit a slice by least squares (``delta`` None) or Huber with threshold ``delta`` in units of the response.

    "auto" is 1.345 robust standard deviations of the relative residuals of all slices together.
    """
    plain = [_fit(cut, y, shape, np.inf) for cut, y in zip(cuts, ys, strict=True)]
    if delta is None:
        return plain
    if delta != "auto":
        return [_fit(cut, y, shape, delta) for cut, y in zip(cuts, ys, strict=True)]
    inflated = [
        np.sqrt(len(cut.z) / _freedom(cut, fit)) * fit.residual(cut, y) / cut.unit
        for cut, y, fit in zip(cuts, ys, plain, strict=True)
    ]
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(np.concatenate(inflated)))) if inflated else 0.0
    limit = max(_HUBER_EFFICIENT * sigma, 1e-12)
    return [_fit(cut, y, shape, limit * cut.unit) for cut, y in zip(cuts, ys, strict=True)]


def _fit(cut: Cut, y: Array, shape: Shape, delta: float) -> Fit:
    coef, weights = parabola.fit(cut.z, y[None], np.ones((1, len(y))), DEGREE[shape], delta)
    return Fit(coef[0], weights[0], parabola.minimum(coef), delta)


def _freedom(cut: Cut, fit: Fit) -> int:
    return len(cut.z) - len(fit.coef)


@dataclass(frozen=True)
class Noise:
    """Relative residual standard deviation of a slice and the degrees of freedom behind it."""

    sigma: float
    freedom: int


def noise_by_slice(cuts: Sequence[Cut], ys: Sequence[Array], fits: Sequence[Fit]) -> tuple[list[Noise], float]:
    """Noise of every slice, and that of a typical one.

    A slice has few rows, so its own variance is averaged with the median variance of all slices as if that had 8
    degrees of freedom (or as many as the other slices have, if fewer): one bad slice then does not make the others
    look noisy. For Huber it is the variance of M-estimates (Huber 1981, chapter 7): bounded residuals over the
    share of unbounded ones, with its small-sample factor.
    """
    if not cuts:
        return [], math.nan
    own = np.array([_own_variance(cut, y, fit) for cut, y, fit in zip(cuts, ys, fits, strict=True)])
    freedom = np.array([_freedom(cut, fit) for cut, fit in zip(cuts, fits, strict=True)])
    typical = float(np.median(own / (stats.chi2.ppf(0.5, freedom) / freedom)))
    prior = np.minimum(_PRIOR_FREEDOM, freedom.sum() - freedom)
    variance = (freedom * own + prior * typical) / (freedom + prior)
    sigma = np.maximum(np.sqrt(variance), _LEAST_SIGMA)
    return [Noise(float(v), int(f)) for v, f in zip(sigma, freedom + prior, strict=True)], math.sqrt(typical)


def _own_variance(cut: Cut, y: Array, fit: Fit) -> float:
    residual = fit.residual(cut, y)
    share = max(float(np.mean(np.abs(residual) <= fit.delta)), 0.1) if np.isfinite(fit.delta) else 1.0
    small_sample = 1 + len(fit.coef) / len(residual) * (1 - share) / share
    bounded = float(np.sum((fit.weights * residual / cut.unit) ** 2)) / _freedom(cut, fit)
    return bounded * (small_sample / share) ** 2


def judge(cut: Cut, fit: Fit, y: Array, rows: Rows, noise: Noise, response: Response) -> Slice | Refusal:
    """The slice with its minimum, or the reason why it has none that can be trusted.

    NotConvex: no minimum, or the 95 % interval of the curvature reaches 0. EdgeMinimum: the minimum lies at or beyond
    the smallest or largest size, or the lowest loss was observed there. y (n,): the response after any correction.
    """
    at, curvature = float(fit.found.z[0]), float(fit.found.curvature[0])
    if not (math.isfinite(at) and curvature > 0):
        return Refusal("NotConvex", cut.compute, "the fitted curve does not open upwards in ln N, so it has no minimum")
    error = parabola.spread(cut.z, np.ones_like(fit.weights), fit.coef, fit.found)
    reach = float(stats.t.ppf(0.975, noise.freedom)) * noise.sigma * cut.unit
    bend = _around(curvature / cut.half_width**2, reach * error.curvature / cut.half_width**2)
    if bend.low <= 0:
        why = f"the curvature's 95 % interval [{bend.low:.2g}, {bend.high:.2g}] reaches 0"
        return Refusal("NotConvex", cut.compute, why)
    if refusal := _edge(cut, y, at, np.sort(rows.size[cut.index])[[0, -1]]):
        return refusal
    middle = float(cut.log_size(np.array(at)))
    size = exponential(_around(middle, cut.half_width * reach * error.z))
    value = float(fit.found.value[0])
    return Slice(
        compute=cut.compute,
        size=size,
        tokens=math.exp(float(cut.log_tokens(np.array(at)))),
        loss=math.exp(value) if response == "log" else value,
        curvature=bend,
        off_centre=middle - cut.origin,
        half_width=cut.half_width,
        spread=float(np.abs(cut.away).max()),
        moved=float(np.abs(y - cut.y).max()) * (math.exp(value) if response == "log" else 1.0),
        num_sizes=cut.num_sizes,
        sizes=tuple(map(float, rows.size[cut.index])),
        weights=tuple(map(float, fit.weights)),
        cost=cut.cost,
        index=tuple(map(int, cut.index)),
        log_size_error=cut.half_width * cut.unit * noise.sigma * error.z,
    )


def _around(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach)


def _edge(cut: Cut, y: Array, at: float, ends: Array) -> Refusal | None:
    sizes, same = np.unique(cut.z, return_inverse=True)
    lowest = int(np.argmin(np.bincount(same, y) / np.bincount(same)))
    for end, name, outside, first in (
        (ends[0], "smallest", at <= -1, 0),
        (ends[1], "largest", at >= 1, len(sizes) - 1),
    ):
        if outside or lowest == first:
            where = "the fitted minimum lies at or beyond" if outside else "the lowest loss was observed at"
            why = f"{where} the {name} size, {end:.4g} parameters; train sizes beyond it"
            return Refusal("EdgeMinimum", cut.compute, why)
    return None


def at_common_compute(cuts: Sequence[Cut], slices: Sequence[Slice], response: Response) -> list[Array]:
    """The responses moved from each row's own C to its slice's C along the family of parabolas the slices form.

    ln N* is a line in ln C, ln of the curvature too, and the lowest response a cubic (less with few slices). Their
    sum P(N, C) is used only for differences: y_i + P(N_i, C) - P(N_i, C_i). So a row's exact compute counts without
    a law of D. Needs two slices.
    """
    log_c = np.log([s.compute for s in slices])
    lowest = np.array([math.log(s.loss) if response == "log" else s.loss for s in slices])
    middle = np.polyfit(log_c, np.log([s.size.value for s in slices]), 1)
    bend = np.polyfit(log_c, np.log([s.curvature.value for s in slices]), 1)
    floor = np.polyfit(log_c - log_c.mean(), lowest, min(3, len(slices) - 1))

    def surface(log_size: Array, at: Array | float) -> Array:
        below = np.polyval(floor, at - log_c.mean())
        return below + 0.5 * np.exp(np.polyval(bend, at)) * (log_size - np.polyval(middle, at)) ** 2

    moved = []
    for cut in cuts:
        log_size, here = cut.log_size(cut.z), math.log(cut.compute)
        moved.append(cut.y + surface(log_size, here) - surface(log_size, here + cut.away))
    return moved
