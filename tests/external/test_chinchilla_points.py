"""The points read from Chinchilla's figure (arXiv 2404.10102): the known optima of named objectives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.bootstrap import bootstrap
from analysis.fit import fit_law
from analysis.laws import chinchilla
from analysis.table import Columns, Sample, load

CSV = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "besiroglu_chinchilla" / "svg_extracted_data.csv"
pytestmark = pytest.mark.skipif(not CSV.exists(), reason="the published points are not beside this repository")

# objective -> (E, A, B, alpha, beta, value of the objective), 240 rows
OPTIMA = {
    1e-3: (1.8172181, 477.82587, 2143.41736, 0.34731050, 0.36717243, 1.0182740178e-3),
    np.inf: (1.8645501, 593.32210, 4875.63781, 0.36025280, 0.40588336, None),
}


def points(dropped: int = 5) -> Sample:
    """The rows with a loss below the ``dropped``-th highest (ties go with it)."""
    frame = pd.read_csv(CSV).rename(columns={"Model Size": "n", "Training FLOP": "c"})
    frame["d"] = frame["c"] / (6 * frame["n"])
    kept = frame[frame["loss"] < frame["loss"].nlargest(dropped).min()] if dropped else frame
    return load(kept, Columns("n", "d", "c", targets=("loss",))).sample("all", "loss")[0]


@pytest.mark.parametrize("delta", [1e-3, np.inf])
def test_the_optimum_of_the_objective_is_reached(delta: float) -> None:
    sample = points()
    assert len(sample) == 240
    fit = fit_law(sample, "free", delta)
    *want, value = OPTIMA[delta]
    assert [fit.params[name] for name in ("E", "A", "B", "alpha", "beta")] == pytest.approx(want, rel=3e-6)
    assert fit.status == "converged" and fit.num_optima == 1
    if value is not None:
        assert fit.objective_value <= 1.01827402e-3
        assert fit.objective_value == pytest.approx(value, rel=1e-8)


def test_all_rows_have_another_optimum() -> None:
    fit = fit_law(points(0), "free", "chinchilla")
    assert fit.objective_value == pytest.approx(1.8260105e-3, rel=1e-6)
    assert [fit.params[name] for name in ("E", "alpha", "beta")] == pytest.approx(
        [1.8913385, 0.349313, 0.453049], rel=1e-5
    )


@pytest.mark.parametrize(("dropped", "beta"), [(1, 0.412), (2, 0.403), (3, 0.382), (4, 0.371), (8, 0.358), (15, 0.338)])
def test_the_outlier_rule_moves_beta_as_published(dropped: int, beta: float) -> None:
    assert fit_law(points(dropped), "free", "chinchilla").params["beta"] == pytest.approx(beta, abs=6e-4)


def test_bootstrap_spread_is_the_published_one() -> None:
    sample = points()
    fit = bootstrap(fit_law(sample, "free", "chinchilla"), sample, draws=1000, seed=42)
    assert fit.ci_method.startswith("rows drawn with replacement (240 independent runs)") and fit.draws is not None
    natural = chinchilla().to_natural(fit.draws, fit.center)
    deviation = dict(zip(("E", "A", "alpha", "B", "beta"), natural.std(axis=0), strict=True))
    published = {"E": 0.02566, "A": 124.49, "alpha": 0.0154, "B": 1293.2, "beta": 0.02059}
    assert deviation == pytest.approx(published, rel=0.15)
    assert (fit.ci["alpha"].low, fit.ci["alpha"].high) == pytest.approx((0.3168, 0.3733), abs=0.006)
    assert (fit.ci["beta"].low, fit.ci["beta"].high) == pytest.approx((0.3313, 0.4154), abs=0.008)
    assert fit.derived["a"].value == pytest.approx(0.513900, abs=1e-6)


def test_auto_delta_stays_inside_the_published_interval() -> None:
    fit = fit_law(points(), "free")
    assert 1e-3 < (fit.delta or 0) < 2e-2 and 0.317 < fit.params["alpha"] < 0.373 and 0.331 < fit.params["beta"] < 0.425
