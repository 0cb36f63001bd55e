"""Published loss curves of three sizes under nine learning-rate schedules (arXiv 2503.12811, MIT-licensed data).

The authors fit cosine 24000, constant 24000 and the two-stage run to 9e-5, with log-Huber 1e-3, and report the plain
mean over the other six schedules. Their coefficients come from 200 AdamW steps and are not the minimum of that
objective; the minimum fits the three curves much better, and it extrapolates worse to the three times longer cosine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.engine.law import Law
from analysis.engine.point import PointFit, fit_point
from analysis.laws.schedule import annealing, columns_from_curves, multi_power
from analysis.rows.schedules import Array, columns_at

CSV = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "multipowerlaw" / "loss_curves.csv"
pytestmark = pytest.mark.skipif(not CSV.exists(), reason="the published curves are not beside this repository")

SIZES = ("25M", "100M", "400M")
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
WARMUP = 2160
# L0, A, alpha, B, C, beta, gamma
PUBLISHED = {
    "25M": [3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257],
    "100M": [2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644],
    "400M": [2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457],
}
# R2, MAE, RMSE, mean and worst relative error of the six held-out schedules
METRICS = {
    "25M": [0.9988, 0.00376, 0.00465, 0.00110, 0.00409],
    "100M": [0.9983, 0.00435, 0.00592, 0.00142, 0.00583],
    "400M": [0.9978, 0.00484, 0.00730, 0.00168, 0.00995],
}


def curves(size: str, **last_step: int | None) -> pd.DataFrame:
    """The rows of the named schedules up to a step (None: all of them); without names, of all schedules."""
    frame = pd.read_csv(CSV)
    frame = frame[frame["model"] == size]
    if not last_step:
        return frame
    parts = [frame[(frame["schedule"] == s) & (frame["step"] <= (end or np.inf))] for s, end in last_step.items()]
    return pd.concat(parts)


def columns_of(frame: pd.DataFrame) -> dict[str, Array]:
    return columns_from_curves(frame["schedule"], frame["step"], frame["lr"], warmup=WARMUP)


def predicted(law: Law, natural: Array, frame: pd.DataFrame) -> Array:
    return law.loss(law.to_working(np.atleast_2d(natural), {}), columns_of(frame), {})[0]


def held_out(law: Law, natural: Array, frame: pd.DataFrame) -> Array:
    """The five metrics of METRICS, the mean over the six schedules."""
    rows = []
    for _, part in frame[~frame["schedule"].isin(TRAIN)].groupby("schedule"):
        y = part["loss"].to_numpy()
        error = np.abs(predicted(law, natural, part) - y)
        explained = 1.0 - np.sum(error**2) / np.sum((y - y.mean()) ** 2)
        rows.append([explained, error.mean(), np.sqrt(np.mean(error**2)), (error / y).mean(), (error / y).max()])
    return np.mean(rows, axis=0)


def fitted(law: Law, frame: pd.DataFrame) -> tuple[PointFit, Array]:
    columns = columns_of(frame)
    centre = law.centre_of(columns)
    fit = fit_point(law, columns, centre, frame["loss"].to_numpy(), "log-huber", "chinchilla")
    return fit, law.to_natural(fit.theta[None], centre)[0]


def final_error(law: Law, natural: Array, size: str, schedule: str) -> float:
    part = curves(size, **{schedule: None}).sort_values("step")
    return float(predicted(law, natural, part)[-1] - part["loss"].iloc[-1])


@pytest.mark.parametrize("size", SIZES)
def test_published_coefficients_give_the_published_errors(size: str) -> None:
    found = held_out(multi_power, np.array(PUBLISHED[size]), curves(size))
    assert found[0] == pytest.approx(METRICS[size][0], abs=1e-4)
    assert found[1:] == pytest.approx(METRICS[size][1:], rel=0.01)


@pytest.mark.parametrize("schedule", ["cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3"])
def test_recorded_rows_give_the_loss_of_the_sum_over_every_step(schedule: str) -> None:
    frame = curves("400M", **{schedule: None}).sort_values("step")
    at = frame["step"].to_numpy()
    lr = every_rate(schedule)
    assert frame["lr"].to_numpy() == pytest.approx(lr[at], rel=1e-9)
    L0, A, alpha, B, C, beta, gamma = PUBLISHED["400M"]
    total, want = np.cumsum(lr), []
    changed = np.flatnonzero(np.diff(lr, prepend=lr[0]))
    for t in at:
        k = changed[changed <= t]
        kernel = 1 - (1 + C * lr[k] ** -gamma * (total[t] - total[k - 1])) ** -beta
        want.append(L0 + A * total[t] ** -alpha - B * np.sum((lr[k - 1] - lr[k]) * kernel))
    assert np.abs(predicted(multi_power, np.array(PUBLISHED["400M"]), frame) - want).max() < 5e-4


def every_rate(schedule: str) -> Array:
    """The learning rate of every step, as the authors state it."""
    last = 72000 if "72000" in schedule else 16000 if schedule.startswith("wsdcon") else 24000
    step = np.arange(last)
    late = (step - 20000) / 4000
    rates = {
        "cosine_72000": 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * (step - WARMUP) / (last - WARMUP))),
        "wsd_20000_24000": np.where(step < 20000, 3e-4, 3e-4 * 0.1**late),
        "wsdld_20000_24000": np.where(step < 20000, 3e-4, 3e-4 - 2.7e-4 * late),
        "wsdcon_3": np.where(step < 8000, 3e-4, 3e-5),
    }[schedule]
    return np.where(step < WARMUP, 3e-4 * step / (WARMUP - 1), rates)


@pytest.mark.parametrize("size", SIZES)
def test_the_published_point_is_not_the_minimum_of_its_objective(size: str) -> None:
    frame = curves(size, **dict.fromkeys(TRAIN))
    fit, natural = fitted(multi_power, frame)
    theirs = np.log(predicted(multi_power, np.array(PUBLISHED[size]), frame) / frame["loss"].to_numpy())
    published_value = fit.problem.objective.value(theirs).sum()
    assert fit.converged and fit.num_optima == 1
    assert fit.value < 0.5 * published_value
    # the better fit of the three curves is not the better forecast: B, C, beta and gamma are hardly separated by them
    ours, published = held_out(multi_power, natural, curves(size)), METRICS[size]
    assert published[1] < ours[1] < 1.35 * published[1]
    assert abs(final_error(multi_power, natural, size, "wsd_20000_24000")) < 0.02
    assert final_error(multi_power, natural, size, "cosine_72000") < -0.01


@pytest.mark.parametrize(("size", "mae"), [("25M", 0.00465), ("100M", 0.00376), ("400M", 0.00538)])
def test_the_simpler_annealing_law_forecasts_about_as_well(size: str, mae: float) -> None:
    fit, natural = fitted(annealing, curves(size, **dict.fromkeys(TRAIN)))
    assert fit.converged
    found = held_out(annealing, natural, curves(size))
    assert found[1] == pytest.approx(mae, abs=1e-4)
    assert found[0] > 0.997
    lam = 1.0 - 1.0 / natural[annealing.names.index("memory")]
    assert 0.99 < lam < 0.9999


FINISHED: dict[str, int | None] = {"cosine_24000": None, "constant_24000": None}
STOPPED: dict[str, int | None] = {"wsdcon_9": 10000, "cosine_72000": 36000}


@pytest.mark.parametrize("size", SIZES)
def test_finished_and_stopped_runs_forecast_the_end_of_unseen_schedules(size: str) -> None:
    """A two-stage run stopped at 10000 of 16000 steps and half of the long cosine, beside two finished runs."""
    fit, natural = fitted(multi_power, curves(size, **FINISHED, **STOPPED))
    assert fit.converged
    for unseen in ("wsd_20000_24000", "wsdld_20000_24000", "cosine_72000"):
        assert abs(final_error(multi_power, natural, size, unseen)) < 0.011


def test_without_the_stopped_runs_the_law_is_not_identified() -> None:
    """One cosine and one constant run do not separate the effect of a fall from its age: C or beta runs to a bound."""
    fit, natural = fitted(multi_power, curves("100M", **FINISHED))
    low, high = np.array(multi_power.bounds).T
    at_bound = {n for n, t, a, b in zip(multi_power.names, fit.theta, low, high, strict=True) if t <= a or t >= b}
    assert fit.converged and at_bound & {"C", "beta", "gamma"}
    assert max(abs(final_error(multi_power, natural, "100M", s)) for s in ("wsd_20000_24000", "cosine_72000")) > 0.011


def test_a_planned_anneal_needs_no_records() -> None:
    """Corner points of a schedule give the loss that its recorded rows give."""
    natural = np.array(PUBLISHED["100M"])
    frame = curves("100M", wsdld_20000_24000=None).sort_values("step")
    last = float(frame["step"].iloc[-1])
    planned = columns_at([0, WARMUP, 20000, 24000], [0, 3e-4, 3e-4, 3e-5], [last])
    there = multi_power.loss(multi_power.to_working(natural[None], {}), planned, {})[0, 0]
    assert there == pytest.approx(predicted(multi_power, natural, frame)[-1], abs=3e-4)
