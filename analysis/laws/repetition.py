"""Training on repeated data: effective tokens and effective parameters."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from analysis.engine.law import Exponent, Offset, Param, Scale, law_from
from analysis.laws.additive import allocation

REPEATS = Param(0.0, np.inf, log=True, search=(0.5, 500.0), exponent=True)


@law_from(
    centre="A: alpha N, B: beta D, U as D",
    source="arXiv 2305.16264, equations 5 to 7 and appendix A",
    derived=allocation,
)
def data_constrained(
    N: Any, D: Any, U: Any, *,
    E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent,
    R_D: Annotated[Any, REPEATS], R_N: Annotated[Any, REPEATS],
) -> Any:  # fmt: skip
    """L = E + A / N'^alpha + B / D'^beta, D' = U (1 + R_D (1 - e^(-r_D/R_D))), N' = U_N (1 + R_N (1 - e^(-r_N/R_N)))

    D tokens seen of which U are unique, r_D = D / U - 1 repetitions; U_N = min(N, N*(U)) parameters are what U tokens
    can use (N*(U) = G (G U)^(beta / alpha), G = (alpha A / (beta B))^(1 / (alpha + beta))) and r_N = N / U_N - 1 is the
    excess. R_D and R_N are the paper's R_D* and R_N*: after that many repetitions 1 - 1/e of the value is gone. They
    tend to infinity when repeated tokens are as good as new ones, so an open upper limit is an honest answer. The
    paper takes E, A, B, alpha = beta from single-epoch runs and fits R_D and R_N alone; do so by fixing those five.
    The form can only flatten: rows in which more epochs made the loss worse do not belong in the fit.
    """
    unique = np.minimum(D, U)
    tokens = unique * (1.0 - R_D * np.expm1(-(D / unique - 1.0) / R_D))
    G = (alpha * A / (beta * B)) ** (1.0 / (alpha + beta))
    usable = np.minimum(N, (unique * G) ** (beta / alpha) * G)
    size = usable * (1.0 - R_N * np.expm1(-(N / usable - 1.0) / R_N))
    return E + A * size**-alpha + B * tokens**-beta
