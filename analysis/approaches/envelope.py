"""Approach 1 (arXiv 2203.15556, section 3.1): the lower envelope of the loss over compute, and its power laws.

Shapes: n rows, S sizes, G grid points, B draws.

Every size becomes one curve, interpolated in log-log between its rows. The frontier is the lowest curve at each of G
log-spaced computes ("bins"), or the vertices of the lower convex hull of the curves ("hull"; arXiv 2504.07951, C.3
takes c from a hull and drops its lowest computes). A point held by the smallest or largest size, or by a size whose
neighbour has no run at that compute, is censored: something untested may be lower. It is listed, not used.

On a grid of few sizes the frontier is a staircase. A line through all its points is too flat, by the share 1 / S^2 for
S equal steps, so by default each size counts once, at the middle of the compute it holds (``regress`` = "sizes").
The minimum over noisy curves also picks lucky rows: approach 1 has no answer to that, and nothing here hides it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.approaches.curves import Curves, Envelope, bin_minima, curves_from, lower_hull
from analysis.approaches.power import PowerLaws, as_lines, few_points_widening, lines_through
from analysis.approaches.rows import SAME_SIZE, Array, Labels, Refusal, Rows, codes_of, group_close, rows_from
from analysis.result import plain

_MIN_SIZES = 4


@dataclass(frozen=True)
class Options:
    """variant: "bins" or "hull". num_bins: grid points of ln C over the whole range. above: computes up to this are
    dropped (FLOPs). regress: "sizes" gives one point a size, "points" every uncensored point of the envelope, as the
    papers do. draws 0 gives no intervals."""

    variant: Literal["bins", "hull"] = "bins"
    num_bins: int = 200
    above: float = 0.0
    regress: Literal["sizes", "points"] = "sizes"
    draws: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in {"variant": ("bins", "hull"), "regress": ("sizes", "points")}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if self.num_bins < 10:
            raise ValueError(f"num_bins is {self.num_bins}; at least 10 points of compute are needed (200 is usual)")
        if self.draws and self.draws < 20:
            raise ValueError(f"{self.draws} draws cannot give a 95 % interval; use 0 for none, or at least 20")


@dataclass(frozen=True)
class EnvelopePoint:
    """One point of the frontier. excluded: why it is not in the regression, empty when it is."""

    compute: float
    size: float
    tokens: float
    loss: float
    excluded: str


@dataclass(frozen=True)
class EnvelopeResult:
    """Frontier, power laws (None when fewer than two sizes hold uncensored points), refusals and notes."""

    laws: PowerLaws | None
    points: tuple[EnvelopePoint, ...]
    num_sizes: int
    sizes_used: tuple[float, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    options: Options

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        lists = {"points": [vars(p) for p in self.points], "refusals": [vars(r) for r in self.refusals]}
        laws = {"laws": None if self.laws is None else self.laws.to_dict(), "options": vars(self.options)}
        return plain(vars(self) | lists | laws)


def envelope(
    size: ArrayLike,
    tokens: ArrayLike,
    loss: ArrayLike,
    compute: ArrayLike | None = None,
    *,
    clusters: Sequence[Hashable] | NDArray | None = None,
    options: Options | None = None,
) -> EnvelopeResult:
    """Approach 1 on rows N (n,), D (n,), loss (n,) in nats and FLOPs (n,), 6 N D when not given.

    clusters: the run of each row; the bootstrap draws whole runs. Without it whole sizes are drawn, because rows
    along one curve are not independent. Raises ``ValueError`` for bad columns, for fewer than 4 sizes, and when no
    compute is left above ``options.above``.
    """
    chosen = options or Options()
    rows = rows_from(size, tokens, loss, compute)
    runs = codes_of(clusters, len(rows), "clusters")
    codes = group_close(np.log(rows.size), SAME_SIZE)
    if codes.max() + 1 < _MIN_SIZES:
        raise ValueError(f"there are {codes.max() + 1} sizes; an envelope needs at least {_MIN_SIZES}, edges excluded")
    grid = _grid(rows, chosen)
    curves = curves_from(rows, codes)
    found = _frontier(curves, grid, chosen)
    points = _points(curves, found)
    log_c, values, holders = _regressed(curves, found, chosen)
    sizes_used = tuple(float(np.exp(curves.log_size[s])) for s in np.unique(holders))
    refusals = _refusals(curves, found)
    if len(sizes_used) < 2:
        note = f"no power law: {len(sizes_used)} of {len(curves.log_size)} sizes hold uncensored points, two are needed"
        return EnvelopeResult(None, points, len(curves.log_size), sizes_used, refusals, (note,), chosen)
    laws, notes = _laws(log_c, values, len(sizes_used), rows, codes, codes if runs is None else runs, grid, chosen)
    if runs is None and chosen.draws:
        notes += ("no run was named for the rows: whole sizes were resampled",)
    return EnvelopeResult(laws, points, len(curves.log_size), sizes_used, refusals, notes, chosen)


def _grid(rows: Rows, options: Options) -> Array:
    low, high = max(float(rows.compute.min()), options.above), float(rows.compute.max())
    if low >= high:
        raise ValueError(f"no compute is left above {options.above:g} FLOPs; the rows reach {high:.3g}")
    return np.linspace(math.log(low), math.log(high), options.num_bins)


def _frontier(curves: Curves, grid: Array, options: Options) -> Envelope:
    return lower_hull(curves, grid) if options.variant == "hull" else bin_minima(curves, grid)


def _points(curves: Curves, found: Envelope) -> tuple[EnvelopePoint, ...]:
    columns = np.exp([found.log_c, curves.log_size[found.holder], found.log_tokens, found.log_loss]).T
    return tuple(
        EnvelopePoint(float(c), float(n), float(d), float(loss), why)
        for (c, n, d, loss), why in zip(columns, found.reasons(), strict=True)
    )


def _regressed(curves: Curves, found: Envelope, options: Options) -> tuple[Array, Array, Labels]:
    """ln C (K,), ln N, ln D, ln L (3, K) and holders (K,) of the points that count, one a size by default."""
    free = found.censored == 0
    log_c, holder = found.log_c[free], found.holder[free]
    if options.regress == "points" or not len(holder):
        values = np.stack([curves.log_size[holder], found.log_tokens[free], found.log_loss[free]])
        return log_c, values, holder
    sizes = np.unique(holder)
    middle = np.array([log_c[holder == s].mean() for s in sizes])
    loss, tokens = (
        np.array([np.interp(at, curves.log_c[s], y[s]) for at, s in zip(middle, sizes, strict=True)])
        for y in (curves.log_loss, curves.log_tokens)
    )
    return middle, np.stack([curves.log_size[sizes], tokens, loss]), sizes


def _laws(
    log_c: Array, values: Array, num_sizes: int, rows: Rows, codes: Labels, runs: Labels, grid: Array, options: Options
) -> tuple[PowerLaws, tuple[str, ...]]:
    center = float(log_c.mean())
    lines = lines_through(log_c, values, np.ones(values.shape), center)
    span = float(np.exp(log_c.min())), float(np.exp(log_c.max()))
    if not options.draws or num_sizes == 2:
        why = "no resamples were drawn" if num_sizes > 2 else "two sizes leave no freedom for an interval"
        return PowerLaws(center, span, num_sizes, as_lines(lines), 1.0, "none", why), ()
    draws = _draws(rows, codes, runs, grid, center, options)
    lost = 1 - len(draws) / options.draws
    what = "sizes" if runs is codes else "runs"
    method = (
        f"{options.draws} draws of whole {what} with replacement, percentile, "
        f"stretched by t({num_sizes - 2})/1.96 for {num_sizes} uncensored sizes"
    )
    notes = (f"{100 * lost:.0f} % of the draws kept fewer than two uncensored sizes",) if lost > 0.05 else ()
    why = "" if len(draws) >= max(20, options.draws // 4) else "most resamples kept fewer than two uncensored sizes"
    widening = few_points_widening(num_sizes)
    return PowerLaws(center, span, num_sizes, as_lines(lines), widening, method, why, draws=draws), notes


def _draws(rows: Rows, codes: Labels, runs: Labels, grid: Array, center: float, options: Options) -> Array:
    """Lines (B', 3, 2) of the draws that keep two uncensored sizes. A run drawn twice changes no envelope, so a draw
    is the set of runs it contains; the curves differ in their knots, hence the loop."""
    rng = np.random.default_rng(options.seed)
    count = int(runs.max()) + 1
    found = []
    for _ in range(options.draws):
        present = np.zeros(count, dtype=bool)
        present[rng.integers(0, count, count)] = True
        keep = present[runs]
        curves = curves_from(rows.take(keep), codes[keep])
        if len(curves.log_size) < 3:
            continue
        log_c, values, _ = _regressed(curves, _frontier(curves, grid, options), options)
        if len(log_c) > 1:
            found.append(lines_through(log_c, values, np.ones(values.shape), center))
    lines = np.array(found).reshape(-1, 3, 2)
    return lines[np.isfinite(lines).all(axis=(1, 2))]


def _refusals(curves: Curves, found: Envelope) -> tuple[Refusal, ...]:
    """One refusal for each reason and size that censored points of the frontier."""
    listed = []
    reasons = np.array(found.reasons())
    for size in np.unique(found.holder):
        for why in np.unique(reasons[found.holder == size]):
            at = (found.holder == size) & (reasons == why)
            if why:
                middle = float(np.exp(found.log_c[at].mean()))
                text = f"{at.sum()} points of {np.exp(curves.log_size[size]):.4g} parameters: {why}"
                listed.append(Refusal("EdgeMinimum", middle, text))
    return tuple(listed)
