"""Routed models (arXiv 2202.01169): the bilinear law in log N and log of the effective number of experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.rows.table import Columns, load

CSV = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clark_routing" / "final_step.csv"
pytestmark = pytest.mark.skipif(not CSV.exists(), reason="the published runs are not beside this repository")

NAMES = ("a", "b", "c", "d", "E_start", "E_max")
REFIT = {
    "S-Base": ((-0.0830, -0.1180, 0.0099, 1.1136, 2.0746, 238.7), 0.00323),
    "RL-R": ((-0.0827, -0.1234, 0.0112, 1.1070, 1.722, 470.1), 0.00323),
    "Hash": ((-0.0874, -0.1384, 0.0126, 1.1595, 4.269, 427.3), 0.00298),
}
PUBLISHED = {
    "S-Base": (-0.082, -0.108, 0.009), "RL-R": (-0.083, -0.126, 0.012), "Hash": (-0.087, -0.136, 0.012),
}  # fmt: skip


@pytest.mark.parametrize("router", REFIT)
def test_every_router_within_the_tolerance(router: str) -> None:
    """k = 1, routing in every second block, seed 42, and the dense models as one expert; squared error of ln L."""
    columns = Columns("dense_parameter_count", "step", targets=("validation",), extra=(("E", "num_experts"),))
    keep = f"router_type in ('{router}', 'Dense') and k == 1 and routing_frequency == 0.5 and seed == 42"
    sample = load(CSV, columns, needed=("N", "E"), keep=keep).sample("all", "validation")[0]
    fit = fit_law(sample, "routed", objective="log-mse")
    refit, rms = REFIT[router]
    assert fit.status == "converged" and fit.num_optima == 1
    assert np.sqrt(fit.objective_value / len(sample)) / np.log(10.0) == pytest.approx(rms, abs=5e-6)
    assert [fit.params[name] for name in NAMES[:4]] == pytest.approx(refit[:4], abs=1e-4)
    assert [fit.params[name] for name in NAMES[4:]] == pytest.approx(refit[4:], rel=1e-3)
    assert [fit.params[name] for name in NAMES[:3]] == pytest.approx(PUBLISHED[router], abs=0.0105)
