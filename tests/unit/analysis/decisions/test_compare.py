from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from analysis.decisions.compare import (
    _outcome,
    compare,
    compare_all,
    compare_samples,
    exponent_differences,
    interior_budgets,
)
from analysis.decisions.verdicts import (
    Comparison,
    bound_text,
    crossing_text,
    edge_text,
    exponent_texts,
    headline,
    interval_text,
    multiplier_text,
    range_text,
    verdict,
)
from analysis.fit import fit_law
from analysis.result import FitResult, plain
from analysis.rows.table import Columns, Sample, load
from analysis.simulation.simulator import COLUMNS, Noise, rows_design, simulate_rows
from analysis.simulation.surfaces import EARLY, LATE, SPARSE, Truth, paper_design
from analysis.simulation.synthetic import Surface, simulate
from analysis.uncertainty.bootstrap import bootstrap

BASE = Surface(0.32, 150.0, 210.0, 0.64, 0.45)
Fits = dict[str, FitResult]


def fits_of(surface: Surface, group: str, seed: int = 0, **options: object) -> Fits:
    rows = simulate({group: {"text": surface}}, trunk_noise=0.004, row_noise=0.001, seed=seed, **options)  # type: ignore[arg-type]
    sample, _ = load(rows, Columns(targets=("text",))).sample(group, "text")
    return {form: bootstrap(fit_law(sample, form, check=False), sample, 60) for form in ("known", "free")}


@pytest.fixture(scope="module")
def early() -> Fits:
    return fits_of(BASE, "early")


def test_a_true_difference_is_found_with_its_sign(early: Fits) -> None:
    better = fits_of(replace(BASE, A=75.0, B=170.0), "moe", seed=1)
    found = compare(early, better, ("early", "moe"), "text")
    assert (found.status, found.outcome) == ("ok", "right")
    assert headline(found) == "moe reaches a lower loss than early"
    assert all(
        low <= middle <= high < 0 for low, middle, high in zip(found.low, found.difference, found.high, strict=True)
    )
    assert found.multiplier is not None and found.multiplier.high < 1
    turned = compare(better, early, ("moe", "early"), "text")
    assert turned.outcome == "left" and turned.difference[5] > 0
    assert interval_text(turned).startswith("loss of early over moe: +")
    assert "needs" in multiplier_text(found) and range_text(found) in found.verdict


def test_the_compute_multiplier_is_that_of_the_surfaces(early: Fits) -> None:
    factor = 1.5
    slower = Surface(BASE.E, BASE.A, BASE.B * factor**BASE.beta, BASE.alpha, BASE.beta)
    found = compare(early, fits_of(slower, "other", seed=2), ("early", "other"), "text")
    assert found.multiplier is not None and found.multiplier_at is not None
    assert 1.1 < found.multiplier.value < factor * 1.05
    assert found.multiplier.low <= found.multiplier.value <= found.multiplier.high
    assert found.compute[0] < found.multiplier_at < found.compute[-1]


def test_equal_surfaces_are_not_told_apart(early: Fits) -> None:
    found = compare(early, fits_of(BASE, "twin", seed=7), ("early", "twin"), "text")
    assert found.outcome == "unresolved" and headline(found) == "no difference resolved"


def test_a_sliver_of_resolved_compute_is_no_verdict() -> None:
    compute, sign = np.geomspace(1e10, 1e12, 21), np.zeros(21, dtype=int)
    sign[0] = 1
    assert _outcome(sign, compute) == "unresolved"
    sign[:5] = 1
    assert _outcome(sign, compute) == "left"
    sign[-5:] = -1
    assert _outcome(sign, compute) == "crossing"


def test_a_crossing_is_found_inside_the_range(early: Fits) -> None:
    steep = Surface(BASE.E, BASE.A, 8740.0, BASE.alpha, 0.70)
    found = compare(early, fits_of(steep, "steep", seed=3), ("early", "steep"), "text")
    assert found.outcome == "crossing" and found.crossing is not None
    assert found.compute[0] < found.crossing.low <= found.crossing.value <= found.crossing.high < found.compute[-1]
    assert headline(found).startswith("early lower below")


def test_plateau_runs_refuse_the_comparison(early: Fits) -> None:
    found = compare(early, early, ("early", "late"), "text", ["late-s0", "late-s1"])
    assert (found.status, found.outcome) == ("refused", "")
    assert found.verdict == "refused: 2 runs sit on the vision plateau (late-s0, late-s1)"
    assert found.compute == () and found.difference == ()


def test_no_verdict_without_shared_compute(early: Fits) -> None:
    far = fits_of(BASE, "far", seed=1, tokens=(1e9, 2e9, 4e9, 8e9))
    found = compare(early, far, ("early", "far"), "text")
    assert found.status == "no overlap" and "overlaps by less than" in found.verdict
    low, high = found.compute[:1], found.compute[-1:]
    assert low == high == ()


def test_nothing_is_claimed_outside_the_compute_of_both(early: Fits) -> None:
    longer = fits_of(BASE, "longer", seed=1, tokens=(4e6, 8e6, 16e6, 32e6))
    found = compare(early, longer, ("early", "longer"), "text")
    low = max(early["known"].compute_range[0], longer["known"].compute_range[0])
    high = min(early["known"].compute_range[1], longer["known"].compute_range[1])
    assert low * (1 - 1e-9) <= found.compute[0] and found.compute[-1] <= high * (1 + 1e-9)


def test_forms_that_disagree_cancel_the_verdict(early: Fits) -> None:
    better = fits_of(replace(BASE, A=75.0, B=170.0), "moe", seed=1)
    left, right = ({"known": a["known"], "free": b["free"]} for a, b in ((early, better), (better, early)))
    mixed = compare(left, right, ("early", "moe"), "text")
    assert mixed.by_form == {"known": "right", "free": "left"}
    assert mixed.outcome == "unresolved" and "the forms of the law disagree" in mixed.verdict


def test_fits_without_draws_give_no_verdict(early: Fits) -> None:
    bare = {form: replace(fit, draws=None) for form, fit in early.items()}
    assert compare(early, bare, ("early", "bare"), "text").status == "no fit"


def test_every_pair_and_target_is_compared(early: Fits) -> None:
    found = compare_all([*early.values()], ("early", "late", "moe"), ("text",), {"late": ("r1",)})
    assert [(c.left, c.right, c.status) for c in found] == [
        ("early", "late", "refused"),
        ("early", "moe", "no fit"),
        ("late", "moe", "refused"),
    ]


def test_a_comparison_survives_json(early: Fits) -> None:
    found = compare(early, fits_of(replace(BASE, A=75.0), "moe", seed=1), ("early", "moe"), "text")
    back = Comparison.from_dict(json.loads(json.dumps(plain(asdict(found)), allow_nan=False)))
    assert back == found and verdict(back) == found.verdict


def sample_of(truth: Truth, seed: int, noise: float = 0.002, late: bool = False) -> Sample:
    rows = simulate_rows("chinchilla", truth.params, paper_design(late), Noise(0.0, noise), group=truth.name, seed=seed)
    return load(rows, COLUMNS).sample(truth.name, "loss")[0]


@pytest.fixture(scope="module")
def sparse_and_early() -> Comparison:
    return compare_samples(sample_of(EARLY, 1), sample_of(SPARSE, 2), draws=120)


def test_exponents_are_compared_with_their_probabilities(sparse_and_early: Comparison) -> None:
    found = {item.name: item for item in sparse_and_early.exponents}
    assert set(found) == {"alpha", "beta", "a", "b"}
    assert found["alpha"].difference.low < 0.409 < found["alpha"].difference.high and found["alpha"].probability > 0.99
    assert found["a"].difference.high < 0 and found["a"].probability < 0.01
    assert found["a"].difference.value == pytest.approx(-found["b"].difference.value)
    assert found["alpha"].right == pytest.approx(0.71, abs=0.1) and found["alpha"].left == pytest.approx(0.30, abs=0.1)
    lines = exponent_texts(sparse_and_early)
    assert lines[0].startswith("alpha: early 0.") and "larger for sparse with probability 0.99" in lines[0]


def test_unidentified_exponents_have_no_difference(early: Fits) -> None:
    lost = replace(early["free"], unidentified={"alpha": "interval reaches 0"}, group="lost")
    found = {item.name: item.difference for item in exponent_differences(early["free"], lost)}
    assert not found["alpha"].known and found["alpha"].why == "alpha of lost is not identified" and found["beta"].known


def test_early_and_late_are_indistinguishable_where_both_were_tested() -> None:
    left, right = sample_of(EARLY, 3, 0.004), sample_of(LATE, 4, 0.004, late=True)
    found = compare_samples(left, right, draws=120)
    assert found.outcome == "unresolved" and bound_text(found).startswith("indistinguishable in this range: late lies")
    assert bound_text(found) in found.verdict and not any(found.at_edge)
    assert found.crossing is None and found.crossing_probability is not None
    assert f"probability {found.crossing_probability:.2f}" in crossing_text(found)
    every = compare_samples(left, right, draws=120, interior=False)
    assert every.compute[0] < found.compute[0] and any(every.at_edge) and every.compute[-1] > found.compute[-1]


def test_what_is_resolved_at_an_edge_says_so(early: Fits) -> None:
    found = compare(early, fits_of(replace(BASE, A=75.0, B=170.0), "moe", seed=1), ("early", "moe"), "text")
    assert found.outcome == "right" and any(found.at_edge)
    assert edge_text(found) in found.verdict and "use the smallest or largest size or data tested" in edge_text(found)
    assert edge_text(replace(found, at_edge=(False,) * len(found.compute))) == ""
    inner = compare(early, early, ("early", "twin"), "text", interior=True)
    assert inner.outcome == "unresolved" and edge_text(inner) == ""


def test_budgets_at_an_edge_stay_when_too_few_remain() -> None:
    compute = np.geomspace(1.0, 100.0, 21)
    edge = (compute < 5) | (compute > 30)
    np.testing.assert_array_equal(interior_budgets(edge, compute), ~edge)
    assert interior_budgets((compute < 5) | (compute > 8), compute).all()
    assert interior_budgets(np.ones(21, dtype=bool), compute).all()


def test_the_probability_of_a_crossing_is_that_of_the_draws(early: Fits) -> None:
    steep = fits_of(Surface(BASE.E, BASE.A, 8740.0, BASE.alpha, 0.70), "steep", seed=3)
    found = compare(early, steep, ("early", "steep"), "text")
    assert found.crossing_probability == 1.0 and found.crosses_at == found.crossing and found.crosses_at.known  # type: ignore[union-attr]
    better = compare(early, fits_of(replace(BASE, A=75.0, B=170.0), "moe", seed=1), ("early", "moe"), "text")
    assert better.crossing_probability == 0.0 and better.crosses_at is None
    assert crossing_text(better) == "the curves cross in the tested range with probability 0.00"


def test_a_law_of_compute_alone_is_its_own_frontier() -> None:
    rows = []
    for i, (name, level) in enumerate((("a", 30.0), ("b", 28.0))):
        design = rows_design(C=np.geomspace(1e18, 1e21, 10))
        rows += simulate_rows("power_C", {"A": level, "alpha": 0.05}, design, Noise(0.0, 0.001), group=name, seed=i)
    table = load(rows, Columns(compute="C", group="group", cluster="run", targets=("loss",)), needed=("C",))
    found = compare_samples(table.sample("a", "loss")[0], table.sample("b", "loss")[0], "power_C", draws=100)
    assert found.outcome == "right" and found.form == "power_C" and len(found.exponents) == 1
    assert found.multiplier is not None and found.multiplier.low < (28 / 30) ** 20 < found.multiplier.high


def test_any_law_of_size_and_data_can_be_compared() -> None:
    left, right = sample_of(EARLY, 5, 0.001), sample_of(SPARSE, 6, 0.001)
    fits = [bootstrap(fit_law(sample, "skaling", check=False), sample, 40) for sample in (left, right)]
    found = compare({"skaling": fits[0]}, {"skaling": fits[1]}, ("early", "sparse"), "loss")
    assert found.status == "ok" and found.form == "skaling"
    assert {"alpha", "beta", "k", "a", "b"} == {item.name for item in found.exponents}


def test_old_comparisons_are_still_read() -> None:
    old = {"left": "a", "right": "b", "target": "avg", "status": "refused", "outcome": "", "verdict": "refused",
           "crossing": None, "multiplier": None, "refused": ["r1"], "compute": []}  # fmt: skip
    found = Comparison.from_dict(old)
    assert found.refused == ("r1",) and found.multiplier_curve is None and found.exponents == ()


def test_the_whole_comparison_survives_json(sparse_and_early: Comparison) -> None:
    text = json.dumps(plain(asdict(sparse_and_early)), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == sparse_and_early
    assert sparse_and_early.multiplier_curve is not None
