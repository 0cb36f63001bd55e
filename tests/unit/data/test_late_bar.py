"""The bar appears for long work only, and says at the end what was done."""

from __future__ import annotations

import pytest

from nmm.data.late_bar import LateBar


def run(seconds_each: float) -> None:
    now = 0.0
    bar = LateBar("decoding x", 120, clock=lambda: now)
    for _ in range(120):
        now += seconds_each
        bar.advance()
    bar.close()
    bar.conclude(f"decoded {bar.done} samples into y")


def test_short_work_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    run(0.001)
    assert capfd.readouterr().err == ""


def test_long_work_shows_rate_and_result(capfd: pytest.CaptureFixture[str]) -> None:
    run(0.1)
    shown = capfd.readouterr().err
    assert "120/120" in shown
    assert "10/s" in shown
    assert "decoded 120 samples into y in 12 s" in shown


def test_slow_things_are_shown_one_by_one_with_digits_of_their_rate(capfd: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    bar = LateBar("passes", 3, clock=lambda: now, every=1)
    for _ in range(2):
        now += 8.0
        bar.advance()
    bar.close()
    shown = capfd.readouterr().err
    assert "2/3" in shown and "0.12/s" in shown
