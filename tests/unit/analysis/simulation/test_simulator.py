from __future__ import annotations

import numpy as np
import pytest

from analysis.fit import fit_law
from analysis.rows.table import Columns, load
from analysis.simulation.simulator import (
    COLUMNS,
    Design,
    Noise,
    crossed,
    expected,
    grid,
    isoflop,
    repeated,
    responses,
    rows_design,
    scattered,
    simulate_rows,
)
from analysis.simulation.surfaces import EARLY, EARLY_SIZES, LATE, SPARSE, paper_design, with_more_sizes

PARAMS = EARLY.params


def test_rows_go_through_load_and_a_fit_finds_the_law() -> None:
    rows = simulate_rows("chinchilla", PARAMS, paper_design(), group="early")
    table = load(rows, COLUMNS)
    assert table.exclusions == () and table.groups == ["early"]
    sample, _ = table.sample("early", "loss")
    assert len(sample) == sample.num_clusters == 72
    fit = fit_law(sample, "free", check=False)
    np.testing.assert_allclose([fit.params[name] for name in PARAMS], list(PARAMS.values()), rtol=1e-6)


def test_the_same_seed_gives_the_same_rows() -> None:
    noise = Noise(0.01, 0.003, tails=4.0, outliers=0.1)
    one, again, other = (simulate_rows("chinchilla", PARAMS, paper_design(), noise, seed=s) for s in (3, 3, 4))
    assert one == again and one != other


def test_checkpoints_of_a_run_share_their_noise() -> None:
    design = grid([1e8, 1e9], [1e9, 2e9, 4e9], seeds=200, one_run=True)
    assert (len(design), design.num_runs) == (1200, 400)
    clean = expected("chinchilla", PARAMS, design)
    drawn = np.log(responses("chinchilla", PARAMS, design, Noise(0.02, 0.002), 1, 1)[0] / clean)
    by_run = np.stack([drawn[design.run == run] for run in range(400)])
    assert 0.018 < by_run.mean(axis=1).std() < 0.022
    assert 0.0018 < by_run.std(axis=1, ddof=1).mean() < 0.0022
    table = load(simulate_rows("chinchilla", PARAMS, grid([1e8, 1e9], [1e9, 2e9], one_run=True)), COLUMNS)
    assert table.sample("simulated", "loss")[0].num_clusters == 2


def test_tails_and_outliers_are_what_they_say() -> None:
    design = rows_design(N=np.full(20000, 1e9), D=np.full(20000, 1e10))
    rng = np.random.default_rng(0)
    heavy = Noise(0.0, 0.01, tails=3.0).draw(design, 1, rng)[0]
    assert np.median(np.abs(heavy)) < 0.006 and np.abs(heavy).max() > 0.08
    plain = Noise(0.0, 0.01).draw(design, 1, np.random.default_rng(1))
    raised = Noise(0.0, 0.01, outliers=0.1, outlier_size=0.2).draw(design, 1, np.random.default_rng(1))
    change = (raised - plain)[0]
    assert (change >= 0).all() and 0.09 < np.mean(change > 0) < 0.11 and 0.19 < change[change > 0].mean() < 0.21


def test_designs_cover_what_they_promise() -> None:
    slices = isoflop([1e19, 1e20], per_budget=5, spread=4.0, tokens_per_parameter=20.0, exponent=0.6)
    compute = slices.columns["C"]
    np.testing.assert_allclose(6 * slices.columns["N"] * slices.columns["D"], compute)
    assert sorted(set(compute)) == [1e19, 1e20] and slices.num_runs == 10
    middle = slices.columns["N"].reshape(2, 5)[:, 2]
    assert middle[1] / middle[0] == pytest.approx(10**0.6)
    np.testing.assert_allclose(slices.columns["N"].reshape(2, 5)[:, 4] / middle, 4.0)
    cloud = scattered(50, (1e7, 1e9), (1e9, 1e11), seed=2)
    assert cloud.columns["N"].min() >= 1e7 and cloud.columns["N"].max() <= 1e9 and len(cloud) == 50
    assert len(set(paper_design().columns["N"])) == 6 and len(set(with_more_sizes(11).columns["N"])) == 11
    assert with_more_sizes(9).columns["N"].max() == pytest.approx(EARLY_SIZES[-1])
    assert grid([1e8], [1e9, 2e9], one_run=True).flops() == 6 * 1e8 * 2e9
    assert grid([1e8], [1e9, 2e9]).flops() == 6 * 1e8 * 3e9


def test_seeds_are_fresh_runs_with_a_number() -> None:
    design = repeated(grid([1e8, 1e9], [1e9, 2e9], one_run=True), 3)
    assert design.num_runs == 6 and list(design.seed) == [0] * 4 + [1] * 4 + [2] * 4
    assert set(design.run[design.seed == 0]).isdisjoint(design.run[design.seed == 1])
    with pytest.raises(ValueError, match="at least 1"):
        repeated(design, 0)


def test_laws_with_further_columns() -> None:
    params = PARAMS | {"R_D": 15.0, "R_N": 5.0}
    base = grid(np.geomspace(1e8, 1e10, 6).tolist(), np.geomspace(1e9, 1e11, 4).tolist())
    design = crossed(base, U=[1e9, 1e10])
    assert len(design) == 48 and design.num_runs == 48
    rows = simulate_rows("data_constrained", params, design)
    assert {row["U"] for row in rows} == {1e9, 1e10}
    sample, _ = load(rows, COLUMNS, needed=("N", "D", "U")).sample("simulated", "loss")
    np.testing.assert_allclose(sample.loss, expected("data_constrained", params, design))
    with pytest.raises(ValueError, match="reads U; the design has N, D, C"):
        simulate_rows("data_constrained", params, base)


def test_laws_of_compute_alone_and_of_an_excess() -> None:
    rows = simulate_rows("power_C", {"A": 29.574, "alpha": 0.0492}, rows_design(C=np.geomspace(1e19, 1e22, 8)))
    columns = Columns(compute="C", group="group", cluster="run", targets=("loss",))
    sample, _ = load(rows, columns, needed=("C",)).sample("simulated", "loss")
    assert fit_law(sample, "power_C", check=False).params["alpha"] == pytest.approx(0.0492, rel=1e-6)
    excess = {name: value for name, value in PARAMS.items() if name != "E"}
    floored = simulate_rows("chinchilla_excess", excess, paper_design(), entropy=PARAMS["E"])
    whole = simulate_rows("chinchilla", PARAMS, paper_design())
    np.testing.assert_allclose([r["loss"] for r in floored], [r["loss"] for r in whole])
    sample, _ = load(floored, COLUMNS).sample("simulated", "loss")
    assert fit_law(sample, "known", check=False).params["alpha"] == pytest.approx(0.301, rel=1e-6)


def test_accuracies_get_additive_noise() -> None:
    law_params = {"epsilon": 0.8, "k": 2.0, "gamma": 1.0}
    design = rows_design(L=np.linspace(2.0, 3.0, 500))
    drawn = responses("error_exponential", law_params, design, Noise(0.0, 0.01), 1, 0)[0]
    error = drawn - expected("error_exponential", law_params, design)
    assert 0.009 < error.std() < 0.011


def test_mistakes_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="gamma is missing or unknown"):
        expected("chinchilla", PARAMS | {"gamma": 1.0}, paper_design())
    with pytest.raises(ValueError, match="more than 2 degrees"):
        Noise(tails=2.0)
    with pytest.raises(ValueError, match="row is -1"):
        Noise(row=-1.0)
    with pytest.raises(ValueError, match="share of the rows"):
        Noise(outliers=1.0)
    with pytest.raises(ValueError, match="column N has 2 rows"):
        Design({"N": np.ones(2)}, np.arange(3), np.zeros(3, dtype=np.intp))


def test_the_published_surfaces_lie_on_the_published_hulls() -> None:
    """L = 29.574 C^-0.0492 (early) and 29.923 C^-0.0494 (late), arXiv 2504.07951, figure 5."""
    compute = np.geomspace(1e20, 6e21, 5)
    for truth, K, c in ((EARLY, 29.574, 0.0492), (LATE, 29.923, 0.0494)):
        sizes = np.geomspace(1e7, 1e11, 2000)[:, None]
        lowest = truth.loss(sizes, compute / (6 * sizes)).min(axis=0)
        np.testing.assert_allclose(lowest, K * compute**-c, rtol=0.015)
        assert "derived" in truth.caveat
    assert "derived" not in SPARSE.caveat and SPARSE.params["A"] == 381773.0
