from __future__ import annotations

import numpy as np
import pytest

from analysis.decisions.allocate import allocate
from analysis.decisions.concrete import sizes_of
from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import RunTable, TableError, load
from analysis.simulation.simulator import COLUMNS, Noise, simulate_rows
from analysis.simulation.surfaces import EARLY, paper_design
from analysis.simulation.synthetic import SIZES


@pytest.fixture(scope="module")
def fit() -> FitResult:
    rows = simulate_rows("chinchilla", EARLY.params, paper_design(), Noise(0.0, 0.004), seed=3)
    return fit_law(load(rows, COLUMNS).sample("simulated", "loss")[0], "free", check=False)


def test_sizes_are_read_from_the_rows(table: RunTable) -> None:
    assert sizes_of(table, group="early") == [(f"s{i}", size) for i, size in enumerate(SIZES)]
    assert sizes_of(table) == sizes_of(table, group="moe")
    with pytest.raises(TableError, match="no column 'width' with names of sizes"):
        sizes_of(table, "width")
    with pytest.raises(TableError, match="size 'early' has several N"):
        sizes_of(table, "arch")


def test_the_size_with_the_lowest_loss_wins_not_the_nearest_number(fit: FitResult) -> None:
    best = allocate(fit, 1e21)[0].size.value
    near = [("small", best / 2.0), ("large", best * 2.0)]
    (found,) = allocate(fit, 1e21, sizes=near)
    assert found.config is not None and found.config.steps is None
    losses = [fit.predict(size, 1e21 / (6 * size))[0] for _, size in near]
    assert found.config.name == near[int(np.argmin(losses))][0]


def test_whole_steps_never_exceed_the_budget_unless_one_step_does(fit: FitResult) -> None:
    sizes = [("1B", 1e9), ("3B", 3e9)]
    for budget in np.geomspace(1.3e20, 7.7e21, 7):
        (found,) = allocate(fit, budget, sizes=sizes, step=1e9)
        assert found.config is not None and found.config.compute <= budget * (1 + 1e-12)
        assert found.config.steps is not None and found.config.steps >= 1
    (tiny,) = allocate(fit, 1e16, sizes=sizes, step=1e9)
    assert tiny.config is not None and (tiny.config.name, tiny.config.steps) == ("1B", 1)
    assert tiny.config.compute > 1e16


def test_sizes_and_steps_must_be_positive(fit: FitResult) -> None:
    with pytest.raises(ValueError, match="size 'x' has N = -1"):
        allocate(fit, 1e21, sizes=[("x", -1.0)])
    with pytest.raises(ValueError, match="a step of 0 tokens"):
        allocate(fit, 1e21, sizes=[("x", 1e9)], step=0)
