"""What a fit minimises: a sum over rows of a penalty of ln L_fitted - ln L_observed, or of L_fitted - L_observed.

huber   r^2 / 2 within delta, delta (|r| - delta / 2) beyond (sum; arXiv 2203.15556 uses log and delta = 1e-3)
mse     r^2
lad     |r|
tilt    every penalty times ``tilt`` where the fit lies ABOVE the observation: an untuned run can only lie above
        the law, so tilt > 1 pulls the fit towards the lower envelope (labelled, never a default)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.engine.jet import Array

OBJECTIVES = ("log-huber", "log-mse", "log-lad", "lin-huber", "lin-mse", "lin-lad")
CHINCHILLA_DELTA = 1e-3


@dataclass(frozen=True)
class Objective:
    """space "log" or "lin"; penalty "huber", "mse" or "lad"; delta a float, or (R, 1) for one per problem."""

    space: str = "log"
    penalty: str = "huber"
    delta: Any = CHINCHILLA_DELTA
    tilt: float = 1.0

    @property
    def name(self) -> str:
        """As the command line says it."""
        return f"{self.space}-{self.penalty}"

    @property
    def is_log(self) -> bool:
        """True where residuals are of logarithms."""
        return self.space == "log"

    def value(self, residual: Array) -> Array:
        """Penalty of every residual (R, n)."""
        size = np.abs(residual)
        match self.penalty:
            case "mse":
                out = residual * residual
            case "lad":
                out = size
            case _:
                inside = np.minimum(size, self.delta)
                out = inside * (size - 0.5 * inside)
        return self._tilted(residual, out)

    def slopes(self, residual: Array) -> tuple[Array, Array, Array]:
        """(first derivative, second derivative, reweighted-least-squares weight) of the penalty, each (R, n)."""
        match self.penalty:
            case "mse":
                two = np.full_like(residual, 2.0)
                found = 2.0 * residual, two, two
            case "lad":
                size = np.abs(residual)
                found = np.sign(residual), np.zeros_like(residual), 1.0 / np.maximum(size, 1e-12)
            case _:
                size = np.abs(residual)
                slope = np.clip(residual, -self.delta, self.delta)
                inner = (size <= self.delta).astype(float)
                found = slope, inner, np.minimum(1.0, self.delta / np.maximum(size, 1e-300))
        if self.tilt == 1.0:
            return found
        first, second, weight = found
        return self._tilted(residual, first), self._tilted(residual, second), self._tilted(residual, weight)

    def _tilted(self, residual: Array, values: Array) -> Array:
        return values if self.tilt == 1.0 else values * np.where(residual > 0, self.tilt, 1.0)


def objective_named(name: str, delta: float = CHINCHILLA_DELTA, tilt: float = 1.0) -> Objective:
    """The objective a command line or a saved fit names. Raises ``ValueError`` listing the names."""
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; allowed are {', '.join(OBJECTIVES)}")
    space, penalty = name.split("-")
    return Objective(space, penalty, delta, tilt)
