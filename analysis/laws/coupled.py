"""Laws in which size and data interact: Kaplan, Skaling, the local interaction form, Farseer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Exponent, Offset, Param, Scale, law_from
from analysis.laws.additive import allocation

REFERENCE_SIZE = 1e9

COUPLING = Param(0.02, 10.0, search=(0.15, 2.0), exponent=True)
SLOW = Param(1e-3, 3.0, search=(0.02, 1.0), exponent=True)
CROSS = Param(-1.0, 1.0, search=(-0.15, 0.2), exponent=True)
BEND = Param(-2.0, 2.0, search=(-0.4, 0.5), exponent=True)
SLOPE = Param(-np.inf, np.inf, search=(-1.5, 0.5))
BENDING = Param(-np.inf, np.inf, search=(-0.4, 0.2))
DECLINE = Param(-np.inf, np.inf, search=(-0.5, 0.1))
DATA_EXPONENT = Param(0.0, np.inf, log=True, search=(0.05, 1.5), exponent=True)


def _critical_scales(params: Mapping[str, Array]) -> dict[str, Array]:
    """N_c and D_c, where the size term or the data term alone would give a loss of 1."""
    return {
        "N_c": params["A"] ** (1.0 / params["alpha_N"]),
        "D_c": params["B"] ** (1.0 / params["alpha_D"]),
    }


@law_from(centre="A: alpha_N N, B: alpha_D D", source="arXiv 2001.08361, equation 1.5", derived=_critical_scales)
def kaplan(N: Any, D: Any, *, A: Scale, alpha_N: Annotated[Any, SLOW], B: Scale, alpha_D: Annotated[Any, SLOW]) -> Any:
    """L = ((A / N^alpha_N)^(1 / alpha_D) + (B / D^alpha_D)^(1 / alpha_D))^alpha_D

    The paper writes ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D; A = N_c^alpha_N and B = D_c^alpha_D are the
    same numbers without the huge correlations, N_c and D_c are derived. The paper counts N without embeddings, and its
    D is the size of a data set that is read until early stopping. There is no irreducible loss.
    """
    return ((A * N**-alpha_N) ** (1.0 / alpha_D) + (B * D**-alpha_D) ** (1.0 / alpha_D)) ** alpha_D


@law_from(
    centre="A: alpha N, B: beta D",
    source="arXiv 2608.07222; the exponent gamma of arXiv 2502.08606 and arXiv 2510.02228",
    derived=allocation,
)
def skaling(
    N: Any, D: Any, *,
    E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent, k: Annotated[Any, COUPLING],
) -> Any:  # fmt: skip
    """L = E + (A / N^alpha + B / D^beta)^k

    k = 1 is Chinchilla; k < 1 lets size and data help each other. The allocation of compute has the same closed form
    as Chinchilla's, but A, B, alpha and beta are not those of a Chinchilla fit: far out in N the loss falls as
    N^-(k alpha).
    """
    return E + (A * N**-alpha + B * D**-beta) ** k


_INTERACTION = "first-order form of arXiv 2506.10972, equation 3"


@law_from(centre="N, D", source=_INTERACTION)
def interaction(
    N: Any, D: Any, *, E: Offset, K: Scale, alpha: Exponent, beta: Exponent, gamma: Annotated[Any, CROSS]
) -> Any:
    """L = E + K (N/N0)^-alpha (D/D0)^-(beta + gamma ln(N/N0))

    N0 and D0 are the geometric means of the fitted rows, kept with the fit; K is the reducible loss and alpha and beta
    the local slopes there. gamma > 0 means that larger models gain more from data. At fixed 6 N D the optimum then
    moves as N* ~ C^0.5 by construction, so this form says nothing about the allocation exponent; and it has no floor in
    N at infinite D, so it is for reading and interpolating inside the range of the runs.
    """
    return E + K * N**-alpha * D ** -(beta + gamma * np.log(N))


@law_from(centre="N, D", source=_INTERACTION)
def interaction_excess(
    N: Any, D: Any, *, K: Scale, alpha: Exponent, beta: Exponent, gamma: Annotated[Any, CROSS]
) -> Any:
    """L - E_known = K (N/N0)^-alpha (D/D0)^-(beta + gamma ln(N/N0))

    As ``interaction``, for the loss minus a known entropy.
    """
    return K * N**-alpha * D ** -(beta + gamma * np.log(N))


def _farseer_paper(params: Mapping[str, Array]) -> dict[str, Array]:
    """a_i and b_i of the paper: b_i + a_i N^power is the logarithm of each part, for N in parameters."""
    out: dict[str, Array] = {}
    for i, (level, slope, power) in enumerate((("A", "s1", "alpha"), ("B", "s2", "beta"), ("E", "s3", "gamma")), 1):
        ratio = params[slope] / params[power]
        out[f"a{i}"] = ratio * REFERENCE_SIZE ** -np.asarray(params[power])
        out[f"b{i}"] = np.log(params[level]) - ratio
    return out


def _bent(N: Any, slope: Any, power: Any) -> Any:
    """exp(slope (n^power - 1) / power) for n = N / 1e9: 1 at a billion parameters, log slope ``slope`` there."""
    return np.exp(slope * np.expm1(power * (np.log(N) - np.log(REFERENCE_SIZE))) / power)


@law_from(source="arXiv 2506.10972, equation 3", derived=_farseer_paper)
def farseer(
    N: Any, D: Any, *,
    E: Offset, s3: Annotated[Any, DECLINE], gamma: Annotated[Any, BEND],
    B: Scale, s2: Annotated[Any, SLOPE], beta: Annotated[Any, BEND],
    A: Annotated[Any, DATA_EXPONENT], s1: Annotated[Any, BENDING], alpha: Annotated[Any, BEND],
) -> Any:  # fmt: skip
    """L = E f(s3, gamma) + B f(s2, beta) D^-(A f(s1, alpha)), f(s, p) = exp(s ((N/1e9)^p - 1) / p)

    The paper writes exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1). These are the same nine numbers
    read at a billion parameters, where they are nearly uncorrelated: E is the loss at infinite data, B and A the
    amplitude and exponent of the data term, s3, s2 and s1 their logarithmic slopes in N. The paper's a_i and b_i are
    derived. The form is not the same law in other units of D: D must be in tokens. A power near 0 is a pure power law
    in N, and its sign is then hard to tell.
    """
    return E * _bent(N, s3, gamma) + B * _bent(N, s2, beta) * D ** -(A * _bent(N, s1, alpha))
