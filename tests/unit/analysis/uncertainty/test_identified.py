from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.engine.law import EXPONENT, LOG_BOUND, OFFSET, RATE, SCALE, SIGNED, Param
from analysis.result import Interval
from analysis.uncertainty.identified import not_identified


@pytest.mark.parametrize(
    ("kind", "item", "at_end", "why"),
    [
        (OFFSET, Interval(1.8, 1.7, 1.9), 0.0, ""),
        (OFFSET, Interval(0.4, 1e-4, 0.8), 0.0, "interval reaches 0"),
        (EXPONENT, Interval(0.3, 0.2, 0.4), 0.0, ""),
        (EXPONENT, Interval(0.3, 0.001, 0.4), 0.0, "interval reaches 0"),
        (EXPONENT, Interval(0.9, 0.5, 3.0), 0.0, "interval reaches 3"),
        (EXPONENT, Interval(0.3, 0.05, 0.6), 0.0, "interval spans a factor of 12"),
        (RATE, Interval(15.0, 5.0, 60.0), 0.0, ""),
        (RATE, Interval(15.0, 5.0, 200.0), 0.0, "interval spans a factor of 40"),
        (RATE, Interval(15.0, 5.0, 1e9), 0.0, "interval spans more than a millionfold"),
        (RATE, Interval(15.0, 5.0, 60.0), 0.04, "interval reaches infinity"),
        (RATE, Interval(15.0, 5.0, float(np.exp(LOG_BOUND))), 0.0, "interval reaches infinity"),
        (replace(EXPONENT, low=0.02), Interval(0.5, 0.02, 0.7), 0.0, "interval reaches 0.02"),
        (SCALE, Interval(500.0, 1.0, 1e9), 0.0, ""),
        (SIGNED, Interval(0.1, -5.0, 5.0), 0.0, ""),
    ],
)
def test_what_counts_as_not_identified(kind: Param, item: Interval, at_end: float, why: str) -> None:
    assert not_identified(kind, item, at_end) == why
