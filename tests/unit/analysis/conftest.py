"""Tables drawn from known surfaces, and one small study shared by the tests that only read it."""

from __future__ import annotations

import pytest

from analysis.rows.table import Columns, RunTable, load
from analysis.simulation.synthetic import SURFACES, simulate
from analysis.study import Options, Study, fit_study


@pytest.fixture(scope="session")
def table() -> RunTable:
    """Three groups, five sizes, four token counts, one seed; the two targets that cover all code paths."""
    return load(simulate(seed=1), Columns(targets=("avg", "text")))


@pytest.fixture(scope="session")
def study(table: RunTable) -> Study:
    """Every form of every group and target, 40 resamples."""
    return fit_study(table, Options(draws=40))


@pytest.fixture(scope="session")
def quiet_table() -> RunTable:
    """The same design without any noise, captions of one group only: a fit must find the surface itself."""
    rows = simulate({"early": {"caption": SURFACES["early"]["caption"]}}, trunk_noise=0.0, row_noise=0.0)
    return load(rows, Columns(targets=("caption",)))
