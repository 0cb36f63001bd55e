"""The result of a fit: frozen, float64, written to JSON without NaN and read back equal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.laws.catalogue import WITH_DOMAINS, law_named

VERSION = "analysis-2"
LAW_OF_FORM = {"free": "chinchilla", "known": "chinchilla_excess"}
STATUSES = ("converged", "at_bound", "not_identified", "failed")


def law_behind(form: str, domains: Sequence[str] = ()) -> Law:
    """The law of a form; ``domains`` are for the laws of mixtures and of arms and left out for others. Raises
    ``ValueError`` for an unknown name."""
    name = LAW_OF_FORM.get(form, form)
    return law_named(name, (domains or None) if name in WITH_DOMAINS else None)


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; ``known`` is False when the data do not identify it, ``why`` says why."""

    value: float
    low: float
    high: float
    known: bool = True
    why: str = ""


@dataclass(frozen=True)
class Holdout:
    """Errors of a fit that never saw the rows it predicts, in per cent of the observed loss."""

    what: str
    num_rows: int
    mean_error: float
    max_error: float
    bias: float
    observed: tuple[float, ...]
    predicted: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class FitResult:
    """One law fitted to one sample.

    form: "free" (Chinchilla with E fitted), "known" (the law of L - E with the known entropy), else the law's name.
    params: natural units, ``names`` of the law in order. theta, centre: working parameters, for prediction. fixed:
    parameters that were given. objective_value: the sum over rows; delta None for penalties without one. ranges:
    smallest and largest value of every column that was fitted. ci: 95 % by name, missing without a bootstrap.
    draws: (B, P) working parameters of the resamples; widening: factor by which deviations of a draw are stretched.
    noise: standard deviations shared by a run and of a single row (of ln L, or of L for laws that may be negative).
    covariance: cluster-robust sandwich of theta (P, P), or None where the curvature is singular.
    """

    form: str
    law: str
    group: str
    target: str
    params: dict[str, float]
    theta: Array
    centre: dict[str, float]
    fixed: dict[str, float]
    domains: tuple[str, ...]
    known_entropy: float | None
    entropy_is_added: bool
    objective: str
    objective_value: float
    delta: float | None
    delta_rule: str
    tilt: float
    sigma: float
    status: str
    unidentified: dict[str, str]
    condition: float
    num_optima: int
    gap: float | None
    gradient_norm: float
    covariance: Array | None
    n_rows: int
    n_clusters: int
    n_sizes: int | None
    r2_log_loss: float
    r2_log_excess: float | None
    r2_note: str
    ranges: dict[str, tuple[float, float]]
    cost: tuple[float, float, float] | None
    min_excess_ratio: float | None
    digest: str
    version: str
    seconds_fit: float
    fitted: tuple[float, ...] = ()
    excluded: tuple[str, ...] = ()
    ci: dict[str, Interval] = field(default_factory=dict)
    ci_method: str = "none"
    widening: float = 1.0
    draws: Array | None = None
    seconds_bootstrap: float = 0.0
    derived: dict[str, Interval] = field(default_factory=dict)
    sandwich_ci: dict[str, Interval] = field(default_factory=dict)
    profile_ci: dict[str, Interval] = field(default_factory=dict)
    noise: tuple[float, float] | None = None
    holdouts: dict[str, Holdout] = field(default_factory=dict)

    @property
    def shape(self) -> Law:
        """The law object of this fit."""
        law = law_behind(self.form, self.domains)
        return law.pinned(tuple(self.fixed)) if self.fixed else law

    @property
    def size_range(self) -> tuple[float, float]:
        """Smallest and largest N fitted."""
        return self.ranges["N"]

    @property
    def tokens_range(self) -> tuple[float, float]:
        """Smallest and largest D fitted."""
        return self.ranges["D"]

    @property
    def compute_range(self) -> tuple[float, float]:
        """Smallest and largest C fitted."""
        return self.ranges["C"]

    def respond(self, columns: Mapping[str, Array], theta: Array | None = None) -> Array:
        """Response (B, n) of any law at ``columns`` by symbol, for ``theta`` (B, P) or the fit itself (B = 1)."""
        return self.shape.loss(self.theta[None] if theta is None else theta, columns, self.centre)

    def predict(self, size: Array | float, tokens: Array | float, entropy: float | Array | None = None) -> Array:
        """Loss (n,) in nats. ``entropy`` replaces the mean known entropy of the fitted rows (form "known" only)."""
        return self.predict_draws(self.theta[None], size, tokens, entropy)[0]

    def predict_draws(
        self, theta: Array, size: Array | float, tokens: Array | float, entropy: float | Array | None = None
    ) -> Array:
        """Loss (B, n) for working parameters (B, P)."""
        sizes, many = np.broadcast_arrays(np.atleast_1d(np.asarray(size, float)), np.asarray(tokens, float))
        return self.respond({"N": sizes, "D": many}, theta) + self.added_entropy(entropy)

    def added_entropy(self, entropy: float | Array | None = None) -> float | Array:
        """What to add to the law to get a loss: the known entropy for form "known", otherwise 0."""
        if not self.entropy_is_added:
            return 0.0
        chosen = self.known_entropy if entropy is None else entropy
        assert chosen is not None, "form known is only fitted where the entropy is known"
        return chosen

    def band(self, size: Array, tokens: Array) -> tuple[Array, Array]:
        """95 % band (low, high) of the fitted loss at each point, from the widened draws of ln(loss)."""
        if self.draws is None:
            raise ValueError(f"the fit of {self.group}/{self.target} has no bootstrap draws; fit with --bootstrap > 0")
        center = np.log(self.predict(size, tokens))
        spread = self.widening * (np.log(self.predict_draws(self.draws, size, tokens)) - center)
        low, high = np.percentile(spread, [2.5, 97.5], axis=0)
        return np.exp(center + low), np.exp(center + high)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities become null."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitResult:
        """The inverse of ``to_dict``. Raises ``ValueError`` naming fields that are missing or unknown."""
        names = {f.name for f in fields(cls)}
        if unknown := set(values) ^ names & (set(values) | {f for f in names if f in _REQUIRED}):
            raise ValueError(f"not a fit of {VERSION}: fields {sorted(unknown)} do not match; fit again")
        data = dict(values)
        for name in ("theta", "covariance", "draws"):
            data[name] = None if data[name] is None else np.array(data[name], dtype=float)
        for name in ("cost", "fitted", "excluded", "domains", "noise"):
            data[name] = None if data[name] is None else tuple(data[name])
        data["ranges"] = {key: tuple(span) for key, span in data["ranges"].items()}
        for name in ("ci", "derived", "sandwich_ci", "profile_ci"):
            data[name] = {key: Interval(**_numbers(item)) for key, item in data[name].items()}
        data["holdouts"] = {key: _holdout(item) for key, item in data["holdouts"].items()}
        data["condition"] = math.inf if data["condition"] is None else data["condition"]
        return cls(**data)


_REQUIRED = tuple(f.name for f in fields(FitResult))


def _numbers(item: Mapping[str, Any]) -> dict[str, Any]:
    return {k: math.nan if v is None else v for k, v in item.items()}


def _holdout(item: Mapping[str, Any]) -> Holdout:
    return Holdout(**{**item, "observed": tuple(item["observed"]), "predicted": tuple(item["predicted"])})


def plain(value: Any) -> Any:
    """Arrays to lists, tuples to lists, numpy numbers to Python ones, non-finite numbers to None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write through a neighbour and a rename, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    staged.replace(path)
