"""Small inputs for every picture, from one known surface: early and late share it but for their A."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from analysis import plots
from analysis.result import Interval
from analysis.simulation.synthetic import Surface

SURFACES = {"early": Surface(1.69, 406.4, 410.7, 0.34, 0.28), "late": Surface(1.69, 480.0, 410.7, 0.34, 0.28)}
SIZES = np.geomspace(1e8, 6e9, 4)
COMPUTE = np.geomspace(1e17, 1e24, 25)
DRAWS = np.random.default_rng(0).multivariate_normal([0.34, 0.28], [[4e-4, 2e-4], [2e-4, 3e-4]], 400)

Draw = Callable[[bool], plots.Figure]


def runs(group: str = "early") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss) of 4 sizes x 5 token counts with 0.5 % noise."""
    size, tokens = (grid.ravel() for grid in np.meshgrid(SIZES, np.geomspace(2e9, 2e11, 5)))
    noise = 0.005 * np.random.default_rng(1).standard_normal(20)
    return size, tokens, SURFACES[group].loss(size, tokens) * np.exp(noise)


def optimum(group: str, compute: np.ndarray) -> np.ndarray:
    """N*(C) under 6 N D."""
    s = SURFACES[group]
    share = (s.alpha * s.A / (s.beta * s.B)) ** (1 / (s.alpha + s.beta))
    return share * (compute / 6) ** (s.beta / (s.alpha + s.beta))


def frontier(group: str = "early", entropy: float | None = None) -> plots.Frontier:
    """Runs and the true frontier with a band of 2 %."""
    size, tokens, loss = runs(group)
    best = optimum(group, COMPUTE)
    value = SURFACES[group].loss(best, COMPUTE / 6 / best)
    curve = plots.Curve(COMPUTE, value, 0.98 * value, 1.02 * value)
    compute = 6 * size * tokens
    return plots.Frontier(group, size, compute, loss, curve, (compute.min(), compute.max()), entropy)


def isoflop(compute: float, refused: bool = False) -> plots.IsoflopSlice:
    """A slice of 7 sizes with a parabola 10 % off, corrected to the truth; or one whose minimum is refused."""
    best = float(optimum("early", np.array([compute]))[0])
    size = best * np.geomspace(1 / 6, 6, 7)
    loss = SURFACES["early"].loss(size, compute / 6 / size)
    law, parabola = plots.Curve(size, loss, 0.99 * loss, 1.01 * loss), plots.Curve(size, 1.003 * loss)
    raw = Interval(1.1 * best, best, 1.2 * best)
    if refused:
        raw = Interval(np.nan, np.nan, np.nan, False, "the lowest loss was observed at the smallest size")
    fixed = None if refused else Interval(best, 0.9 * best, 1.1 * best)
    best_by_law = Interval(best, 0.96 * best, 1.05 * best)
    return plots.IsoflopSlice(compute, size, loss, parabola, law, raw, fixed, best_by_law)


def loss_map(group: str = "early") -> plots.LossMap:
    """The true surface on 20 x 20 points, with its path and a band of 20 %."""
    size, tokens, loss = runs(group)
    grid_size, grid_tokens = np.geomspace(6e7, 1e10, 20), np.geomspace(1e9, 1e12, 20)
    best = optimum(group, COMPUTE)
    ends = [np.array([factor * best, COMPUTE / 6 / (factor * best)]) for factor in (0.8, 1.25)]
    path = plots.OptimalPath(COMPUTE, best, COMPUTE / 6 / best, (1e18, 1e22), ends[0], ends[1])
    surface = SURFACES[group].loss(grid_size[None], grid_tokens[:, None])
    return plots.LossMap(group, size, tokens, loss, grid_size, grid_tokens, surface, path)


def residuals(outlier: float = 0.06) -> plots.Residuals:
    """20 rows of 4 runs about the truth, one of them far off."""
    size, tokens, loss = runs()
    fitted = SURFACES["early"].loss(size, tokens)
    residual = np.log(loss / fitted)
    residual[7] += outlier
    names = [f"run-{list(SIZES).index(s)}" for s in size]
    return plots.Residuals(residual, fitted, size, tokens, names)


def predictions() -> plots.Predictions:
    """The two largest sizes held out, predicted 1 % too high or 2 % too low with an interval of 2 %."""
    size, tokens, loss = runs()
    held = size > 1e9
    off = np.where(np.arange(20) % 2, 0.98, 1.01)
    predicted = np.where(held, off, 1.0) * SURFACES["early"].loss(size, tokens)
    distance = np.maximum(size / SIZES[1], 1.0)
    ends = [np.where(held, factor * predicted, np.nan) for factor in (0.98, 1.02)]
    return plots.Predictions(loss, predicted, held, distance, "N", ends[0], ends[1])


def profiles() -> list[plots.Profile]:
    """Closed, open below, open on both sides."""
    value, wide = np.linspace(0.2, 0.5, 31), np.geomspace(1, 1e4, 31)
    closed = plots.Profile("alpha", value, ((value - 0.34) / 0.03) ** 2, Interval(0.34, 0.281, 0.399))
    rise = 6 / (1 + np.exp((0.4 - value) / 0.01))
    half = plots.Profile("E", value, rise, Interval(0.3, -np.inf, 0.406, False, "flat"), "nats / token")
    flat = plots.Profile("R_D", wide, np.full(31, 0.2), Interval(8.0, np.nan, np.nan, False, "flat"), "epochs", True)
    return [closed, half, flat]


def multiplier(right: str = "late") -> plots.Multiplier:
    """Rises through 1 at 1e21; a bound above 1e22, an optimum at the edge below 1e20."""
    compute = np.geomspace(1e19, 1e23, 21)
    value = (compute / 1e21) ** 0.05
    bands = [value * factor for factor in (0.9, 1.1, 0.85, 1.18)]
    crossover = Interval(1e21, 2e20, np.inf)
    return plots.Multiplier("early", right, compute, value, *bands, compute > 1e22, compute < 1e20, crossover)


def estimates() -> list[plots.Estimate]:
    """Two groups, three methods: one refused, one not identified."""
    found = []
    for group, shift in (("early", 0.0), ("late", 0.06)):
        for method, a in (("1 envelope", 0.5), ("2 isoFLOP, raw", 0.47), ("3 law, closed form", 0.455)):
            pair = [Interval(v, v - 0.03, v + 0.03) for v in (a + shift, 1 - a - shift)]
            found.append(plots.Estimate(group, method, pair[0], pair[1]))
    found[1] = plots.Estimate("early", "2 isoFLOP, raw", None, None, "3 of 5 minima lie at the edge of the sizes")
    found[3] = plots.Estimate("late", "1 envelope", Interval(0.5, -np.inf, np.inf, False, "flat"), found[3].b)
    return found


def settings() -> list[plots.Setting]:
    """The default, one inside its interval, one outside, one without an interval, one that gives nothing."""

    def gives(alpha: float, half: float) -> dict[str, Interval]:
        return {"alpha": Interval(alpha, alpha - half, alpha + half), "E": Interval(1.7, 1.6, 1.8)}

    return [
        plots.Setting("objective", "log-mse", gives(0.35, 0.02)),
        plots.Setting("objective", "log-huber", gives(0.34, 0.02), is_default=True),
        plots.Setting("rows", "without the smallest", gives(0.38, 0.02)),
        plots.Setting("N", "non-embedding", gives(0.345, np.nan)),
        plots.Setting("N", "active", {}, why="no column of active N"),
    ]


def additions() -> list[plots.Additions]:
    """Three labelled runs with an interval, and a single mark."""
    flops, width = np.array([2e19, 5e19, 1e20]), np.array([0.2, 0.15, 0.1])
    labels = ["N 100M D 4B", "N 200M D 2B", "N 800M D 1B"]
    first = plots.Additions(flops, width, labels, 0.9 * width, 1.1 * width)
    return [first, plots.Additions([1e20], [0.22], label="chosen blindly")]


def powers() -> list[plots.Power]:
    """Two questions over four designs of 200 simulations."""
    share = np.array([0.2, 0.5, 0.8, 0.95])
    low, high = np.maximum(share - 0.07, 0), np.minimum(share + 0.07, 1)
    wide = plots.Power("early or moe", [4, 8, 16, 32], share, low, high, 200)
    return [wide, plots.Power("early or late", [4, 8, 16, 32], share / 4, low / 4, high / 3.5, 200)]


def clouds(narrow: bool = False, count: int = 400) -> plots.Figure:
    """Two exponents, and a coefficient that rises with one of them; draws of beta held at a bound."""
    alpha, beta = DRAWS[:count].T
    draws = {"alpha": alpha, "beta": np.maximum(beta, 0.26), "A": 400 * np.exp(19 * (alpha - 0.34))}
    best = {"alpha": 0.34, "beta": 0.28, "A": 400.0}
    pairs, bounds = [("alpha", "beta"), ("alpha", "A")], {"beta": (0.26, np.inf)}
    return plots.bootstrap_clouds(draws, best, pairs, log=("A",), bounds=bounds, units={"A": "nats"}, narrow=narrow)


PICTURES: Mapping[str, Draw] = {
    "frontier": lambda narrow: plots.compute_frontier([frontier("early"), frontier("late")], narrow=narrow),
    "excess": lambda narrow: plots.compute_frontier([frontier("early", 1.6)], excess=True, narrow=narrow),
    "isoflop": lambda narrow: plots.isoflop_slices([isoflop(6e18, True), isoflop(1e20), isoflop(2e21)], narrow),
    "contour": lambda narrow: plots.loss_contour([loss_map("early"), loss_map("late")], narrow=narrow),
    "residuals": lambda narrow: plots.residual_panels(residuals(), "early, avg", narrow),
    "predictions": lambda narrow: plots.predicted_against_observed(predictions(), "early, avg", narrow),
    "profiles": lambda narrow: plots.profile_curves(profiles(), 3.84, narrow=narrow),
    "clouds": clouds,
    "multiplier": lambda narrow: plots.multiplier_curves([multiplier()], ["early", "late"], narrow),
    "approaches": lambda narrow: plots.approaches_forest(estimates(), narrow),
    "sensitivity": lambda narrow: plots.sensitivity_forest(settings(), {"E": "nats / token"}, narrow),
    "design": lambda narrow: plots.design_curve(additions(), 0.3, "alpha", narrow=narrow),
    "power": lambda narrow: plots.power_curve(powers(), narrow=narrow),
}
