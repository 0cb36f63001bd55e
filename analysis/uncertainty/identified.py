"""When an interval says nothing: the rule that turns a number with three digits into words."""

from __future__ import annotations

import numpy as np

from analysis.engine.law import LOG_BOUND, Param
from analysis.result import Interval

WIDE_EXPONENT = 8.0
WIDE_RATE = 30.0
MOST_AT_END = 0.025


def not_identified(kind: Param, found: Interval, at_end: float = 0.0) -> str:
    """Why an interval identifies nothing, or an empty string.

    An offset (linear, from 0) is lost when its interval reaches 0; an exponent also at its upper bound or when its ends
    lie a factor of 8 apart; a rate when its ends lie a factor of 30 apart, or more than 2.5 % of the draws (``at_end``)
    run to infinity. Signed parameters and coefficients may be anything.
    """
    if kind.low < 0 or not (kind.exponent or _is_offset(kind)):
        return ""
    if found.low <= max(kind.low, 1e-3 * max(found.value, 1e-9) if _is_offset(kind) else 0.0):
        return f"interval reaches {kind.low if kind.low > 0.01 else 0:g}"
    if kind.log and (at_end > MOST_AT_END or found.high >= np.exp(0.9 * LOG_BOUND)):
        return "interval reaches infinity"
    if found.high >= kind.high:
        return f"interval reaches {kind.high:g}"
    ratio = found.high / found.low
    if kind.exponent and ratio > (WIDE_RATE if kind.log else WIDE_EXPONENT):
        return f"interval spans a factor of {ratio:.0f}" if ratio < 1e6 else "interval spans more than a millionfold"
    return ""


def _is_offset(kind: Param) -> bool:
    return kind.low == 0.0 and not kind.log and not kind.exponent
