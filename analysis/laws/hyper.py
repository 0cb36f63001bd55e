"""The best learning rate and batch size as power laws; the response is the optimum that was found, not a loss."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from analysis.engine.law import Param, law_from

FACTOR = Param(0.0, np.inf, log=True, search=(1e-8, 1e10))
EITHER_SIGN = Param(-3.0, 3.0, search=(-1.5, 1.5), exponent=True)


@law_from(centre="c: -a N, c: -b D", source="arXiv 2503.04715, learning-rate law", log_value=True)
def step_law_lr(
    N: Any, D: Any, *, c: Annotated[Any, FACTOR], a: Annotated[Any, EITHER_SIGN], b: Annotated[Any, EITHER_SIGN]
) -> Any:
    """lr = c N^a D^b

    Peak learning rate that gives the lowest loss for N parameters (without embeddings) and D tokens. Grid optima are
    quantised: a factor of sqrt(2) between trials is an error of about 10 % per row.
    """
    return np.log(c) + a * np.log(N) + b * np.log(D)


@law_from(centre="c: -b D", source="arXiv 2503.04715, batch-size law", log_value=True)
def step_law_batch(D: Any, *, c: Annotated[Any, FACTOR], b: Annotated[Any, EITHER_SIGN]) -> Any:
    """bs = c D^b

    Best batch size in tokens; the paper finds no dependence on N.
    """
    return np.log(c) + b * np.log(D)
