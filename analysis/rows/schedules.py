"""Learning-rate curves as the columns of schedule laws: what every recorded row has behind it.

Shapes: n rows of all runs, m points of one schedule, K nodes.
    S1     (n,)    sum of the learning rate of every step up to the row, warm-up included
    drop   (n, K)  fall of the learning rate in one node, eta_{k-1} - eta_k; negative for a rise
    eta    (n, K)  learning rate after that fall, a mean inside the node
    since  (n, K)  S_k: sum of the learning rate from the fall to the row, both included
    age    (n, K)  steps from the fall to the row

A schedule is known at its recorded points only. Between two of them the rate is taken to be linear, except where it
changes more than ten times as much as in the intervals before and after: that is a jump (a stage, a restart), placed on
the record that shows it first. Before the first record the rate rises linearly from zero at step 0, up to that record
or up to ``warmup``; a schedule recorded from step 0 or 1 on is taken as it is. Rises count as negative falls, the
warm-up included: the published coefficients of the multi-power law (arXiv 2503.12811) hold for this reading and miss
the loss by 0.1 without it.

A law is a sum over every step of a smooth kernel of ``since`` or ``age``. Steps whose ages lie in one of ``num_bins``
geometric bins are therefore merged into one node at their weighted means, falls and rises apart: 16 nodes do the work
of thousands of steps to a few 1e-4 in the loss, and the error falls with the square of the bin width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CURVE_SYMBOLS = frozenset({"S1", "drop", "eta", "since", "age"})
NUM_BINS = 16
MAX_SUBSTEPS = 512
"""Longest interval between two records that is followed step by step; longer ones are followed in equal parts."""
TAIL_POWER = 0.4
"""Old steps act through eta^(beta gamma), published near 0.38: rates inside a node are averaged in that power."""
JUMP_RATIO = 10.0
_ROUNDING = 1e-9
_NEGLIGIBLE = 1e-12
_FLOOR = 1e-6


def columns_from_curves(
    run: Any, step: Any, lr: Any, warmup: float | None = None, num_bins: int = NUM_BINS
) -> dict[str, Array]:
    """Columns S1, drop, eta, since and age, in the order of the rows, from a table of curves.

    run (n,) any labels, step (n,) and lr (n,); rows may come in any order. warmup: steps of linear warm-up where the
    records start after it. Raises ``ValueError`` for a run with one row, a repeated or negative step, or a learning
    rate that is negative, not finite or zero throughout.
    """
    labels, inverse = np.unique(np.asarray(run), return_inverse=True)
    step, lr = np.array(step, dtype=float), np.array(lr, dtype=float)
    if not len(step) == len(lr) == len(inverse):
        raise ValueError(f"run, step and lr have {len(inverse)}, {len(step)} and {len(lr)} rows; they must be equal")
    pieces, places = [], []
    for number, label in enumerate(labels):
        rows = np.flatnonzero(inverse == number)
        rows = rows[np.argsort(step[rows], kind="stable")]
        try:
            points = _with_jumps(step[rows], lr[rows])
            pieces.append(columns_at(*points, step[rows], warmup, num_bins))
        except ValueError as error:
            raise ValueError(f"run {label}: {error}") from error
        places.append(rows)
    return _joined(pieces, np.concatenate(places))


def columns_at(step: Any, lr: Any, at: Any, warmup: float | None = None, num_bins: int = NUM_BINS) -> dict[str, Array]:
    """The columns at the steps ``at`` (n,) of one schedule given at ``step`` (m,), increasing, with rates ``lr`` (m,).

    This is how a planned schedule is predicted: give its corner points or every step, and ask for the last one. The
    rate is linear between any two points; a jump is two points one step apart. Raises ``ValueError`` as
    ``columns_from_curves`` does, and for a step outside the schedule.
    """
    at = np.array(at, dtype=float)
    knots, rates = _knots(np.array(step, dtype=float), np.array(lr, dtype=float), warmup)
    if len(at) and (at.min() < knots[0] or at.max() > knots[-1]):
        covered = f"{knots[0]:g} to {knots[-1]:g}"
        raise ValueError(f"steps {at.min():g} to {at.max():g} asked for; the schedule covers {covered}")
    every = np.union1d(knots, at)
    steps, eta, summed = _followed(every, np.interp(every, knots, rates))
    cumulative = np.cumsum(summed)
    row = np.searchsorted(steps, at)
    if len(at) and cumulative[row].min() <= 0:
        first = at[np.argmin(cumulative[row])]
        raise ValueError(f"no learning rate was summed up to step {first:g} (S1 = 0); leave that row out")
    bounds = _bins(steps, row, num_bins)
    falls = _nodes(steps, eta, cumulative, row, bounds, 1.0)
    rises = _nodes(steps, eta, cumulative, row, bounds, -1.0)
    nodes = {name: np.concatenate([falls[name], rises[name]], axis=1) for name in falls}
    padding = {"drop": 0.0, "eta": float(eta.max()), "since": float(cumulative[-1]), "age": float(steps[-1])}
    return {"S1": cumulative[row], **_compact(nodes, padding)}


def _knots(step: Array, lr: Array, warmup: float | None) -> tuple[Array, Array]:
    """Points between which the rate is linear, from step 0 or 1 on."""
    _check(step, lr)
    if step[0] <= 1:
        return step, lr
    end = step[0] if warmup is None else min(float(warmup), step[0])
    ramp = np.array([0.0, end]) if 0 < end < step[0] else np.array([0.0])
    level = np.array([0.0, lr[0]])[: len(ramp)] if end > 0 else lr[:1]
    return np.concatenate([ramp, step]), np.concatenate([level, lr])


def _check(step: Array, lr: Array) -> None:
    if len(step) < 2:
        raise ValueError(f"{len(step)} row; a learning-rate curve needs at least 2, leave the run out")
    if not (np.isfinite(step).all() and np.isfinite(lr).all()) or lr.min() < 0 or step.min() < 0:
        raise ValueError("step and lr must be finite and not negative; remove or repair those rows")
    if lr.max() == 0:
        raise ValueError("lr is 0 in every row; a learning-rate curve needs a positive rate")
    gaps = np.diff(step)
    if gaps.min() <= 0:
        at = int(np.argmin(gaps))
        raise ValueError(f"step {step[at + 1]:g} follows step {step[at]:g}; every step may be recorded once")


def _with_jumps(step: Array, lr: Array) -> tuple[Array, Array]:
    """The records, and one step before each that shows a jump the rate of the record before.

    A jump is a change more than ten times that of the intervals before and after.
    """
    _check(step, lr)
    change = np.abs(np.diff(lr))
    around = np.maximum(change[:-2], change[2:])
    sudden = (change[1:-1] > JUMP_RATIO * around + _ROUNDING * lr.max()) & (np.diff(step)[1:-1] > 1)
    before = np.flatnonzero(sudden) + 1
    steps = np.concatenate([step, step[before + 1] - 1.0])
    order = np.argsort(steps, kind="stable")
    return steps[order], np.concatenate([lr, lr[before]])[order]


def _followed(knots: Array, rates: Array) -> tuple[Array, Array, Array]:
    """(step, rate there, rates summed since the entry before), each (m,): every step, or equal parts of a long gap."""
    length = np.diff(knots)
    parts = np.clip(np.ceil(length), 1, MAX_SUBSTEPS).astype(np.intp)
    which = np.repeat(np.arange(len(parts)), parts)
    share = (np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts) + 1.0) / parts[which]
    count = (length / parts)[which]
    slope = (np.diff(rates) / length)[which]
    # interpolated from both ends, so that a flat stretch stays exactly flat and the last part ends exactly on its knot
    steps = knots[:-1][which] * (1.0 - share) + knots[1:][which] * share
    eta = rates[1:][which] - slope * (knots[1:][which] - steps)
    summed = count * (eta - 0.5 * slope * (count - 1.0))
    return (
        np.concatenate([knots[:1], steps]),
        np.concatenate([rates[:1], eta]),
        np.concatenate([rates[:1], summed]),
    )


def _bins(steps: Array, row: NDArray[np.intp], num_bins: int) -> NDArray[np.intp]:
    """Bounds (n, num_bins + 1): bin j of a row holds the entries bounds[j + 1] to bounds[j], exclusive, newest first.

    Ages are geometric from two entries before the row to the start of the schedule.
    """
    whole = np.maximum(steps[row] - steps[0], 1e-300)[:, None]
    newest = np.maximum(steps[row] - steps[np.maximum(row - 2, 0)], 1e-300)[:, None]
    edges = newest * (whole / newest) ** np.linspace(0.0, 1.0, num_bins)[None, :-1]
    inner = np.searchsorted(steps, steps[row][:, None] - edges, side="left")
    return np.concatenate([row[:, None] + 1, np.minimum(inner, row[:, None]), np.zeros((len(row), 1), np.intp)], axis=1)


def _nodes(
    steps: Array, eta: Array, cumulative: Array, row: NDArray[np.intp], bounds: NDArray[np.intp], sign: float
) -> dict[str, Array]:
    """Falls (sign 1) or rises (-1) of every bin (n, num_bins), by differences of running sums."""
    peak = eta.max()
    weight = np.zeros(len(eta))
    weight[1:] = np.maximum(-sign * np.diff(eta), 0.0)
    weight[weight < _NEGLIGIBLE * peak] = 0.0

    def binned(values: Array) -> Array:
        running = np.concatenate([[0.0], np.cumsum(weight * values)])
        return running[bounds[:, :-1]] - running[bounds[:, 1:]]

    amount = binned(np.ones(len(eta)))
    filled = amount > _NEGLIGIBLE * peak
    divisor = np.where(filled, amount, 1.0)
    before = np.concatenate([[0.0], cumulative[:-1]])
    own = np.maximum(eta[row], _FLOOR * peak)[:, None]
    relative = np.maximum(eta / peak, _FLOOR) ** TAIL_POWER
    return {
        "drop": np.where(filled, sign * amount, 0.0),
        "eta": peak * np.where(filled, binned(relative) / divisor, 1.0) ** (1.0 / TAIL_POWER),
        "since": np.maximum(cumulative[row][:, None] - binned(before) / divisor, own),
        "age": np.maximum(steps[row][:, None] - binned(steps) / divisor, 0.0),
    }


def _compact(nodes: dict[str, Array], padding: dict[str, float]) -> dict[str, Array]:
    """Filled nodes to the left, at most as many columns as the fullest row needs, at least one."""
    empty = nodes["drop"] == 0
    order = np.argsort(empty, axis=1, kind="stable")
    width = max(int((~empty).sum(axis=1).max(initial=0)), 1)
    hollow = np.take_along_axis(empty, order, axis=1)[:, :width]
    return {
        name: np.where(hollow, padding[name], np.take_along_axis(values, order, axis=1)[:, :width])
        for name, values in nodes.items()
    }


def _joined(pieces: list[dict[str, Array]], places: NDArray[np.intp]) -> dict[str, Array]:
    """Runs one below the other, widened to one number of nodes, back in the order of the table."""
    width = max(piece["drop"].shape[1] for piece in pieces)
    out = {}
    for name in pieces[0]:
        joined = np.concatenate([piece[name] if name == "S1" else _widened(piece, name, width) for piece in pieces])
        out[name] = np.empty_like(joined)
        out[name][places] = joined
    return out


def _widened(piece: dict[str, Array], name: str, width: int) -> Array:
    """Empty places hold a point of the curve, so that no kernel overflows there, and a fall of zero."""
    extra = ((0, 0), (0, width - piece[name].shape[1]))
    return np.pad(piece[name], extra) if name == "drop" else np.pad(piece[name], extra, mode="edge")
