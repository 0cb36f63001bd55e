from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from analysis.bootstrap import bootstrap
from analysis.compare import _outcome, compare, compare_all
from analysis.fit import fit_law
from analysis.result import FitResult, plain
from analysis.synthetic import Surface, simulate
from analysis.table import Columns, load
from analysis.verdicts import Comparison, headline, interval_text, multiplier_text, range_text, verdict

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
