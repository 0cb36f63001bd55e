"""Mixture-of-experts laws: sparsity, granularity, the joint law in experts, size and data, and routed models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Exponent, Offset, Param, Scale, Signed, law_from

EITHER_SIGN = Param(-3.0, 3.0, search=(-0.6, 0.7), exponent=True)
NEGATIVE = Param(-3.0, -1e-3, search=(-0.8, -0.03), exponent=True)
CROSS = Param(-1.0, 1.0, search=(-0.06, 0.08), exponent=True)
FIRST_EXPERTS = Param(1.0, 100.0, log=True, search=(1.05, 20.0))
LAST_EXPERTS = Param(1.0, 1e6, log=True, search=(30.0, 3e3))


def effective_experts(E: Any, E_start: Any, E_max: Any) -> Any:
    """The saturating number of experts: E_start at E = 1, at most E_max (arXiv 2202.01169, equation 1)."""
    return 1.0 / (1.0 / (E - 1.0 + 1.0 / (1.0 / E_start - 1.0 / E_max)) + 1.0 / E_max)


@law_from(centre="a: alpha N, b: beta D, d: gamma N", source="arXiv 2501.12370, equation 6")
def sparsity(
    N: Any, D: Any, S: Any, *,
    a: Scale, alpha: Exponent, b: Scale, beta: Exponent, c: Scale, lam: Annotated[Any, EITHER_SIGN],
    d: Scale, delta: Annotated[Any, EITHER_SIGN], gamma: Exponent, e: Offset,
) -> Any:  # fmt: skip
    """L = e + a / N^alpha + b / D^beta + c / (1 - S)^lam + d / ((1 - S)^delta N^gamma)

    N counts all parameters, S in [0, 1) is the share of experts a token does not use, lam is the paper's lambda. Ten
    parameters: runs must vary N, D and S independently and include dense ones (S = 0). The paper's own fit has
    R^2 = 68 % on a sparsity it held out.
    """
    used = 1.0 - S
    return e + a * N**-alpha + b * D**-beta + c * used**-lam + d * used**-delta * N**-gamma


@law_from(centre="a: alpha N, g: alpha N, b: beta D", source="arXiv 2402.07871, equation 9")
def granularity(
    N: Any, D: Any, G: Any, *,
    c: Offset, g: Scale, gamma: Exponent, a: Scale, alpha: Exponent, b: Scale, beta: Exponent,
) -> Any:  # fmt: skip
    """L = c + (g / G^gamma + a) / N^alpha + b / D^beta

    G is how many times smaller an expert is than the feed-forward layer it replaces (1 to 16 in the paper, at 64 times
    expanded layers). N counts all experts and no embeddings: the paper's losses for "64 x 100M" come out (to 0.03)
    at the total size, not at 100M. c and the exponents trade off strongly.
    """
    return c + (g * G**-gamma + a) * N**-alpha + b * D**-beta


def _per_experts(params: Mapping[str, Array]) -> dict[str, Array]:
    """m, mu, n, nu of L = m N^mu + n D^nu + c for a dense model (E = 1)."""
    log_dense = np.log(params["E_start"])
    return {
        "m_1": params["a"] * np.exp(params["delta"] * log_dense),
        "mu_1": params["alpha"] + params["gamma"] * log_dense,
        "n_1": params["b"] * np.exp(params["omega"] * log_dense),
        "nu_1": params["beta"] + params["zeta"] * log_dense,
    }


@law_from(
    centre="a: -alpha N, delta: -gamma N, b: -beta D, omega: -zeta D",
    source="arXiv 2502.05172, equations 4 and 6",
    derived=_per_experts,
)
def moe_joint(
    N: Any, D: Any, E: Any, *,
    a: Scale, alpha: Annotated[Any, NEGATIVE], delta: Annotated[Any, EITHER_SIGN], gamma: Annotated[Any, CROSS],
    b: Scale, beta: Annotated[Any, NEGATIVE], omega: Annotated[Any, EITHER_SIGN], zeta: Annotated[Any, CROSS],
    c: Offset, E_start: Annotated[Any, FIRST_EXPERTS], E_max: Annotated[Any, LAST_EXPERTS],
) -> Any:  # fmt: skip
    """L = a X^delta N^(alpha + gamma ln X) + b X^omega D^(beta + zeta ln X) + c, X(E) from E_start to E_max

    1/X = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max. N counts active parameters, E is the number of experts (1 for
    a dense model, X = E_start then). alpha and beta are
    negative, as the paper prints them. For every E it is a Chinchilla law; the dense one is derived.
    """
    log_experts = np.log(effective_experts(E, E_start, E_max))
    size = a * np.exp(delta * log_experts + (alpha + gamma * log_experts) * np.log(N))
    return size + b * np.exp(omega * log_experts + (beta + zeta * log_experts) * np.log(D)) + c


@law_from(source="arXiv 2202.01169, equation 1", log_value=True)
def routed(
    N: Any, E: Any, *,
    a: Signed, b: Signed, c: Signed, d: Signed,
    E_start: Annotated[Any, FIRST_EXPERTS], E_max: Annotated[Any, LAST_EXPERTS],
) -> Any:  # fmt: skip
    """log10 L = a log10 N + b log10 X + c log10 N log10 X + d, 1/X = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max

    N counts the parameters one token meets, E the experts. All runs share one number of tokens (130B in the paper), so
    nothing here speaks about data. -(a + c log10 X) is the slope in size; routing stops helping where
    b + c log10 N = 0. c and d change with the base of the logarithm, here 10 as in the paper's table 3.
    """
    size, experts = np.log10(N), np.log(effective_experts(E, E_start, E_max)) / np.log(10.0)
    return np.log(10.0) * (a * size + b * experts + c * size * experts + d)
