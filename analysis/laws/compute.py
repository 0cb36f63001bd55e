"""Laws of one column: loss against compute, size or data, with and without an irreducible part, shifted, broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import EXPONENT, OFFSET, SCALE, Exponent, Law, Offset, Param, Scale, law_from, make_law

POWER_COLUMNS = ("C", "N", "D")
_KAPLAN_EQUATION = {"C": "1.3", "N": "1.1", "D": "1.2"}
_UNITS = {"C": "training FLOPs", "N": "parameters", "D": "tokens"}

# A break or shift is looked for within four decades of the middle of the runs; beyond them it is not seen anyway.
PLACE = Param(1e-4, 1e4, log=True, search=(1e-2, 1e2))
SHARPNESS = Param(0.05, 5.0, search=(0.1, 2.0))
CHANGE = Param(-3.0, 3.0, search=(-0.4, 0.5), exponent=True)


def power_law(column: str, offset: bool) -> Law:
    """L = A / X^alpha, or E + A / X^alpha with ``offset``, for X one of C, N, D. Raises ``ValueError`` for another.

    Without offset the paper's critical scale (X_c / X)^alpha is derived as ``X_c``.
    """
    if column not in POWER_COLUMNS:
        raise ValueError(f"a power law needs a column; it is {column!r}, allowed are {', '.join(POWER_COLUMNS)}")

    def function(X: Any, *, A: Any, alpha: Any, E: Any = 0.0) -> Any:
        return E + A * X**-alpha

    def critical(params: Mapping[str, Array]) -> dict[str, Array]:
        return {f"{column}_c": params["A"] ** (1.0 / params["alpha"])}

    start = "E + " if offset else ""
    notes = f"{column} in {_UNITS[column]}." + (
        " E trades off against alpha: runs that all lie far above the floor fix neither."
        if offset
        else f" {column}_c, where the loss would be 1, is derived. Runs must lie on the frontier of what the other "
        "quantities allow, or the exponent mixes with them."
    )
    return make_law(
        f"power_{column}_offset" if offset else f"power_{column}",
        f"L = {start}A / {column}^alpha\n\n{notes}",
        function,
        [column],
        ({"E": OFFSET} if offset else {}) | {"A": SCALE, "alpha": EXPONENT},
        centre=f"A: alpha {column}",
        source="arXiv 2010.14701, equation 1.1" if offset else f"arXiv 2001.08361, equation {_KAPLAN_EQUATION[column]}",
        derived=None if offset else critical,
    )


@law_from(centre="A: alpha C, C_s: 1 C", source="arXiv 2106.04560, E = a (C + d)^-b + c")
def power_C_shifted(C: Any, *, E: Offset, A: Scale, alpha: Exponent, C_s: Annotated[Any, PLACE]) -> Any:
    """L = E + A / (C + C_s)^alpha

    C_s (FLOPs) bends the curve flat at the low end, where a model has not learnt anything yet. With no run near C_s it
    is not identified.
    """
    return E + A * (C + C_s) ** -alpha


@law_from(centre="A: c0 C, d1: 1 C", source="arXiv 2210.14891, equation 1 with one break")
def power_C_broken(
    C: Any, *,
    E: Offset, A: Scale, c0: Exponent, c1: Annotated[Any, CHANGE], d1: Annotated[Any, PLACE],
    f1: Annotated[Any, SHARPNESS],
) -> Any:  # fmt: skip
    """L = E + A C^-c0 (1 + (C / d1)^(1 / f1))^-(c1 f1)

    The slope goes from c0 to c0 + c1 around d1 (FLOPs); small f1 is a sharp break. Six parameters for one curve: it
    takes many points on both sides of the break.
    """
    bent = np.log1p(np.exp((np.log(C) - np.log(d1)) / f1))
    return E + A * C**-c0 * np.exp(-c1 * f1 * bent)
