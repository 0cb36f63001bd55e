"""Numbers of a page as texts: estimates with n, costs, differences."""

from __future__ import annotations

import math

from analysis.interventions.paired import Estimate
from analysis.notation import compute_text, number, with_interval
from analysis.result import Interval


def estimate_text(item: Estimate, with_n: bool = False) -> str:
    """0.512 [0.498, 0.526], with (n = 5) behind it on request; a lone number says that there is one of its unit."""
    if not item.known:
        return f"{item.value:.4g} (1 {item.unit.rstrip('s')})"
    if item.low == item.high:
        text = f"{item.value:.4g} [all equal]"
    else:
        text = with_interval(Interval(item.value, item.low, item.high))
    return f"{text} (n = {item.n})" if with_n else text


def gap_text(item: Estimate) -> str:
    """+0.031 [+0.012, +0.050]: a difference with signs."""
    if not item.known:
        return f"{item.value:+.3g} (1 seed)"
    half = (item.high - item.low) / 2
    if half == 0:
        return f"{item.value:+.4g} [all equal]"
    value, low, high = (_signed(v, half) for v in (item.value, item.low, item.high))
    return f"{value} [{low}, {high}]"


def _signed(value: float, error: float) -> str:
    text = number(value, error)
    return text if text.startswith("-") or not math.isfinite(value) else f"+{text}"


def amount_text(value: float) -> str:
    """1,200 below a hundred thousand, 2.1e12 from there on."""
    return f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.3g}" if value < 10 else compute_text(value)


def cost_text(values: list[float]) -> str:
    """FLOPs as 2.1e12, or 1.0e12 to 4.0e13 for a range; "0" for nothing."""
    low, high = min(values), max(values)
    if high == 0:
        return "0"
    first, last = ("0" if v == 0 else amount_text(v) for v in (low, high))
    return first if first == last else f"{first} to {last}"
