"""Learning-rate laws: their definition, their derivatives, recovery, and what partial runs are worth."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.engine.law import Law, linear_params
from analysis.engine.point import PointFit, fit_point
from analysis.laws.schedule import annealing, columns_from_curves, multi_power
from analysis.rows.schedules import Array, columns_at

TRUTH = {
    "multi_power": np.array([2.65, 0.60, 0.453, 438.0, 2.13, 0.598, 0.655]),
    "annealing": np.array([2.68, 0.57, 0.484, 0.78, 600.0]),
}
LAWS = [multi_power, annealing]
WARMUP, PEAK, LOW = 500.0, 3e-4, 3e-5
Curves = dict[str, Array]


def curve(shape: str, last: int, every: int = 250) -> Curves:
    """Records from the end of the warm-up to step ``last`` of a schedule that is planned for 8000 steps."""
    step = np.arange(WARMUP, last + 1.0, every)
    late = np.clip((step - 6000) / 2000, 0, 1)
    lr = {
        "constant": np.full(len(step), PEAK),
        "cosine": LOW + 0.5 * (PEAK - LOW) * (1 + np.cos(np.pi * (step - WARMUP) / (8000 - WARMUP))),
        "two stages": np.where(step < 4000, PEAK, 0.3 * PEAK),
        "decay": PEAK * (LOW / PEAK) ** late,
    }[shape]
    return {"run": np.full(len(step), shape), "step": step, "lr": lr}


def joined(*parts: Curves) -> dict[str, Array]:
    rows = {name: np.concatenate([part[name] for part in parts]) for name in ("run", "step", "lr")}
    return columns_from_curves(**rows, warmup=WARMUP)


def response(law: Law, columns: dict[str, Array], natural: Array | None = None) -> Array:
    params = TRUTH[law.name] if natural is None else natural
    return law.loss(law.to_working(params[None], {}), columns, {})[0]


def fitted(law: Law, columns: dict[str, Array], y: Array, objective: str = "log-mse") -> tuple[PointFit, Array]:
    centre = law.centre_of(columns)
    fit = fit_point(law, columns, centre, y, objective)
    return fit, law.to_natural(fit.theta[None], centre)[0]


@pytest.fixture(scope="module")
def mixed() -> dict[str, Array]:
    """A full anneal, a constant run, a run stopped early in its second stage and a cosine stopped half-way."""
    return joined(curve("decay", 8000), curve("constant", 5000), curve("two stages", 4750), curve("cosine", 4000))


def test_multi_power_is_its_formula() -> None:
    columns = {
        "S1": np.array([1.0, 2.0]),
        "drop": np.array([[1e-4, 2e-4], [-1e-4, 0.0]]),
        "eta": np.array([[2e-4, 1e-4], [3e-4, 1.0]]),
        "since": np.array([[0.5, 0.1], [0.2, 1.0]]),
    }
    L0, A, alpha, B, C, beta, gamma = TRUTH["multi_power"]
    kernel = 1 - (1 + C * columns["eta"] ** -gamma * columns["since"]) ** -beta
    want = L0 + A * columns["S1"] ** -alpha - B * (columns["drop"] * kernel).sum(axis=1)
    assert response(multi_power, columns) == pytest.approx(want, rel=1e-14)


def test_annealing_is_the_double_sum_of_the_paper() -> None:
    lr = np.concatenate([np.linspace(0.0, 1e-3, 20), np.full(30, 1e-3), np.linspace(1e-3, 1e-4, 40), np.full(10, 1e-4)])
    L0, A, alpha, C, memory = TRUTH["annealing"]
    decay = 1.0 - 1.0 / memory
    momentum, area, total = 0.0, 0.0, lr[0]
    for before, now in zip(lr[:-1], lr[1:], strict=True):
        momentum = decay * momentum + before - now
        area += momentum
        total += now
    columns = columns_at(np.arange(len(lr)), lr, [len(lr) - 1], num_bins=512)
    assert response(annealing, columns)[0] == pytest.approx(L0 + A * total**-alpha - C * area, rel=1e-9)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_derivatives_agree_with_differences(law: Law, mixed: dict[str, Array]) -> None:
    centre = law.centre_of(mixed)
    ready, theta = law.prepare(mixed, centre), law.to_working(TRUTH[law.name][None], centre)
    jet, shape, h = law.jet(theta, ready), (1, len(mixed["S1"])), 1e-5
    assert np.broadcast_to(jet.value, shape) == pytest.approx(law.value(theta, ready), rel=1e-14)
    for i in range(law.num_params):
        step = h * np.eye(law.num_params)[i]
        up, down = law.jet(theta + step, ready), law.jet(theta - step, ready)
        difference = (np.broadcast_to(up.value, shape) - np.broadcast_to(down.value, shape)) / (2 * h)
        assert np.broadcast_to(jet.first[i], shape) == pytest.approx(difference, rel=1e-6, abs=1e-9)
        for j in range(i, law.num_params):
            slope = [np.broadcast_to(side.first[j], shape) for side in (up, down)]
            curvature = np.broadcast_to(jet.second.get((i, j), 0.0), shape)
            assert curvature == pytest.approx((slope[0] - slope[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_the_engine_finds_which_parameters_are_linear(mixed: dict[str, Array]) -> None:
    assert linear_params(multi_power, multi_power.prepare(mixed, {})) == ("L0", "A", "B")
    assert linear_params(annealing, annealing.prepare(mixed, {})) == ("L0", "A", "C")
    assert multi_power.exponents == ("alpha", "beta", "gamma")
    assert annealing.derived is not None and annealing.derived({"memory": np.array([1000.0])})["lambda"] == 0.999


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_noise_free_parameters_come_back(law: Law, mixed: dict[str, Array]) -> None:
    fit, natural = fitted(law, mixed, response(law, mixed))
    assert fit.converged
    assert natural == pytest.approx(TRUTH[law.name], rel=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_unit_of_the_learning_rate_does_not_matter(law: Law) -> None:
    """Relative learning rates (peak = 1) give the same curves with other coefficients."""
    parts = [curve("decay", 8000), curve("constant", 5000), curve("two stages", 6000)]
    columns = joined(*parts)
    scaled = joined(*[{**part, "lr": part["lr"] / PEAK} for part in parts])
    y = response(law, columns)
    fit, natural = fitted(law, scaled, y)
    assert fit.converged and response(law, scaled, natural) == pytest.approx(y, rel=1e-8)


@pytest.mark.parametrize(("law", "seeds"), [(multi_power, 2), (annealing, 12)], ids=["multi_power", "annealing"])
def test_partial_runs_predict_the_end_of_a_schedule_never_run(law: Law, seeds: int) -> None:
    """Two finished runs leave the effect of an anneal open; two runs stopped early settle it (noise 0.1 %)."""
    finished = [curve("cosine", 8000, 400), curve("constant", 8000, 400)]
    stopped = [curve("two stages", 4750), curve("decay", 6500)]
    unseen = columns_at([0.0, WARMUP, 7000.0, 8000.0], [0.0, PEAK, PEAK, LOW], [8000.0])
    held = columns_at([0.0, WARMUP, 8000.0], [0.0, PEAK, PEAK], [8000.0])
    truth = response(law, unseen)[0]
    assert response(law, held)[0] - truth > 0.03, "the anneal must matter for this to be a test"
    errors = []
    for columns in (joined(*finished), joined(*finished, *stopped)):
        y = response(law, columns)
        noise = np.random.default_rng(7).normal(0.0, 1e-3, (seeds, len(y)))
        errors.append([response(law, unseen, fitted(law, columns, y * np.exp(e))[1])[0] - truth for e in noise])
    without, with_partial = np.sqrt(np.mean(np.square(errors), axis=1))
    assert with_partial < 0.8 * without
    assert np.abs(errors[1]).max() < 8e-3
