"""Approach 2 (arXiv 2203.15556, section 3.2): the minimum of every isoFLOP slice, and its power laws over compute.

Shapes: n rows, K usable slices, B draws.

What is done to rows whose compute is not exactly their slice's: nothing is rounded. The slice stands at the geometric
mean of its rows' C, and each loss is first moved to that C along the family of parabolas that the slices themselves
form (``slices.at_common_compute``). A single usable slice cannot say how the loss falls with C; then nothing is moved
and a note says so. The move is treated as known by the resamples.

A parabola's minimum is biased where the surface is not symmetric in ln N: see ``analysis.approaches.bias``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.approaches import slices as cutting
from analysis.approaches.power import PowerLaws, as_lines, excess_scatter, few_points_widening, lines_through, stretched
from analysis.approaches.resample import Resamples, resample
from analysis.approaches.rows import Array, Labels, Refusal, Rows, codes_of, rows_from
from analysis.approaches.slices import Cut, Fit, Slice
from analysis.result import Interval, plain

_CORRECTIONS = 2
_NOTABLE_DRIFT = 1.5
_LOST_DRAWS = 0.05
_ENOUGH_ROWS = 20


@dataclass(frozen=True)
class Options:
    """How slices are cut, fitted and resampled.

    tolerance: largest gap in ln C between neighbours of one slice (0.1: budgets must be at least 11 % apart).
    shape, response: polynomial in ln N of the loss or of its logarithm. delta: None for least squares, Huber's
    threshold in units of the response, or "auto". resampling: "rows" draws rows (whole runs with clusters) with
    replacement inside the slices, "wild" flips the sign of leverage-corrected residuals (of whole runs with
    clusters), "auto" is rows where every slice has at least 20 of them and wild otherwise: fewer rows leave draws of
    few sizes, whose intervals came out 2 to 7 times too wide in simulations of 5 to 14 rows. draws 0: no intervals.
    """

    shape: cutting.Shape = "parabola"
    response: cutting.Response = "loss"
    delta: float | Literal["auto"] | None = None
    tolerance: float = 0.1
    correct_compute: bool = True
    resampling: Literal["auto", "rows", "wild"] = "auto"
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "shape": ("parabola", "cubic"),
            "response": ("loss", "log"),
            "resampling": ("auto", "rows", "wild"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if not (self.delta is None or self.delta == "auto" or (isinstance(self.delta, float) and self.delta > 0)):
            raise ValueError(f"delta is {self.delta!r}; allowed are None (least squares), 'auto' or a positive float")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be positive (0.1 is usual)")
        if self.draws and self.draws < 20:
            raise ValueError(f"{self.draws} draws cannot give a 95 % interval; use 0 for none, or at least 20")


@dataclass(frozen=True)
class IsoflopResult:
    """Every usable slice, every refused one with its reason, and the power laws of the minima.

    laws: None with fewer than two usable slices. sigma: relative spread of the losses about the fitted curve in a
    typical slice (misfit of the shape included). drift: slope over ln C of ln(N* / middle of the size grid);
    drift_factor: what it adds up to from the first to the last slice. notes: what to know before using the numbers.
    """

    laws: PowerLaws | None
    slices: tuple[Slice, ...]
    refusals: tuple[Refusal, ...]
    sigma: float
    drift: Interval
    drift_factor: float
    notes: tuple[str, ...]
    options: Options
    resamples: Resamples | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the resamples stay behind."""
        kept = {k: v for k, v in vars(self).items() if k not in ("resamples", "laws", "slices", "refusals", "options")}
        lists = {"slices": [_plain_slice(s) for s in self.slices], "refusals": [vars(r) for r in self.refusals]}
        laws = {"laws": None if self.laws is None else self.laws.to_dict(), "options": vars(self.options)}
        return plain(laws | lists | kept | {"drift": vars(self.drift)})


def _plain_slice(one: Slice) -> dict[str, Any]:
    return vars(one) | {"size": vars(one.size), "curvature": vars(one.curvature)}


def isoflop(
    size: ArrayLike,
    tokens: ArrayLike,
    loss: ArrayLike,
    compute: ArrayLike | None = None,
    *,
    slices: Sequence[Hashable] | NDArray | None = None,
    clusters: Sequence[Hashable] | NDArray | None = None,
    options: Options | None = None,
) -> IsoflopResult:
    """Approach 2 on rows N (n,), D (n,), loss (n,) in nats and exact FLOPs (n,), 6 N D when not given.

    slices: the slice each row belongs to, found from the compute when not given. clusters: the run of each row.
    Raises ``ValueError`` for columns that are not finite and positive or not of one length; a slice without a usable
    minimum is listed in ``refusals`` and does not stop the others.
    """
    chosen = options or Options()
    rows = rows_from(size, tokens, loss, compute)
    labels, runs = codes_of(slices, len(rows), "slices"), codes_of(clusters, len(rows), "clusters")
    cuts, early = cutting.cut_slices(rows, labels, chosen.tolerance, chosen.shape, chosen.response)
    ys, fits, verdicts, sigma = _fit_and_judge(cuts, rows, chosen)
    good = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Slice)]
    usable = tuple(v for v in verdicts if isinstance(v, Slice))
    late = [v for v in verdicts if isinstance(v, Refusal)]
    refusals = tuple(sorted([*early, *late], key=lambda r: r.compute))
    notes = _correction_notes(usable, chosen)
    if len(usable) < 2:
        notes += (
            f"no power law: {len(usable)} of {len(cuts) + len(early)} slices have a usable minimum, two are needed",
        )
        unknown = Interval(math.nan, math.nan, math.nan, False, "fewer than two usable slices")
        return IsoflopResult(None, usable, refusals, sigma, unknown, math.nan, notes, chosen)
    kept = [cuts[i] for i in good], [ys[i] for i in good], [fits[i] for i in good]
    drawn = _resampled(*kept, runs, chosen) if len(usable) > 2 and chosen.draws else None
    laws = _laws(usable, drawn)
    drift, factor = _drift(usable, laws, drawn)
    notes += _notes(usable, laws, drift, factor, drawn)
    return IsoflopResult(laws, usable, refusals, sigma, drift, factor, notes, chosen, drawn)


def _fit_and_judge(
    cuts: list[Cut], rows: Rows, options: Options
) -> tuple[list[Array], list[Fit], list[Slice | Refusal], float]:
    """Responses, fits and verdicts of all slices, after moving the losses to the slices' compute where possible."""
    ys = [cut.y for cut in cuts]
    for left in range(_CORRECTIONS, -1, -1):
        fits = cutting.fit_slices(cuts, ys, options.shape, options.delta)
        noise, sigma = cutting.noise_by_slice(cuts, ys, fits)
        verdicts = [
            cutting.judge(cut, fit, y, rows, one, options.response)
            for cut, fit, y, one in zip(cuts, fits, ys, noise, strict=True)
        ]
        usable = [v for v in verdicts if isinstance(v, Slice)]
        if not (left and options.correct_compute and len(usable) >= 2):
            break
        ys = cutting.at_common_compute(cuts, usable, options.response)
    return ys, fits, verdicts, sigma


def _resampled(cuts: list[Cut], ys: list[Array], fits: list[Fit], runs: Labels | None, options: Options) -> Resamples:
    method = options.resampling
    if method == "auto":
        method = "rows" if min(len(cut.z) for cut in cuts) >= _ENOUGH_ROWS else "wild"
    return resample(cuts, ys, fits, runs, method, options.response, options.draws, options.seed)


def slice_weights(usable: Sequence[Slice]) -> Array:
    """Inverse variances of ln N*, (K,)."""
    return np.array([one.log_size_error**-2 for one in usable])


def _laws(usable: tuple[Slice, ...], drawn: Resamples | None) -> PowerLaws:
    log_c = np.log([one.compute for one in usable])
    weights = slice_weights(usable)
    values = np.log([[s.size.value for s in usable], [s.tokens for s in usable], [s.loss for s in usable]])
    return power_laws(log_c, values, weights, drawn)


def power_laws(log_c: Array, values: Array, weights: Array, drawn: Resamples | None) -> PowerLaws:
    """Lines through ln N*, ln D*, ln L* (3, K), and through the same of every draw with its lost minima left out.

    weights (K,): inverse variances of ln N*. Resamples know the noise inside the slices only; where the minima lie
    further from their line than that explains, intervals are stretched by the excess.
    """
    num = len(log_c)
    center = float(np.average(log_c, weights=weights))
    lines = lines_through(log_c, values, weights, center)
    span = float(np.exp(log_c.min())), float(np.exp(log_c.max()))
    scatter = excess_scatter(log_c, values[0], weights**-0.5, lines[0], center)
    if drawn is None:
        why = "two slices leave no freedom for an interval" if num == 2 else "no resamples were drawn"
        return PowerLaws(center, span, num, as_lines(lines), 1.0, "none", why, scatter)
    many = lines_through(log_c, drawn.values, (weights * drawn.valid)[:, None, :], center)
    many = many[np.isfinite(many).all(axis=(1, 2))]
    method = f"{drawn.method}, percentile, stretched by t({num - 2})/1.96 for {num} slices"
    method += f" and by {scatter:.2g} for their scatter about the line" if scatter > 1 else ""
    why = "" if len(many) >= 20 else "nearly all resamples lost their minima"
    return PowerLaws(center, span, num, as_lines(lines), few_points_widening(num) * scatter, method, why, scatter, many)


def _drift(usable: tuple[Slice, ...], laws: PowerLaws, drawn: Resamples | None) -> tuple[Interval, float]:
    """Slope of ln(N* / grid middle) over ln C: the exponent a less that of the grid's middle."""
    log_c = np.log([one.compute for one in usable])
    middle = np.array([math.log(one.size.value) - one.off_centre for one in usable])
    own = float(lines_through(log_c, middle, slice_weights(usable), laws.center)[1])
    slope = laws.lines[0][1] - own
    draws = None if drawn is None or laws.draws is None else laws.draws[:, 0, 1] - own
    return stretched(slope, draws, laws.widening, laws.why), math.exp(slope * float(np.ptp(log_c)))


def _correction_notes(usable: Sequence[Slice], options: Options) -> tuple[str, ...]:
    widest = max((one.spread for one in usable), default=0.0)
    if widest < 1e-6:
        return ()
    percent = 100 * math.expm1(widest)
    if options.correct_compute and len(usable) >= 2:
        moved = max(one.moved for one in usable)
        return (
            f"compute inside a slice differs by up to {percent:.2g} %: losses moved to the slice's compute, "
            f"by at most {moved:.2g} nats",
        )
    return (f"compute inside a slice differs by up to {percent:.2g} % and losses were not moved to a common compute",)


def _notes(
    usable: Sequence[Slice], laws: PowerLaws, drift: Interval, factor: float, drawn: Resamples | None
) -> tuple[str, ...]:
    notes = []
    off = [one for one in usable if abs(one.off_centre) > 0.5 * one.half_width]
    if off:
        budgets = ", ".join(f"{one.compute:.3g}" for one in off)
        notes.append(f"the minimum lies in the outer quarter of the size grid at C = {budgets}: centre the grid there")
    known = drift.known and (drift.low > 0 or drift.high < 0)
    if known and abs(math.log(factor)) > math.log(_NOTABLE_DRIFT):
        notes.append(
            f"the size grid drifts: from the first to the last slice N* moves by a factor of {factor:.2g} against its "
            "middle; a and b are then biased unless the surface is symmetric in ln N"
        )
    if laws.scatter > 1:
        notes.append(
            f"the minima scatter {laws.scatter:.2g} times more about the power law than the noise inside the slices "
            "explains: no straight line, or slices that are not comparable"
        )
    if drawn is not None and drawn.lost > _LOST_DRAWS:
        notes.append(f"{100 * drawn.lost:.0f} % of the resampled minima left the grid or vanished and were left out")
    if len(usable) == 2:
        notes.append("two usable slices: exponents without intervals")
    return tuple(notes)
