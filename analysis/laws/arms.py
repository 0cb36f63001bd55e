"""One law for the arms of an intervention: what they share and what each has of its own.

``arms`` are names; column ``is_ARM`` is 1 in the rows of that arm and 0 elsewhere. Every arm shares E, A and alpha with
the control, so that all of an arm's effect stands in its data term.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from analysis.engine.law import EXPONENT, OFFSET, SCALE, Law, make_law

_SOURCE = "arXiv 2203.15556, equation 2, with one data term per arm"


def arm_labels(arms: Sequence[str]) -> tuple[str, ...]:
    """Arm names as they may stand in names of parameters. Raises ``ValueError`` for two that become equal."""
    labels = tuple(re.sub(r"\W", "_", arm) for arm in arms)
    if not labels or not all(labels) or len(set(labels)) < len(labels):
        raise ValueError(f"arms {', '.join(map(repr, arms))}: names must differ in letters and digits")
    return labels


def arms_shared(arms: Sequence[str]) -> Law:
    """L = E + A / N^alpha + B_arm / D^beta: one exponent for all arms, 4 + k parameters.

    An arm is then worth (B_control / B_arm)^(1 / beta) data at every loss. Raises ``ValueError`` as ``arm_labels``.
    """
    return _law("arms_shared", arms, with_size=True, own=False)


def arms_own(arms: Sequence[str]) -> Law:
    """L = E + A / N^alpha + B_arm / D^beta_arm: an exponent per arm, 3 + 2 k parameters. Raises as ``arms_shared``."""
    return _law("arms_own", arms, with_size=True, own=True)


def arms_data_shared(arms: Sequence[str]) -> Law:
    """L = E + B_arm / D^beta for runs of one size: 2 + k parameters; E holds what that size cannot learn."""
    return _law("arms_data_shared", arms, with_size=False, own=False)


def arms_data_own(arms: Sequence[str]) -> Law:
    """L = E + B_arm / D^beta_arm for runs of one size: 1 + 2 k parameters."""
    return _law("arms_data_own", arms, with_size=False, own=True)


def _law(name: str, arms: Sequence[str], with_size: bool, own: bool) -> Law:
    labels = arm_labels(arms)
    size = ("N",) if with_size else ()

    def function(*columns: Any, E: Any, **rest: Any) -> Any:
        D, which = columns[len(size)], columns[len(size) + 1 :]
        out = E + rest["A"] * columns[0] ** -rest["alpha"] if with_size else E
        if own:
            parts = [w * rest[f"B_{s}"] * D ** -rest[f"beta_{s}"] for s, w in zip(labels, which, strict=True)]
            return sum(parts, start=out)
        scales = [w * rest[f"B_{s}"] for s, w in zip(labels, which, strict=True)]
        return out + sum(scales[1:], start=scales[0]) * D ** -rest["beta"]

    params = {"E": OFFSET} | ({"A": SCALE, "alpha": EXPONENT} if with_size else {})
    params |= {f"B_{s}": SCALE for s in labels}
    params |= {f"beta_{s}": EXPONENT for s in labels} if own else {"beta": EXPONENT}
    centre = ["A: alpha N"] * with_size + [f"B_{s}: beta{f'_{s}' if own else ''} D" for s in labels]
    formula = f"L = E{' + A / N^alpha' if with_size else ''} + B_arm / D^beta{'_arm' if own else ''}"
    return make_law(
        name,
        f"{formula}\n\nE{', A and alpha are' if with_size else ' is'} shared by {', '.join(arms)}.",
        function, (*size, "D", *(f"is_{s}" for s in labels)), params, centre=", ".join(centre), source=_SOURCE,
    )  # fmt: skip
