"""Laws that are sums of power laws: Chinchilla, its tied and known-entropy forms, width and depth.

Sizes N in parameters, tokens D, losses in nats per token; a coefficient is the term's loss at N = 1 or D = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Exponent, Offset, Scale, law_from


def allocation(params: Mapping[str, Array]) -> dict[str, Array]:
    """Compute-optimal exponents a (of N), b (of D) and G in N* = G (C / 6)^a, D* = (C / 6)^b / G for C = 6 N D.

    arXiv 2203.15556, equation 4. Any law that is a monotone function of A / N^alpha + B / D^beta shares them.
    """
    A, B, alpha, beta = (params[name] for name in ("A", "B", "alpha", "beta"))
    total = alpha + beta
    with np.errstate(all="ignore"):  # a flat fit may have no G
        G = (alpha * A / (beta * B)) ** (1.0 / total)
    return {"a": beta / total, "b": alpha / total, "G": G}


@law_from(centre="A: alpha N, B: beta D", source="arXiv 2203.15556, equation 2", derived=allocation)
def chinchilla(N: Any, D: Any, *, E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent) -> Any:
    """L = E + A / N^alpha + B / D^beta

    E (nats) is the loss that no size and no data removes, A / N^alpha what a finite model adds, B / D^beta what finite
    data adds. E trades off against both exponents, so its interval matters most far outside the runs. N must be
    counted the same way in every row, and D means tokens that are all seen once.
    """
    return E + A * N**-alpha + B * D**-beta


@law_from(centre="A: alpha N, B: beta D", source="arXiv 2203.15556, equation 2 without E", derived=allocation)
def chinchilla_excess(N: Any, D: Any, *, A: Scale, alpha: Exponent, B: Scale, beta: Exponent) -> Any:
    """L - E_known = A / N^alpha + B / D^beta

    The response is the loss minus the known entropy of the text; it must be positive.
    """
    return A * N**-alpha + B * D**-beta


def _multiplier_form(params: Mapping[str, Array]) -> dict[str, Array]:
    """eta, a and b of L = E + (a M^eta + b M^-eta) C^-eta with M = D / N and C = 6 N D."""
    eta = params["alpha"] / 2.0
    return {"eta": eta, "a": params["A"] * 6.0**eta, "b": params["B"] * 6.0**eta}


@law_from(centre="A: alpha N, B: alpha D", source="arXiv 2403.08540, equations 3 and 4", derived=_multiplier_form)
def chinchilla_tied(N: Any, D: Any, *, E: Offset, A: Scale, B: Scale, alpha: Exponent) -> Any:
    """L = E + A / N^alpha + B / D^alpha

    One exponent for both terms: runs at a fixed number of tokens per parameter then share one slope in compute, which
    is what makes over-training predictable. eta, a and b of the paper's form in C and M = D / N are derived; its
    notebook prints b = -alpha and beta = B 6^(alpha / 2).
    """
    return E + A * N**-alpha + B * D**-alpha


@law_from(
    centre="A: alpha width, B: beta depth, C: gamma N, F: delta D",
    source="arXiv 2502.06857, width-depth-parameters law",
)
def width_depth(
    width: Any, depth: Any, N: Any, D: Any, *,
    E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent, C: Scale, gamma: Exponent, F: Scale,
    delta: Exponent,
) -> Any:  # fmt: skip
    """L = E + A / width^alpha + B / depth^beta + C / N^gamma + F / D^delta

    Four terms, nine parameters: does shape matter beyond the number of parameters? N is nearly width^2 depth, so the
    first three terms separate only when the runs vary width and depth independently; look at the condition number.
    """
    return E + A * width**-alpha + B * depth**-beta + C * N**-gamma + F * D**-delta
