"""Loss against compute, one curve a size, and the lower envelope of the curves. All in natural logs.

Shapes: n rows, S sizes in ascending order, G points of a compute grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.approaches.rows import Array, Labels, Rows

_CENSORED = {
    1: "smallest size: smaller ones could be lower",
    2: "largest size: larger ones could be lower",
    3: "the next smaller size has no run at this compute",
    4: "the next larger size has no run at this compute",
}


@dataclass(frozen=True)
class Curves:
    """Per size (a tuple entry each): ln C ascending, ln L and ln D at its rows; log_size (S,)."""

    log_size: Array
    log_c: tuple[Array, ...]
    log_loss: tuple[Array, ...]
    log_tokens: tuple[Array, ...]

    def on(self, grid: Array) -> tuple[Array, Array]:
        """ln L and ln D (S, G) interpolated in log-log; NaN beyond a size's own compute. One row gives no curve."""
        sizes = range(len(self.log_size))
        loss, tokens = (
            np.array([np.interp(grid, self.log_c[s], y[s], left=np.nan, right=np.nan) for s in sizes])
            for y in (self.log_loss, self.log_tokens)
        )
        return loss, tokens


def curves_from(rows: Rows, codes: Labels) -> Curves:
    """One curve for each code (n,), whose order is that of the sizes. Rows of a size at one compute are averaged."""
    log_c, log_l, log_d = np.log(rows.compute), np.log(rows.loss), np.log(rows.tokens)
    present = np.unique(codes)
    parts = []
    for code in present:
        mine = codes == code
        knots, same = np.unique(log_c[mine], return_inverse=True)
        count = np.bincount(same)
        parts.append((knots, np.bincount(same, log_l[mine]) / count, np.bincount(same, log_d[mine]) / count))
    log_n = np.array([np.log(rows.size[codes == code]).mean() for code in present])
    return Curves(log_n, *(tuple(p[i] for p in parts) for i in range(3)))


@dataclass(frozen=True)
class Envelope:
    """The frontier on G points: ln C, the size that holds it (index into S), ln D, ln L, censoring code (0: none)."""

    log_c: Array
    holder: Labels
    log_tokens: Array
    log_loss: Array
    censored: Labels

    def take(self, keep: NDArray[np.bool_] | Labels) -> Envelope:
        """The chosen points."""
        loss, tokens = self.log_loss[keep], self.log_tokens[keep]
        return Envelope(self.log_c[keep], self.holder[keep], tokens, loss, self.censored[keep])

    def reasons(self) -> list[str]:
        """Why a point is left out of a regression, or an empty string, one a point."""
        return [_CENSORED.get(int(code), "") for code in self.censored]


def bin_minima(curves: Curves, grid: Array) -> Envelope:
    """The lowest curve at every grid point; points where no size has a run are absent."""
    loss, tokens = curves.on(grid)
    there = np.isfinite(loss)
    used = np.nonzero(there.any(axis=0))[0]
    holder = np.argmin(np.where(there, loss, np.inf), axis=0)
    pick = np.arange(len(grid))
    censored = _censoring(holder, there)
    return Envelope(grid, holder, tokens[holder, pick], loss[holder, pick], censored).take(used)


def lower_hull(curves: Curves, grid: Array) -> Envelope:
    """Vertices of the lower convex hull of all curves on the grid in (ln C, ln L): where the tangents touch."""
    every = bin_minima(curves, grid)
    return every.take(hull_vertices(every.log_c, every.log_loss))


def hull_vertices(x: Array, y: Array) -> Labels:
    """Indices of the lower convex hull of points with ascending, distinct x, left to right."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            o, a = hull[-2], hull[-1]
            if (x[a] - x[o]) * (y[i] - y[o]) > (y[a] - y[o]) * (x[i] - x[o]):
                break
            hull.pop()
        hull.append(i)
    return np.array(hull, dtype=int)


def _censoring(holder: Labels, there: NDArray[np.bool_]) -> Labels:
    """Codes of ``_CENSORED`` (G,): the edge of the size grid, then a neighbour in size without a run there."""
    last, pick = len(there) - 1, np.arange(there.shape[1])
    smaller = there[np.maximum(holder - 1, 0), pick]
    larger = there[np.minimum(holder + 1, last), pick]
    return np.select([holder == 0, holder == last, ~smaller, ~larger], [1, 2, 3, 4], 0)
