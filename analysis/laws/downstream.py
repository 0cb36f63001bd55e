"""From loss to benchmark scores: the second stage of a two-stage prediction, and the chain of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Columns, Law, Param, Scale, Signed, law_from

MIDPOINT = Param(0.0, np.inf, search=(0.2, 6.0))
STEEPNESS = Param(0.0, np.inf, log=True, search=(0.2, 50.0), exponent=True)


@law_from(source="arXiv 2412.04403, step 2", positive=False)
def accuracy_sigmoid(
    L: Any, *, a: Signed, k: Annotated[Any, STEEPNESS], L0: Annotated[Any, MIDPOINT], b: Signed
) -> Any:
    """acc = b + a / (1 + exp(-k (L - L0)))

    L is the task loss (or bits per byte of the right answers). k is taken positive, so a is negative, b is the score
    at low loss and b + a the score of guessing; the paper leaves the sign of k open, which gives two equal optima.
    Models that all guess, or all succeed, leave a, k and L0 undetermined.
    """
    return b + 0.5 * a * (1.0 + np.tanh(0.5 * k * (L - L0)))


@law_from(source="arXiv 2403.08540, equation 5", positive=False)
def error_exponential(L: Any, *, epsilon: Signed, k: Scale, gamma: Annotated[Any, STEEPNESS]) -> Any:
    """err = epsilon - k exp(-gamma L)

    Average error against loss: epsilon is the error at high loss. Published for averages over many tasks; single tasks
    scatter around it.
    """
    return epsilon - k * np.exp(-gamma * L)


def value_at(
    law: Law, params: Mapping[str, Array | float], columns: Columns, centre: Mapping[str, float] | None = None
) -> Array:
    """Response (R, n) of ``law`` for natural parameters, each a number or (R,), at ``columns`` (n,) by name.

    centre: ln of the centring columns' geometric means, needed by laws whose parameters are meant there
    (``interaction``). Raises ``ValueError`` naming a missing parameter or column.
    """
    if missing := [name for name in law.names if name not in params]:
        raise ValueError(f"law {law.name}: parameter {missing[0]} is missing; it needs {', '.join(law.names)}")
    if missing := [name for name in law.columns if name not in columns]:
        raise ValueError(f"law {law.name}: column {missing[0]} is missing; it needs {', '.join(law.columns)}")
    natural = np.stack(np.broadcast_arrays(*(np.atleast_1d(params[name]) for name in law.names)), axis=1)
    centre = dict(centre or {})
    return law.loss(law.to_working(natural, centre), columns, centre)


def chained(
    first: Law, first_params: Mapping[str, Array | float], second: Law, second_params: Mapping[str, Array | float],
    columns: Columns, centre: Mapping[str, float] | None = None,
) -> Array:  # fmt: skip
    """Score (R, n): ``first`` predicts the loss at ``columns``, ``second``, a law of the one column L, the score.

    Parameters are natural, numbers or (R,): draws of both stages give draws of the score. The two fits must use the
    same loss. Raises ``ValueError`` when ``second`` is not a law of L, and as ``value_at`` does.
    """
    if second.columns != ("L",):
        raise ValueError(
            f"law {second.name} is a law of {', '.join(second.columns)}; the second stage must be a law of L, such as "
            "accuracy_sigmoid or error_exponential"
        )
    loss = value_at(first, first_params, columns, centre)
    if missing := [name for name in second.names if name not in second_params]:
        raise ValueError(f"law {second.name}: parameter {missing[0]} is missing; it needs {', '.join(second.names)}")
    score = second.function(loss, **{name: np.atleast_1d(second_params[name])[:, None] for name in second.names})
    return np.asarray(np.exp(score) if second.log_value else score)
