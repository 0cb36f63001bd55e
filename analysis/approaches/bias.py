"""The bias of approach 2: where a polynomial puts the minimum of a slice, and where the surface has it.

Along C = s N^p D the excess loss of L = E + A/N^alpha + B/D^beta is, in x = ln(N / N*) and up to a factor,

    f(x) = exp(-alpha x) / alpha + exp(p beta x) / (p beta),     f^(k)(0) = (p beta)^(k-1) + (-1)^k alpha^(k-1)

because the first derivative vanishes at the optimum. So the shift depends on alpha, p beta and the grid only, not on
E, A, B or C: with a grid that follows the optimum, exponents are exact and only the intercept is biased.

Leading order. Least squares of f on (1, x, x^2) replaces f''' x^3 / 6 by its projection, whose coefficient of x is
q f''' / 6. The vertex of the fitted parabola is then  -(f''' / f'') q / 6 = (alpha - p beta) q / 6.  On a grid that is
symmetric about the optimum q = m4 / m2, the ratio of its moments; for n evenly spaced points of half width w that is
w^2 (3 n^2 - 7) / (5 (n - 1)^2), and 3 w^2 / 5 for many points. The effect was described in arXiv 2603.22339.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.approaches import parabola
from analysis.approaches.isoflop import IsoflopResult, power_laws, slice_weights
from analysis.approaches.power import PowerLaws
from analysis.approaches.resample import Resamples
from analysis.approaches.rows import Array
from analysis.approaches.slices import DEGREE, Response, Shape, Slice
from analysis.result import plain

Cost = tuple[float, float]
SIX_ND: Cost = (6.0, 1.0)


@dataclass(frozen=True)
class Additive:
    """L = E + A / N^alpha + B / D^beta (arXiv 2203.15556, eq. 2), natural units; arrays (R, 1) hold R surfaces."""

    E: float | Array
    A: float | Array
    B: float | Array
    alpha: float | Array
    beta: float | Array

    def loss(self, size: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss in nats, element by element."""
        return self.E + self.A * np.power(size, -self.alpha) + self.B * np.power(tokens, -self.beta)

    def optimum(self, compute: ArrayLike, cost: Cost = SIX_ND) -> tuple[Array, Array]:
        """(N*, D*) for ``cost`` (s, p), C = s N^p D: N*^(alpha + p beta) = (alpha A / (p beta B)) (C / s)^beta."""
        scale, power = cost
        per = np.asarray(compute, dtype=float) / scale
        ratio = self.alpha * self.A / (power * self.beta * self.B)
        size = (ratio * per**self.beta) ** (1 / (self.alpha + power * self.beta))
        return size, per / size**power


@dataclass(frozen=True)
class Shift:
    """ln of the fitted minimum over the true optimum: N, and D at the same compute (opposite sign for 6 N D).

    leading: the analytic leading order of ``log_size``, None for a cubic, whose first error is of higher order.
    loss: fitted loss at the fitted minimum less the true lowest loss, in nats.
    """

    log_size: float
    log_tokens: float
    loss: float
    leading: float | None

    @property
    def size_percent(self) -> float:
        """Error of N* in per cent."""
        return 100 * math.expm1(self.log_size)

    @property
    def tokens_percent(self) -> float:
        """Error of D* in per cent."""
        return 100 * math.expm1(self.log_tokens)


def parabola_shift(
    surface: Additive,
    compute: float,
    factors: ArrayLike,
    *,
    shape: Shape = "parabola",
    response: Response = "loss",
    cost: Cost = SIX_ND,
) -> Shift:
    """The noise-free bias on sizes ``factors`` (n,) times the optimum at ``compute`` FLOPs, by exact least squares.

    Raises ``ValueError`` for factors that are not positive or too few, or when the exact curve gives no minimum.
    """
    chosen = np.asarray(factors, dtype=float)
    if chosen.ndim != 1 or not np.all(np.isfinite(chosen) & (chosen > 0)):
        raise ValueError(
            f"factors has shape {chosen.shape}; it must be (n,) of positive numbers, sizes over the optimum"
        )
    if len(np.unique(chosen)) <= DEGREE[shape]:
        raise ValueError(f"{len(np.unique(chosen))} distinct factors; a {shape} needs at least {DEGREE[shape] + 1}")
    size, _ = surface.optimum(compute, cost)
    z, loss = fitted_shift(surface, compute, float(size) * chosen, np.ones(len(chosen)), shape, response, cost)
    if not math.isfinite(z[0]):
        raise ValueError(f"the {shape} through the exact curve has no minimum on these factors; use a narrower grid")
    leading = leading_shift(surface, chosen, cost[1]) if shape == "parabola" else None
    return Shift(float(z[0]), -cost[1] * float(z[0]), float(loss[0]), leading)


def leading_shift(surface: Additive, factors: ArrayLike, power: float = 1.0) -> float:
    """(alpha - p beta) q / 6 with q the coefficient of x in the projection of x^3 on (1, x, x^2) over the grid.

    The same for the loss and for its logarithm: at an optimum their ratios f''' / f'' agree.
    """
    x = np.log(np.asarray(factors, dtype=float))
    return float(np.asarray(surface.alpha - power * surface.beta) * np.polyfit(x, x**3, 2)[1] / 6)


def even_grid_ratio(half_width: float, num: int) -> float:
    """m4 / m2 of ``num`` points evenly spaced from -half_width to half_width."""
    return half_width**2 * (3 * num**2 - 7) / (5 * (num - 1) ** 2)


def fitted_shift(
    surface: Additive, compute: float, sizes: Array, weights: Array, shape: Shape, response: Response, cost: Cost
) -> tuple[Array, Array]:
    """(R,) ln of fitted minimum over optimum and (R,) error of the loss there, on sizes (n,) with row weights (n,)."""
    scale, power = cost
    log_n = np.log(sizes)
    origin, half = (log_n.max() + log_n.min()) / 2, np.ptp(log_n) / 2
    exact = np.atleast_2d(surface.loss(sizes, compute / (scale * sizes**power)))
    y = np.log(exact) if response == "log" else exact
    coef, _ = parabola.fit((log_n - origin) / half, y, np.broadcast_to(weights, y.shape), DEGREE[shape])
    found = parabola.minimum(coef)
    best, tokens = surface.optimum(compute, cost)
    lowest = np.ravel(surface.loss(best, tokens))
    value = np.exp(found.value) if response == "log" else found.value
    z = np.where(found.curvature > 0, found.z, np.nan)
    return origin + half * z - np.ravel(np.log(best)), value - lowest


@dataclass(frozen=True)
class SliceShift:
    """One slice: N* and D* as measured, the shift a surface predicts on this slice's own sizes, and both corrected."""

    compute: float
    raw_size: float
    raw_tokens: float
    shift: Shift
    size: float
    tokens: float


@dataclass(frozen=True)
class CorrectedIsoflop:
    """Approach 2 before and after the shift: the power laws of both, and every slice. notes: what was assumed."""

    raw: PowerLaws
    laws: PowerLaws
    slices: tuple[SliceShift, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        slices = [vars(s) | {"shift": vars(s.shift)} for s in self.slices]
        return plain(
            {"raw": self.raw.to_dict(), "corrected": self.laws.to_dict(), "slices": slices, "notes": self.notes}
        )


def correct(result: IsoflopResult, surface: Additive, draws: Array | None = None) -> CorrectedIsoflop:
    """Subtract from every slice the shift that ``surface`` predicts for its sizes, row weights and shape of curve.

    The same fit is made to the noise-free surface on the sizes of the slice, so grids that are off centre or drift
    are covered, and the exponents are corrected too. draws (B, 5): E, A, B, alpha, beta of resampled surfaces; each
    draw of the minima then gets the shift of another surface, so that the intervals hold both uncertainties, as if
    they were independent.
    Raises ``ValueError`` when the result has no power laws, or the surface has no minimum on a slice.
    """
    if result.laws is None:
        raise ValueError(f"there is nothing to correct: {'; '.join(result.notes) or 'no power law was fitted'}")
    shifts = [_slice_shift(one, surface, result) for one in result.slices]
    corrected = tuple(_apply(one, shift) for one, shift in zip(result.slices, shifts, strict=True))
    log_c = np.log([one.compute for one in result.slices])
    moves = np.array([[s.log_size, s.log_tokens] for s in shifts]).T
    losses = np.array([one.loss - s.loss for one, s in zip(result.slices, shifts, strict=True)])
    sizes, tokens = np.array([[s.size, s.tokens] for s in corrected]).T
    values = np.log(np.stack([sizes, tokens, losses]))
    drawn = result.resamples
    if drawn is not None:
        many = None if draws is None else _shifts_of_draws(result, draws, len(drawn.values))
        drawn = _moved(drawn, moves, np.array([s.loss for s in shifts]), many)
    laws = power_laws(log_c, values, slice_weights(result.slices), drawn)
    known = "its uncertainty is in the intervals" if draws is not None else "taken as known without error"
    note = f"shifts from a surface with alpha = {float(surface.alpha):.4g}, beta = {float(surface.beta):.4g}, {known}"
    return CorrectedIsoflop(result.laws, laws, corrected, (note,))


def _slice_shift(one: Slice, surface: Additive, result: IsoflopResult) -> Shift:
    shape, response = result.options.shape, result.options.response
    sizes, weights = np.array(one.sizes), np.array(one.weights)
    z, loss = fitted_shift(surface, one.compute, sizes, weights, shape, response, one.cost)
    if not math.isfinite(z[0]):
        raise ValueError(
            f"the surface has no minimum on the sizes of the slice at C = {one.compute:.3g}, so it cannot be the "
            "surface behind these rows; fit it to them first (approach 3)"
        )
    best, _ = surface.optimum(one.compute, one.cost)
    leading = leading_shift(surface, sizes / float(best), one.cost[1]) if shape == "parabola" else None
    return Shift(float(z[0]), -one.cost[1] * float(z[0]), float(loss[0]), leading)


def _apply(one: Slice, shift: Shift) -> SliceShift:
    size = one.size.value * math.exp(-shift.log_size)
    return SliceShift(one.compute, one.size.value, one.tokens, shift, size, one.tokens * math.exp(-shift.log_tokens))


def _shifts_of_draws(result: IsoflopResult, draws: Array, count: int) -> Array:
    """(B, 3, K) shifts of ln N*, ln D* and the loss; the surfaces of ``draws`` are used in turn for ``count`` draws."""
    chosen = draws[np.arange(count) % len(draws)]
    surfaces = Additive(*(chosen[:, i : i + 1] for i in range(5)))
    shape, response = result.options.shape, result.options.response
    found = []
    for one in result.slices:
        z, loss = fitted_shift(
            surfaces, one.compute, np.array(one.sizes), np.array(one.weights), shape, response, one.cost
        )
        found.append(np.stack([z, -one.cost[1] * z, loss], axis=1))
    return np.stack(found, axis=2)


def _moved(drawn: Resamples, moves: Array, losses: Array, many: Array | None) -> Resamples:
    shifts = np.concatenate([moves, losses[None]])[None] if many is None else many
    values = drawn.values.copy()
    values[:, :2] -= shifts[:, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        values[:, 2] = np.log(np.exp(values[:, 2]) - shifts[:, 2])
    valid = drawn.valid & np.isfinite(values).all(axis=1)
    method = drawn.method + ("" if many is None else ", each with the shift of another resampled surface")
    return Resamples(np.where(valid[:, None, :], values, 0.0), valid, float(1 - valid.mean()), method)
