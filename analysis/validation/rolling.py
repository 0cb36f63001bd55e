"""What predictions beyond the fitted rows were worth, and what that allows a new prediction to claim.

The records of ``validate.rolling``: scores, cuts, error against distance; all plain in JSON and read back equal. From
them ``validated_range`` finds how far predictions stayed within a tolerance, and ``claim_flag`` says of one value
whether it lies inside the data, within what was tested, or beyond it (then it is refused).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from analysis.engine.jet import Array
from analysis.result import FitResult, plain

DISTANCES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
TOLERANCE = 2.0
KINDS = ("inside", "validated", "refused")
_EDGE = 1e-9


@dataclass(frozen=True)
class Score:
    """How good predictions were. mae: mean |predicted - observed| in the unit of the response. mean_error, max_error,
    bias: per cent of the observed value (bias signed, positive = predicted too high).

    r2: 1 - sum (ln observed - ln predicted)^2 / sum (ln observed - its mean)^2 over the predicted rows; None when they
    do not vary. It compares with the mean of the rows that are predicted, so it can be negative.
    """

    num_rows: int
    mae: float
    mean_error: float
    max_error: float
    bias: float
    r2: float | None


@dataclass(frozen=True)
class Cut:
    """One fit to the rows with ``column`` <= ``value``, and its predictions for those above, one entry per row.

    value: largest fitted value. distance: predicted row's value / ``value``. error: per cent of the observed.
    num_shared: predicted rows whose run also has a fitted row; their noise is shared, so their errors flatter.
    status: "converged", "at_bound" or "failed" of the fit.
    """

    column: str
    value: float
    num_fitted: int
    num_predicted: int
    num_shared: int
    status: str
    score: Score
    run_ids: tuple[str, ...]
    distance: tuple[float, ...]
    observed: tuple[float, ...]
    predicted: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class DistanceBin:
    """Predictions at distances in (above, up_to]."""

    above: float
    up_to: float
    score: Score


@dataclass(frozen=True)
class Rolling:
    """All cuts of one law and sample. skipped: cuts that could not be fitted, with the reason, one sentence each."""

    law: str
    group: str
    target: str
    objective: str
    delta_rule: str
    cuts: tuple[Cut, ...]
    skipped: tuple[str, ...]
    seconds: float

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns with at least one cut."""
        return tuple(dict.fromkeys(cut.column for cut in self.cuts))

    def by(self, column: str) -> tuple[Cut, ...]:
        """The cuts of one column, from the lowest to the highest."""
        return tuple(cut for cut in self.cuts if cut.column == column)

    def score(self, column: str) -> Score | None:
        """Over all predictions of one column (a row counts once for every cut that predicts it); None without cuts."""
        observed, predicted = self._pooled("observed", column), self._pooled("predicted", column)
        return score(observed, predicted) if len(observed) else None

    def against_distance(self, column: str) -> list[DistanceBin]:
        """Error against distance: the bins of ``DISTANCES`` that hold predictions, nearest first."""
        observed, predicted, distance = (self._pooled(n, column) for n in ("observed", "predicted", "distance"))
        edges = (*DISTANCES, np.inf)
        found = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            inside = (distance > low) & (distance <= high)
            if inside.any():
                furthest = float(distance[inside].max())
                found.append(DistanceBin(low, min(high, furthest), score(observed[inside], predicted[inside])))
        return found

    def _pooled(self, name: str, column: str) -> Array:
        return np.array([value for cut in self.by(column) for value in getattr(cut, name)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the cuts, and for every column its score and its error against distance."""
        summary: dict[str, Any] = {}
        for column in self.columns:
            total, bins = self.score(column), self.against_distance(column)
            summary[column] = {"score": total and asdict(total), "against_distance": list(map(asdict, bins))}
        out: dict[str, Any] = plain(asdict(self) | {"summary": summary})
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rolling:
        """The inverse of ``to_dict``. Raises ``ValueError`` naming a missing field."""
        if missing := [f.name for f in fields(cls) if f.name not in values]:
            raise ValueError(f"not a rolling hold-out: field {missing[0]} is missing; run it again")
        cuts = []
        for item in values["cuts"]:
            lists = {k: tuple(v) for k, v in item.items() if isinstance(v, (list, tuple))}
            cuts.append(Cut(**{**item, **lists, "score": Score(**item["score"])}))
        kept = {f.name: values[f.name] for f in fields(cls)}
        return cls(**{**kept, "cuts": tuple(cuts), "skipped": tuple(values["skipped"])})


def score(observed: Array, predicted: Array) -> Score:
    """The ``Score`` of predictions (m,) of positive observations (m,)."""
    error = 100.0 * (predicted / observed - 1.0)
    log = np.log(observed)
    total = float(np.sum((log - log.mean()) ** 2))
    with np.errstate(invalid="ignore"):
        missed = float(np.sum((log - np.log(predicted)) ** 2))
    return Score(
        num_rows=len(observed),
        mae=float(np.mean(np.abs(predicted - observed))),
        mean_error=float(np.mean(np.abs(error))),
        max_error=float(np.max(np.abs(error))),
        bias=float(np.mean(error)),
        r2=1.0 - missed / total if total > 0 and np.isfinite(missed) else None,
    )


@dataclass(frozen=True)
class Reach:
    """How far beyond the fitted rows predictions stayed within ``tolerance`` (per cent, mean of a distance bin).

    factor: the furthest distance that passed, 1 when not even the nearest bin did. tested: the furthest distance tried.
    error: largest mean error (per cent) of the bins up to ``factor``, None when there are none. shared: part of all
    predicted rows whose run was fitted too (checkpoints, branches); their noise is shared, so their errors flatter.
    """

    column: str
    factor: float
    tested: float
    error: float | None
    num_rows: int
    shared: float
    tolerance: float


def validated_range(rolled: Rolling, tolerance: float = TOLERANCE) -> dict[str, Reach]:
    """For every column the factor beyond the fitted range up to which every bin of distances, nearest first, has a
    mean absolute error of at most ``tolerance`` per cent. Raises ``ValueError`` for a tolerance that is not positive.

    The error contains the noise of the predicted row itself, so a tolerance below the noise validates nothing.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance!r}; it is a positive number of per cent, such as 2")
    found = {}
    for column in rolled.columns:
        bins = rolled.against_distance(column)
        passed = next((i for i, one in enumerate(bins) if one.score.mean_error > tolerance), len(bins))
        good = bins[:passed]
        found[column] = Reach(
            column=column,
            factor=good[-1].up_to if good else 1.0,
            tested=bins[-1].up_to,
            error=max(one.score.mean_error for one in good) if good else None,
            num_rows=sum(one.score.num_rows for one in good),
            shared=sum(cut.num_shared for cut in rolled.by(column)) / sum(b.score.num_rows for b in bins),
            tolerance=tolerance,
        )
    return found


@dataclass(frozen=True)
class Claim:
    """What may be said of a prediction at one value of one column. kind: one of ``KINDS``.

    asked: factor beyond the fitted range (1 inside it). tested: factor that the hold-outs tried (None: no hold-out).
    error: per cent, of hold-outs as far away as the value (kind "validated" only). text: the same in words.
    """

    column: str
    value: float
    kind: str
    asked: float
    tested: float | None
    error: float | None
    text: str

    @property
    def refused(self) -> bool:
        """True when no hold-out supports the prediction."""
        return self.kind == "refused"


def claim_flag(
    result: FitResult, rolled: Rolling | None, column: str, value: float, tolerance: float = TOLERANCE
) -> Claim:
    """Whether a prediction of ``result`` at ``column`` = ``value`` is inside the data, validated, or refused.

    rolled: hold-outs of the same law and rows, or None when there were none (every extrapolation is then refused).
    Hold-outs test upwards only, so values below the fitted range are refused as well. Raises ``ValueError`` for a
    column that the fit has not seen, a value that is not positive, or hold-outs of another law or sample.
    """
    if column not in result.ranges:
        raise ValueError(f"the fit has no column {column!r}; it has {', '.join(result.ranges)}")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{column} is {value!r}; it must be a positive number")
    if rolled is not None and (rolled.law, rolled.group, rolled.target) != (result.law, result.group, result.target):
        raise ValueError(
            f"the hold-outs are of {rolled.law} on {rolled.group}/{rolled.target}, the fit is of {result.law} on "
            f"{result.group}/{result.target}; roll the same law over the same rows"
        )
    low, high = result.ranges[column]
    if low * (1 - _EDGE) <= value <= high * (1 + _EDGE):
        return Claim(column, value, "inside", 1.0, None, None, "inside the data")
    if value < low:
        text = f"{low / value:.3g}-fold below the data, where no hold-out looks: refused"
        return Claim(column, value, "refused", low / value, None, None, text)
    asked = value / high
    reach = None if rolled is None else validated_range(rolled, tolerance).get(column)
    if rolled is None or reach is None:
        text = f"beyond what was validated ({asked:.3g}-fold asked, nothing tested): refused"
        return Claim(column, value, "refused", asked, None, None, text)
    if asked <= reach.factor:
        error = next(b.score.mean_error for b in rolled.against_distance(column) if asked <= b.up_to)
        text = f"extrapolates {asked:.3g}-fold, validated to {reach.factor:.3g}-fold with {error:.2g} % error"
        text += f", {100 * reach.shared:.0f} % of it on runs that were fitted too" if reach.shared >= 0.5 else ""
        return Claim(column, value, "validated", asked, reach.tested, error, text)
    if asked <= reach.tested:
        within = f"errors stayed within {tolerance:g} % up to {reach.factor:.3g}-fold"
        text = f"beyond what was validated ({asked:.3g}-fold asked, {within}): refused"
    else:
        text = f"beyond what was validated ({asked:.3g}-fold asked, {reach.tested:.3g}-fold tested): refused"
    return Claim(column, value, "refused", asked, reach.tested, None, text)


def claims(
    result: FitResult, rolled: Rolling | None, values: Mapping[str, float], tolerance: float = TOLERANCE
) -> tuple[Claim, ...]:
    """The claim of every column in ``values`` that the fit has seen, the weakest first."""
    found = [claim_flag(result, rolled, c, float(v), tolerance) for c, v in values.items() if c in result.ranges]
    return tuple(sorted(found, key=lambda claim: (-KINDS.index(claim.kind), -claim.asked)))
