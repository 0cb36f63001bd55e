"""Loss curves under any learning-rate schedule, so that partial runs and unfinished anneals count.

The columns come from whole curves (``rows.schedules.columns_from_curves``): S1 (n,), the summed learning rate, and
for every row the falls of the rate before it, (n, K) arrays drop, eta, since and age. Empty places have drop = 0.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from analysis.engine.law import Exponent, Offset, Param, Scale, law_from
from analysis.rows.schedules import columns_from_curves

__all__ = ["annealing", "columns_from_curves", "multi_power"]

MEMORY = Param(2.0, 1e8, log=True, search=(20.0, 2e4), exponent=True)
SPEED = Param(0.0, np.inf, log=True, search=(0.1, 1e5))
SHAPE = Param(1e-3, 30.0, search=(0.05, 5.0), exponent=True)
POWER = Param(1e-3, 3.0, search=(0.1, 1.5), exponent=True)


@law_from(
    centre="A: alpha S1",
    source="arXiv 2408.11029",
    derived=lambda params: {"lambda": 1.0 - 1.0 / params["memory"]},
)
def annealing(
    S1: Any, drop: Any, age: Any, *,
    L0: Offset, A: Scale, alpha: Exponent, C: Scale, memory: Annotated[Any, MEMORY],
) -> Any:  # fmt: skip
    """L = L0 + A / S1^alpha - C S2, S2 = sum_k drop_k (1 - lambda^(age_k + 1)) / (1 - lambda), lambda = 1 - 1 / memory

    S2 is the paper's double sum of (eta_{k-1} - eta_k) lambda^(i - k) over steps k <= i, summed over i in closed form.
    memory (steps) replaces lambda, which is all but 1, as the number that is searched and optimised.
    """
    gone = np.log1p(-(memory**-1)) * (age + 1.0)
    area = (-drop * np.expm1(gone)).sum(axis=-1, keepdims=True) * memory
    return (L0 + A * S1[:, None] ** -alpha - C * area)[..., 0]


@law_from(centre="A: alpha S1, C: gamma eta", source="arXiv 2503.12811")
def multi_power(
    S1: Any, drop: Any, eta: Any, since: Any, *,
    L0: Offset, A: Scale, alpha: Exponent, B: Scale, C: Annotated[Any, SPEED],
    beta: Annotated[Any, SHAPE], gamma: Annotated[Any, POWER],
) -> Any:  # fmt: skip
    """L = L0 + A / S1^alpha - B sum_k drop_k (1 - (1 + C eta_k^-gamma since_k)^-beta)

    S1 includes the warm-up (the paper's S_1 + S_W). Each fall of the learning rate lowers the loss by a power law of
    the learning rate summed since then; with little data C, beta and gamma trade off against each other.
    """
    grown = np.log1p(C * (eta**-gamma * since))
    change = (-drop * np.expm1(-beta * grown)).sum(axis=-1, keepdims=True)
    return (L0 + A * S1[:, None] ** -alpha - B * change)[..., 0]
