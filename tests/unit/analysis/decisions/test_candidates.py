from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.commands.design import design_main
from analysis.commands.fit import fit_main
from analysis.decisions.candidates import Candidate, beside_known, read_candidates
from analysis.decisions.design import design
from analysis.decisions.information import Blocks, noise_matrix
from analysis.fit import fit_law
from analysis.result import FitResult
from analysis.rows.table import Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, grid, repeated, simulate_rows
from analysis.simulation.surfaces import EARLY, EARLY_SIZES

NOISE = Noise(0.004, 0.002)
BASE = repeated(grid(EARLY_SIZES, [5e9, 3e10, 2e11], one_run=True), 2)


@pytest.fixture(scope="module")
def pair() -> tuple[FitResult, Sample]:
    rows = simulate_rows("chinchilla", EARLY.params, BASE, NOISE, seed=3)
    sample, _ = load(rows, COLUMNS).sample("simulated", "loss")
    return fit_law(sample, "free", check=False), sample


def test_rows_beside_known_ones_add_up_to_all_of_them_together() -> None:
    rng = np.random.default_rng(0)
    every = rng.standard_normal((5, 3))
    old = np.zeros((2, 4, 3))
    old[0, :3], old[1, :4] = every[:3], rng.standard_normal((4, 3))
    new = np.zeros((3, 2, 3))
    new[0], new[1, 0], new[2, 0] = every[3:], every[3], every[4]
    before = Blocks(old, noise_matrix(np.array([3, 4]), 4, 0.5, 0.3))
    offered = Blocks(new, noise_matrix(np.array([2, 1, 1]), 2, 0.5, 0.3))
    found = beside_known(offered, before, np.array([0, 0, -1]), 0.5)
    for m, rows in ((0, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3])):
        jacobian = every[rows]
        together = jacobian.T @ np.linalg.solve(0.3**2 * np.eye(len(rows)) + 0.5**2, jacobian)
        np.testing.assert_allclose(before.information[0] + found.information[m], together, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.information[2], offered.information[2])


def test_a_run_is_continued_once_and_tells_less_than_a_new_one(pair: tuple[FitResult, Sample]) -> None:
    fit, sample = pair
    row = sample.run_ids[0]
    size = float(sample.size[0])
    more = [Candidate(size, (tokens,), 1e18, beside=row) for tokens in (1e10, 6e10)]
    new = Candidate(size, (6e10,), 1e18)
    found = design(fit, sample, "alpha", 1e19, noise=NOISE, candidates=more)
    assert len(found.steps) == 1 and found.steps[0].run.beside == row
    alone = design(fit, sample, "alpha", 1e18, noise=NOISE, candidates=[more[1]])
    fresh = design(fit, sample, "alpha", 1e18, noise=NOISE, candidates=[new])
    assert fresh.ratio < alone.ratio < 1.0
    with pytest.raises(ValueError, match="continue runs that the fit of simulated/loss did not use .*'elsewhere'"):
        design(fit, sample, "alpha", 1e19, noise=NOISE, candidates=[Candidate(1e9, (1e10,), 1e18, beside="elsewhere")])


def test_candidates_count_as_many_runs_as_they_say(pair: tuple[FitResult, Sample]) -> None:
    four = Candidate(EARLY_SIZES[2], (5e9, 3e10, 2e11), 1e18, runs=4)
    found = design(*pair, "beta", 1e20, noise=NOISE, candidates=[four], max_runs=9)
    assert len(found.steps) == 2
    with pytest.raises(ValueError, match="buy none of the 1 candidates with at most 3 runs"):
        design(*pair, "beta", 1e20, noise=NOISE, candidates=[four], max_runs=3)


def test_a_run_that_a_fit_weighs_too_much_is_not_chosen(pair: tuple[FitResult, Sample]) -> None:
    lonely = Candidate(4e10, (6e11,), 1e18)  # far out, with all of its run's noise and nothing to take it off
    found = design(*pair, "beta", 1e18, noise=NOISE, candidates=[lonely])
    assert found.ratio == 1.0 and not found.steps and any("no run on offer narrows beta" in n for n in found.notes)


def test_json_and_csv_hold_the_same(tmp_path: Path) -> None:
    listed = [
        {"name": "x", "N": 1e9, "D": [1e10, 2e10], "flops": 1e20, "runs": 3, "beside": ""},
        {"name": "y", "N": 2e9, "D": [1e10], "flops": 2e20, "runs": 1, "beside": "r7"},
    ]
    (tmp_path / "c.json").write_text(json.dumps(listed))
    lines = ["name,N,D,flops,runs,beside", "x,1e9,1e10 2e10,1e20,3,", "y,2e9,1e10,2e20,,r7"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    found = read_candidates(tmp_path / "c.json")
    assert found == read_candidates(tmp_path / "c.csv")
    assert found[0] == Candidate(1e9, (1e10, 2e10), 1e20, "x", 3) and found[1].beside == "r7"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"N": 1e9, "D": [1e10]}, "must have N, D and flops"),
        ({"N": 1e9, "D": [1e10], "flops": 1e20, "colour": 1}, "must have N, D and flops"),
        ({"N": 1e9, "D": [2e10, 1e10], "flops": 1e20}, "D rising"),
        ({"N": -1.0, "D": [1e10], "flops": 1e20}, "must be positive"),
        ({"N": "big", "D": [1e10], "flops": 1e20}, "must be numbers"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, entry: dict[str, object], words: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([{"N": 1e9, "D": [1e10], "flops": 1e20}, entry]))
    with pytest.raises(ValueError, match=f"c.json, entry 2: .*{words}"):
        read_candidates(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="lists no candidates"):
        read_candidates(path)


def test_the_command_takes_a_file_and_writes_both_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.DataFrame(simulate_rows("chinchilla", EARLY.params, BASE, NOISE, seed=3))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    names = ["--n", "N", "--d", "D", "--run", "run", "--group", "group", "--loss", "loss", "--law", "chinchilla"]
    fits = str(tmp_path / "fits.json")
    assert fit_main([str(tmp_path / "rows.csv"), *names, "--bootstrap", "60", "--json", fits]) == 0
    (tmp_path / "c.csv").write_text(f"name,N,D,flops\nbig one,{EARLY_SIZES[2]},5e9 3e10 2e11,1e20\n")
    given = ["--quantity", "beta", "--budget", "2.5e20", "--candidates", str(tmp_path / "c.csv")]
    assert design_main([fits, *given, "--json", str(tmp_path / "plan.json")]) == 0
    assert "big one" in capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    low, high = json.loads(Path(fits).read_text())["ci"]["beta"]
    assert [step["run"]["name"] for step in plan["steps"]] == ["big one"] * 2
    assert (plan["fitted"]["low"], plan["fitted"]["high"]) == (low, high)
    assert low < plan["expected"]["low"] < plan["fitted"]["value"] < plan["expected"]["high"] < high
    width = plan["expected"]["high"] - plan["expected"]["low"]
    assert width == pytest.approx(plan["ratio"] * (high - low))
