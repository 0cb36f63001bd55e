"""Laws in the proportions of training data, and the interaction of two modalities.

``domains`` is a number k (columns h_1 .. h_k) or the names of the table's columns. Proportions are those of the
training tokens and sum to one in every row; the response is the loss on one fixed target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import (
    EXPONENT,
    OFFSET,
    SCALE,
    Exponent,
    Law,
    Param,
    Scale,
    Signed,
    law_from,
    make_law,
)

RECIPROCAL = Param(0.0, np.inf, log=True, search=(0.05, 50.0))
SHARE_POWER = Param(1e-3, 5.0, search=(0.05, 2.0), exponent=True)
MEAN_POWER = Param(0.05, 5.0, search=(0.2, 3.0), exponent=True)
EFFECT = Param(-np.inf, np.inf, search=(-3.0, 3.0))


def domain_columns(domains: int | Sequence[str], least: int = 2) -> tuple[str, ...]:
    """Names of the proportion columns. Raises ``ValueError`` for fewer than ``least``, duplicates or unusable names."""
    names = tuple(f"h_{i}" for i in range(1, domains + 1)) if isinstance(domains, int) else tuple(domains)
    if len(names) < least:
        raise ValueError(f"a mixture law needs at least {least} domains; there are {len(names)}: {', '.join(names)}")
    if bad := [name for name in names if not name.isidentifier()]:
        raise ValueError(f"domain column {bad[0]!r} must be letters, digits and underscores; rename the column")
    if len(set(names)) < len(names):
        raise ValueError(f"domain columns {', '.join(names)} must differ")
    return names


def _suffixes(columns: Sequence[str]) -> list[str]:
    return [name.removeprefix("h_") for name in columns]


def _power(share: Any, exponent: Any) -> Any:
    """share^exponent with 0^exponent = 0 and no infinite logarithm in the derivatives."""
    present = share > 0
    return np.where(present, 1.0, 0.0) * np.exp(exponent * np.log(np.where(present, share, 1.0)))


def _floor(shares: Sequence[Any], suffixes: Sequence[str], params: Mapping[str, Any]) -> Any:
    """1 / sum_i C_i h_i^gamma_i."""
    parts = [params[f"C_{s}"] * _power(h, params[f"gamma_{s}"]) for s, h in zip(suffixes, shares, strict=True)]
    return 1.0 / sum(parts[1:], start=parts[0])


def _floor_text(columns: Sequence[str], suffixes: Sequence[str]) -> str:
    return "1 / (" + " + ".join(f"C_{s} {h}^gamma_{s}" for s, h in zip(suffixes, columns, strict=True)) + ")"


def mixture_additive(domains: int | Sequence[str]) -> Law:
    """L = E + 1 / sum_i C_i h_i^gamma_i + A / N^alpha + B / D^beta: 5 + 2 k parameters (arXiv 2507.09404, eq. 2.4).

    Only the floor depends on the mixture, so the best mixture is the same at every size and budget.
    Raises ``ValueError`` as ``domain_columns`` does.
    """
    columns = domain_columns(domains)
    suffixes = _suffixes(columns)

    def function(N: Any, D: Any, *shares: Any, E: Any, A: Any, alpha: Any, B: Any, beta: Any, **rest: Any) -> Any:
        return E + _floor(shares, suffixes, rest) + A * N**-alpha + B * D**-beta

    params = {"E": OFFSET, "A": SCALE, "alpha": EXPONENT, "B": SCALE, "beta": EXPONENT}
    params |= {f"C_{s}": RECIPROCAL for s in suffixes} | {f"gamma_{s}": SHARE_POWER for s in suffixes}
    return make_law(
        "mixture_additive",
        f"L = E + {_floor_text(columns, suffixes)} + A / N^alpha + B / D^beta\n\n"
        "C_i (per nat) says how much domain i lowers the floor, gamma_i how fast its first share does. A domain with "
        "share 0 contributes 0. E and a common factor of the C_i separate only through strongly different mixtures.",
        function, ("N", "D", *columns), params,
        centre="A: alpha N, B: beta D", source="arXiv 2507.09404, equation 2.4",
    )  # fmt: skip


def _mean(shares: Sequence[Any], values: Sequence[Any], power: Any) -> Any:
    """(sum_i h_i v_i^(1 / power))^power: v_i for pure domain i."""
    parts = [h * v ** (1.0 / power) for h, v in zip(shares, values, strict=True)]
    return sum(parts[1:], start=parts[0]) ** power


def mixture_joint(domains: int | Sequence[str]) -> Law:
    """As ``mixture_additive`` with A and B functions of the mixture: 5 + 4 k parameters (arXiv 2507.09404, eq. 2.5).

    The paper writes A^h = (sum_i C^A_i h_i)^gamma^A; A_i = (C^A_i)^gamma^A, the value for pure domain i, is fitted, and
    C^A_i is derived (CA_i); the same for B. The best mixture then moves with size and budget.
    Raises ``ValueError`` as ``domain_columns`` does.
    """
    columns = domain_columns(domains)
    suffixes = _suffixes(columns)
    sides = {"A": [f"A_{s}" for s in suffixes], "B": [f"B_{s}" for s in suffixes]}

    def function(N: Any, D: Any, *shares: Any, E: Any, alpha: Any, beta: Any, **rest: Any) -> Any:
        size, data = (_mean(shares, [rest[n] for n in names], rest[f"gamma_{x}"]) for x, names in sides.items())
        return E + _floor(shares, suffixes, rest) + size * N**-alpha + data * D**-beta

    def derived(params: Mapping[str, Array]) -> dict[str, Array]:
        return {f"C{n}": params[n] ** (1.0 / params[f"gamma_{x}"]) for x, names in sides.items() for n in names}

    def text(side: str) -> str:
        terms = " + ".join(f"{h} {n}^(1/gamma_{side})" for h, n in zip(columns, sides[side], strict=True))
        return f"({terms})^gamma_{side}"

    params = {"E": OFFSET, "alpha": EXPONENT, "beta": EXPONENT, "gamma_A": MEAN_POWER, "gamma_B": MEAN_POWER}
    params |= {f"C_{s}": RECIPROCAL for s in suffixes} | {f"gamma_{s}": SHARE_POWER for s in suffixes}
    params |= {name: SCALE for names in sides.values() for name in names}
    centre = [f"{n}: alpha N" for n in sides["A"]] + [f"{n}: beta D" for n in sides["B"]]
    return make_law(
        "mixture_joint",
        f"L = E + {_floor_text(columns, suffixes)} + {text('A')} / N^alpha + {text('B')} / D^beta\n\n"
        "A_i and B_i are the coefficients of a model trained on domain i alone. gamma_A and gamma_B are unidentified "
        "when these are equal; pure domains in the design identify everything best.",
        function, ("N", "D", *columns), params,
        centre=", ".join(centre), source="arXiv 2507.09404, equation 2.5", derived=derived,
    )  # fmt: skip


def mixture_exponential(domains: int | Sequence[str]) -> Law:
    """L = c + k exp(sum_j t_j r_j) at one size and budget: k + 1 parameters (arXiv 2403.16952, equation 1).

    Proportions sum to one, so a common shift of all t_j is a factor of k: the last t is 0 here.
    Raises ``ValueError`` as ``domain_columns`` does.
    """
    columns = domain_columns(domains)
    suffixes = _suffixes(columns)

    def function(*shares: Any, c: Any, k: Any, **rest: Any) -> Any:
        parts = [rest[f"t_{s}"] * h for s, h in zip(suffixes[:-1], shares[:-1], strict=True)]
        return c + k * np.exp(sum(parts[1:], start=parts[0]))

    terms = " + ".join(f"t_{s} {h}" for s, h in zip(suffixes[:-1], columns[:-1], strict=True))
    return make_law(
        "mixture_exponential",
        f"L = c + k exp({terms})\n\n"
        f"k is the reducible loss of a model trained on {columns[-1]} alone; a negative t_j says that domain j helps "
        f"the target more than {columns[-1]} does. The paper gives every domain a t; only differences matter.",
        function, columns,
        {"c": OFFSET, "k": SCALE} | {f"t_{s}": EFFECT for s in suffixes[:-1]},
        source="arXiv 2403.16952, equation 1",
    )  # fmt: skip


@law_from(centre="A: alpha N, B: beta D", source="arXiv 2301.03728, bi-modal scaling law")
def mixed_modal(base: Any, N: Any, D: Any, *, C: Signed, A: Scale, alpha: Exponent, B: Scale, beta: Exponent) -> Any:
    """L = base - C + A / N^alpha + B / D^beta

    base is the mean of the two unimodal laws at this N and at each modality's own tokens, D the tokens of both. C is
    the largest synergy, the other two terms the competition for capacity and for optimisation. Below the competition
    barrier, C = A / N^alpha + B / D^beta, training together costs; above it helps. The error of the unimodal fits goes
    straight into C.
    """
    return base - C + A * N**-alpha + B * D**-beta


def unimodal_mean(first: Any, second: Any) -> Any:
    """The column ``base`` of ``mixed_modal`` from the two unimodal predictions (n,) at the same N."""
    return 0.5 * (np.asarray(first, dtype=float) + np.asarray(second, dtype=float))
