"""What pictures are given: checked arrays, curves with a band, and which part of a curve was tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from analysis.engine.jet import Array
from analysis.plots.style import BAND_ALPHA

Span = tuple[float, float]


def columns(positive: Sequence[str] = (), /, **values: ArrayLike) -> dict[str, Array]:
    """Columns of equal length as float arrays (n,), without the rows in which one is not finite.

    positive: names that go on a logarithmic axis; rows with zero or less there are left out too. The key ``left_out``
    holds the rows left out. Raises ``ValueError`` naming a column that is not one-dimensional or has another length.
    """
    found = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    first = next(iter(found))
    for name, value in found.items():
        if value.ndim != 1:
            raise ValueError(f"{name} has shape {value.shape}; give one number per point")
        if len(value) != len(found[first]):
            raise ValueError(f"{name} has {len(value)} values and {first} {len(found[first])}; give one each per point")
    keep = np.all([np.isfinite(v) for v in found.values()], axis=0)
    keep &= np.all([found[name] > 0 for name in positive], axis=0)
    return {name: value[keep] for name, value in found.items()} | {"left_out": np.flatnonzero(~keep)}


def as_arrays(one: Any, *names: str) -> None:
    """Turn these fields of a frozen dataclass into float arrays; those that are None stay so."""
    for name in names:
        if getattr(one, name) is not None:
            object.__setattr__(one, name, np.asarray(getattr(one, name), dtype=float))


def left_out_text(count: int, total: int, why: str = "without a finite value") -> str:
    """A remark on points that are not shown; empty when there are none."""
    return f"{count} of {total} points {why} not shown." if count else ""


@dataclass(frozen=True)
class Curve:
    """A curve and, where known, its 95 % band; NaN leaves a gap. All arrays (k,) are ordered by ``x``.

    Raises ``ValueError`` when the arrays differ in length, or only one end of the band is given.
    """

    x: Array
    value: Array
    low: Array | None = None
    high: Array | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"the band has only its {'low' if self.high is None else 'high'} end; give both or none")
        names = ("x", "value", "low", "high")
        as_arrays(self, *names)
        for name in names:
            values = getattr(self, name)
            if values is not None and (values.shape != self.x.shape or values.ndim != 1):
                raise ValueError(f"{name} has shape {values.shape} and x {self.x.shape}; give one number per point")

    def minus(self, floor: float) -> Curve:
        """The curve above ``floor``; what is not above it becomes a gap."""
        parts = [self.value, self.low, self.high]
        value, low, high = (None if p is None else np.where(p > floor, p - floor, np.nan) for p in parts)
        assert value is not None
        # A band whose lower end lies under the floor still reaches down to the bottom of a logarithmic axis.
        return Curve(self.x, value, None if low is None else np.nan_to_num(low, nan=1e-12), high)

    def part(self, keep: Span) -> Curve:
        """The piece with x in ``keep``, ends interpolated in logs of x."""
        low, high = max(keep[0], self.x[0]), min(keep[1], self.x[-1])
        if not low <= high:
            return Curve(*(np.empty(0) for _ in range(2)))
        inside = self.x[(self.x > low) & (self.x < high)]
        at = np.unique(np.concatenate([[low], inside, [high]]))
        pieces = [None if y is None else np.interp(np.log(at), np.log(self.x), y) for y in self._values()]
        return Curve(at, *pieces)  # type: ignore[arg-type]

    def _values(self) -> tuple[Array | None, ...]:
        return self.value, self.low, self.high


def draw_curve(panel: Axes, curve: Curve, colour: Any, tested: Span | None = None, width: float = 2.0) -> None:
    """The curve solid and its band filled where it was tested; dashed and hatched beyond (x positive)."""
    tested = (0.0, np.inf) if tested is None else tested
    if not len(curve.x):
        return
    parts = [((0.0, tested[0]), False), (tested, True), ((tested[1], np.inf), False)]
    for span, inside in parts:
        piece = curve.part(span)
        if len(piece.x) < 2:
            continue
        panel.plot(piece.x, piece.value, color=colour, lw=width, ls="-" if inside else (0, (4, 2)), zorder=3)
        if piece.low is not None and piece.high is not None:
            draw_band(panel, piece.x, piece.low, piece.high, colour, inside)


def draw_band(panel: Axes, x: Array, low: Array, high: Array, colour: Any, tested: bool = True) -> None:
    """A 95 % band: filled where tested, hatched where not."""
    if tested:
        panel.fill_between(x, low, high, color=colour, alpha=BAND_ALPHA, lw=0, zorder=2)
    else:
        panel.fill_between(x, low, high, facecolor="none", edgecolor=colour, hatch="/////", alpha=0.5, lw=0, zorder=2)
        for end in (low, high):
            panel.plot(x, end, color=colour, lw=0.7, alpha=0.6, zorder=2)


def tested_entries(colour: Any, what: str) -> list[dict[str, Any]]:
    """Legend entries of ``draw_curve``."""
    return [
        {"color": colour, "lw": 2, "label": what},
        {"color": colour, "lw": 2, "ls": (0, (3, 1.5)), "label": "beyond the tested range"},
        {"color": colour, "lw": 8, "alpha": 0.25, "label": "95 % band"},
    ]
