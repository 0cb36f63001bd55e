from __future__ import annotations

import pytest

from analysis.notation import compute_text, number, percent, scale_with_interval, with_interval
from analysis.result import Interval


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.34781, 0.0154, "0.348"),
        (0.34781, 0.05, "0.35"),
        (0.34781, 0.5, "0.3"),
        (482.01, 124.5, "480"),
        (1.8172, 0.0257, "1.817"),
        (2.3e7, 4e5, "2.30e7"),
        (float("nan"), 1.0, "-"),
    ],
)
def test_digits_follow_the_error(value: float, error: float, text: str) -> None:
    assert number(value, error) == text


def test_intervals() -> None:
    assert with_interval(Interval(0.3478, 0.317, 0.373)) == "0.348 [0.317, 0.373]"
    censored = Interval(1.91, 1.49, 2.16, False, "the high end lies outside the compute tested for late")
    assert with_interval(censored) == "1.91 [1.49, >= 2.16]"
    assert scale_with_interval(Interval(138.0, 1.7, 27600.0)) == "100 [2, 3e4]"
    assert scale_with_interval(Interval(138.0, 121.0, 160.0)) == "140 [120, 160]"


def test_percent_and_compute() -> None:
    assert percent(1.71, 0.46, 2.93) == "+1.7 % [+0.5, +2.9]"
    assert percent(7.42, 0.044, 15.2) == "+7.4 % [+0.0, +15.2]"
    assert percent(-0.034, -0.061, -0.002) == "-0.034 % [-0.061, -0.002]"
    assert (compute_text(2.13e12), compute_text(8e6), compute_text(float("nan"))) == ("2.1e12", "8.0e6", "-")
