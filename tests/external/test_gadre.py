"""Over-training (arXiv 2403.08540): five small runs predict a 1.4B model at M = 640 and a 6.9B one at M = 20.

The five runs of a data set are the four small models at 20 tokens per parameter and the smallest at 320. The published
numbers are those of plain squared error of the loss (lin-mse); log objectives give other coefficients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import Columns, Sample, load

CSV = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gadre_overtraining" / "models.csv"
pytestmark = pytest.mark.skipif(not CSV.exists(), reason="the published runs are not beside this repository")

SMALL = "N < 5e8 and chinchilla_multiplier == 1 or N < 2e7 and chinchilla_multiplier == 16"


def runs(dataset: str, keep: str | None) -> Sample:
    columns = Columns("N", "D", "C6ND", group="dataset", targets=("c4_val",))
    return load(CSV, columns, keep=keep).sample(dataset, "c4_val")[0]


def five(dataset: str, objective: str = "lin-mse") -> FitResult:
    sample = runs(dataset, SMALL)
    assert len(sample) == 5
    return fit_law(sample, "chinchilla_tied", objective=objective)


@pytest.mark.parametrize(
    ("dataset", "a", "beta", "slope", "E"),
    [("rpj", 166.21, 366.69, -0.27285, 1.83665), ("c4_original", 113.69, 189.52, -0.24247, 1.50826),
     ("rw_original", 125.10, 246.21, -0.25439, 1.73446)],
)  # fmt: skip
def test_the_published_coefficients(dataset: str, a: float, beta: float, slope: float, E: float) -> None:
    """L = a N^b + beta 6^(b/2) (M N)^b + E with b = -alpha, A = a and B = beta 6^(b/2), since M N = D."""
    fit = five(dataset)
    assert fit.params["A"] == pytest.approx(a, abs=0.0051) and -fit.params["alpha"] == pytest.approx(slope, abs=6e-6)
    assert fit.params["E"] == pytest.approx(E, abs=6e-6)
    assert fit.params["B"] * 6 ** (fit.params["alpha"] / 2) == pytest.approx(beta, abs=0.0051)
    if dataset == "rpj":
        assert fit.objective_value == pytest.approx(4.25648e-4, rel=1e-6)


def held_out(fit: FitResult, run: str) -> float:
    """Relative error in per cent of the run ``run`` of the large models."""
    sample = runs("rpj", f"name == '{run}'")
    assert len(sample) == 1 and sample.size[0] > fit.ranges["N"][1]
    return float(100 * (fit.respond(sample.columns)[0, 0] / sample.loss[0] - 1))


def test_the_published_hold_out_errors() -> None:
    fit = five("rpj")
    assert abs(held_out(fit, "rpj-open_lm_1b-32.0")) == pytest.approx(0.7103, abs=5e-5)
    assert abs(held_out(fit, "rpj-open_lm_7b-1.0")) == pytest.approx(0.7320, abs=5e-5)


def test_another_objective_gives_other_errors() -> None:
    errors = [held_out(five("rpj", objective), "rpj-open_lm_1b-32.0") for objective in ("lin-mse", "log-mse")]
    assert abs(errors[0] - errors[1]) > 0.05


def test_four_parameters_from_five_runs_are_not_sold_as_known() -> None:
    fit = five("rpj")
    assert fit.status == "not_identified" and "E" in fit.unidentified and np.isfinite(fit.objective_value)
