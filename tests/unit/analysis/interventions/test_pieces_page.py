"""The page of POINTS' pieces: what it concludes from results whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.interventions.blocks import Bullets, Figure, Table, Verdict
from analysis.interventions.pieces import blocks, comparisons
from analysis.interventions.rows import Arm, Data, Metric, Study

ARMS = {
    "early": ("native", "shuffle", "thumb", "tiles", "fine", "blur", "blur-tiles"),
    "late": ("native", "shuffle", "coarse", "dual", "thumb", "tiles"),
}
WORTH = {"tiles": -0.3, "shuffle": 0.25, "dual": 0.0}  # added to the grounded excess
LONGER = ("blur", "blur-tiles")  # were trained longer, and there the tiles win
KINDS = ("grounded", "name", "caption", "colour", "shape", "size", "location")


def rows(arch: str, piece: str) -> list[dict[str, Any]]:
    made = []
    for steps in (100, 200, 400, 1600) if piece in LONGER else (100, 200, 400):
        for seed in range(4):
            noise = 0.01 * ((seed * 7 + steps // 100 + len(piece)) % 3 - 1)
            won = 0.4 * (steps == 1600 and piece == "blur-tiles")
            loss = 2.0 - 0.3 * (steps / 100) ** 0.5 + WORTH.get(piece, 0.0) + 0.1 * seed + noise - won
            row = {"arm": f"{arch}-{piece}", "seed": seed, "n": 1000, "d": 100 * steps, "steps": steps}
            made.append(row | {"flops": 1e9 * steps, "charged": 0.0, "documents": steps} | dict.fromkeys(KINDS, loss))
    return made


@pytest.fixture(scope="module")
def data() -> Data:
    names = [f"{arch}-{piece}" for arch, pieces in ARMS.items() for piece in pieces]
    metrics = tuple(Metric(name, f"{name} (nats)", "lower") for name in ("grounded", "name", "caption"))
    arms = tuple(Arm(name, "baseline", "an arm") for name in names)
    study = Study("pieces", "Pieces", "architecture", "A claim.", "early-native", arms, metrics, "Made up.")
    return Data(study, tuple(row for arch, pieces in ARMS.items() for piece in pieces for row in rows(arch, piece)))


def test_each_piece_is_judged_where_it_was_run(data: Data) -> None:
    found = {gap.arm: (gap.control, gap.outcome) for _, gap in comparisons(data)}
    assert found == {
        "early-tiles": ("early-thumb", "better"),
        "late-tiles": ("late-thumb", "better"),
        "early-blur-tiles": ("early-blur", "better"),
        "early-shuffle": ("early-native", "worse"),
        "late-shuffle": ("late-native", "worse"),
        "late-dual": ("late-native", "unresolved"),
    }
    assert all(gap.comparisons == 6 for _, gap in comparisons(data))


def test_verdicts_come_first_and_a_refuted_claim_is_an_alarm(data: Data) -> None:
    page = blocks(data)
    verdicts = [block for block in page if isinstance(block, Verdict)]
    assert page[: len(verdicts)] == verdicts and len(verdicts) == 6
    assert [verdict.alarm for verdict in verdicts] == [False, False, False, True, True, False]
    assert verdicts[0].question.startswith("Early fusion, tiles") and "equal total cost" in verdicts[0].note


def test_every_arm_is_in_the_table_and_pictures_have_names_of_their_own(data: Data) -> None:
    page = blocks(data)
    tables = [block for block in page if isinstance(block, Table)]
    assert {row[0] for row in tables[-1].rows} == set(data.arms)
    assert {row[2] for row in tables[-1].rows} == {"400"}, "all arms at the longest runs that all of them have"
    figures = [block.name for block in page if isinstance(block, Figure)]
    assert len(figures) == len(set(figures))
    ladders = {f"ladder-{arch}-{piece}" for arch in ARMS for piece in ("shuffle", "tiles")}
    assert {name for name in figures if name.startswith("ladder")} == ladders | {"ladder-early-blur-tiles"}


def test_the_page_says_which_arms_were_trained_longer(data: Data) -> None:
    def said(of: Data) -> str:
        (limits,) = (block for block in blocks(of) if isinstance(block, Bullets))
        return limits.items[-1]

    assert "In 400 steps" in said(data) and "early-blur and early-blur-tiles were trained longer" in said(data)
    assert "No arm was trained longer" in said(data.where(None, steps=(100, 200, 400)))


def test_a_study_of_one_architecture_has_a_page(data: Data) -> None:
    early = data.where([arm for arm in data.arms if arm.startswith("early")])
    assert sum(isinstance(block, Verdict) for block in blocks(early)) == 3
