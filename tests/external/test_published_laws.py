"""Laws on the data of the papers that printed them: the published point, and the published optimum or hold-out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.engine.point import fit_point
from analysis.laws.catalogue import law_named
from analysis.laws.downstream import value_at

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SINGLE_EPOCH = {
    "E": np.exp(0.6254804), "A": np.exp(6.255414), "alpha": 0.3526596, "B": np.exp(7.3049974), "beta": 0.3526596,
}  # fmt: skip


def rows(*parts: str) -> pd.DataFrame:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip("the published runs are not beside this repository")
    return pd.read_csv(path)


def columns_of(frame: pd.DataFrame, **names: str) -> dict[str, np.ndarray]:
    return {symbol: frame[name].to_numpy(float) for symbol, name in names.items()}


def test_repeated_data_reproduces_the_published_objective() -> None:
    """f = 0.0158259 at R_D* = 15.387756, R_N* = 5.309743 (arXiv 2305.16264); lower ones exist far away from it."""
    frame = rows("datablations", "repeat_runs.csv")
    columns = columns_of(frame, N="N", D="D", U="U")
    assert len(frame) == 182

    def objective(R_D: float, R_N: float) -> float:
        loss = value_at(law_named("data_constrained"), SINGLE_EPOCH | {"R_D": R_D, "R_N": R_N}, columns)[0]
        size = np.abs(np.log(loss) - np.log(frame["loss"].to_numpy()))
        return float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())

    assert objective(15.387756, 5.309743) == pytest.approx(0.0158259, abs=5e-8)
    assert objective(95.365, 1.7059) == pytest.approx(0.0158046625, abs=1e-9)


@pytest.mark.parametrize(
    ("router", "want"),
    [("S-Base", (-0.0830, -0.1180, 0.0099, 1.1136, 2.0746, 238.7)),
     ("RL-R", (-0.0827, -0.1234, 0.0112, 1.1070, 1.722, 470.1)),
     ("Hash", (-0.0874, -0.1384, 0.0126, 1.1595, 4.269, 427.3))],
)  # fmt: skip
def test_routed_models_give_the_coefficients_of_their_least_squares_fit(router: str, want: tuple[float, ...]) -> None:
    frame = rows("clark_routing", "final_step.csv")
    dense = frame["router_type"] == "Dense"
    kept = (frame["k"] == 1) & (frame["seed"] == 42) & (dense | (frame["routing_frequency"] == 0.5))
    kept &= frame["router_type"].isin([router, "Dense"]) & (frame["flop_increase"].fillna(1) == 1)
    columns = columns_of(frame[kept], N="dense_parameter_count", E="num_experts")
    law = law_named("routed")
    fit = fit_point(law, columns, {}, frame.loc[kept, "loss_validation"].to_numpy(float), "log-mse")
    assert fit.converged and fit.num_optima == 1
    assert law.to_natural(fit.theta[None], {})[0] == pytest.approx(want, rel=2e-3, abs=1e-4)


def test_five_small_runs_predict_the_over_trained_and_the_large_one() -> None:
    """RedPajama, arXiv 2403.08540: 0.71 % at 1.4B and 640 tokens per parameter, 0.73 % at 6.9B."""
    frame = rows("gadre_overtraining", "models.csv").query("dataset == 'rpj'")
    small = frame[
        ((frame["N"] < 5e8) & (frame["chinchilla_multiplier"] == 1))
        | ((frame["N"] < 5e7) & (frame["chinchilla_multiplier"] == 16))
    ]
    law, columns = law_named("chinchilla_tied"), columns_of(small, N="N", D="D")
    centre = law.centre_of(columns)
    fit = fit_point(law, columns, centre, small["loss_c4_val"].to_numpy(float), "lin-mse")
    assert len(small) == 5 and fit.value == pytest.approx(4.25648e-4, rel=1e-5)
    params = dict(zip(law.names, law.to_natural(fit.theta[None], centre)[0], strict=True))
    assert params["A"] == pytest.approx(166.21, abs=0.01) and params["alpha"] == pytest.approx(0.27285, abs=1e-5)
    assert params["B"] * 6 ** (params["alpha"] / 2) == pytest.approx(366.69, abs=0.01)
    for low, high, error in ((1e9, 2e9, 0.7103), (5e9, 1e10, 0.7320)):
        held = frame[frame["N"].between(low, high)].nlargest(1, "M")
        loss = float(held["loss_c4_val"].iloc[0])
        predicted = value_at(law, params, columns_of(held, N="N", D="D"))[0, 0]
        assert 100 * abs(predicted - loss) / loss == pytest.approx(error, abs=2e-4)
