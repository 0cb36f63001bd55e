"""Numbers as people read them: as many digits as the interval supports, and words where there is no number."""

from __future__ import annotations

import math

from analysis.result import FitResult, Interval

PLAIN_RANGE = (1e-3, 1e5)


def digits_for(value: float, error: float) -> int:
    """Decimals so that ``error`` shows two digits when it starts with 1 or 2, otherwise one."""
    if not (math.isfinite(error) and error > 0):
        return 3
    exponent = math.floor(math.log10(error))
    leading = error / 10.0**exponent
    return (1 if leading < 3 else 0) - exponent


def number(value: float, error: float) -> str:
    """``value`` rounded to what ``error`` supports, e.g. 0.3478 with 0.015 -> 0.348; powers of ten when far from 1."""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if size and not PLAIN_RANGE[0] <= size < PLAIN_RANGE[1]:
        unit = 10.0 ** math.floor(math.log10(size))
        decimals = digits_for(value / unit, error / unit) if math.isfinite(error) and error > 0 else 2
        return _tidy(f"{value:.{min(max(decimals, 0), 4)}e}")
    decimals = digits_for(value, error)
    shown = round(value, decimals)
    if size and shown == 0:
        return f"{value:.1g}"
    return f"{shown:.{max(decimals, 0)}f}"


def half_width(item: Interval) -> float:
    """The smaller side of an interval: it decides the digits."""
    sides = [abs(item.high - item.value), abs(item.value - item.low)]
    positive = [s for s in sides if s > 0 and math.isfinite(s)]
    return min(positive) if positive else 0.0


def with_interval(item: Interval) -> str:
    """0.348 [0.317, 0.373]; ends of the tested range are marked with >= and <=."""
    error = half_width(item)
    low, high = number(item.low, error), number(item.high, error)
    if item.why and "end lies outside" in item.why:
        low = f"<= {low}" if "low" in item.why else low
        high = f">= {high}" if "high" in item.why else high
    return f"{number(item.value, error)} [{low}, {high}]"


def scale_with_interval(item: Interval) -> str:
    """A positive scale known by its order of magnitude: 100 [20, 3000], 4e5 [1e5, 2e6]; one or two digits."""
    wide = item.high > 10 * item.low
    value, low, high = (_short(v, 1 if wide else 2) for v in (item.value, item.low, item.high))
    return f"{value} [{low}, {high}]"


def _short(value: float, digits: int) -> str:
    if 1e-2 <= abs(value) < 1e4:
        decimals = digits - 1 - math.floor(math.log10(abs(value)))
        return f"{round(value, decimals):.{max(decimals, 0)}f}"
    return _tidy(f"{value:.{digits - 1}e}")


def _tidy(text: str) -> str:
    """2.3e+07 as 2.3e7."""
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def parameter(fit: FitResult, name: str) -> str:
    """A fitted parameter for a table: number and interval, "not identified (why)", the bare point without draws, or
    "-" where the law has no such parameter."""
    if name not in fit.params:
        return "-"
    if name in fit.unidentified:
        return f"not identified ({fit.unidentified[name]})"
    item = fit.ci.get(name)
    if item is None:
        return f"{fit.params[name]:.3g}"
    return shown(item, name in fit.shape.log_names)


def shown(item: Interval, scale: bool) -> str:
    """An interval in words where it is not known, else with the digits it supports; ``scale`` for positive scales."""
    if not item.known and item.why and "end lies outside" not in item.why:
        return f"not identified ({item.why})"
    return scale_with_interval(item) if scale else with_interval(item)


def percent(value: float, low: float, high: float) -> str:
    """A signed per cent with its interval, two digits of the half width: +1.7 % [+0.5, +2.9]."""
    half = max((high - low) / 2, 1e-9)
    decimals = min(max(0, 1 - math.floor(math.log10(half))), 4)
    middle, left, right = (f"{round(v, decimals) + 0.0:+.{decimals}f}" for v in (value, low, high))
    return f"{middle} % [{left}, {right}]"


def compute_text(value: float) -> str:
    """FLOPs or tokens as 2.1e12."""
    return "-" if not math.isfinite(value) else _tidy(f"{value:.1e}")
