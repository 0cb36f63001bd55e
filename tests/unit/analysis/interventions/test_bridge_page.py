"""The page of random-label bridges: the control of equal FLOPs decides, and boxes say what tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.interventions.blocks import Block, Bullets, Figure, Table, Verdict
from analysis.interventions.bridge import SECTIONS, blocks
from analysis.interventions.rows import Data, load
from sweeps.interventions.bridge import ARMS, METRICS, study
from sweeps.interventions.bridge_rows import CURVES, JOINT, LADDERS
from sweeps.interventions.steps import as_json

CORE = ("lm_none", "lm_random", "lm_first", "lm_more", "rand_none", "rand_random", "rand_more", "shuffle_none",
        "rescaled_none")  # fmt: skip
ACCURACY = {"lm_random": 0.5, "lm_first": 0.5, "lm_more": 0.7, "rand_more": 0.7, "lm_next_patch": 0.6}
NOISE = (0.0, 0.004, -0.003, 0.002, -0.004, 0.003, 0.001, -0.002)
FLOPS, BRIDGE = 200.0, 175.0  # of a step; of a bridge, in steps


def row(arm: str, part: str, seed: int, accuracy: float, step: int = 240, d: int = 1000) -> dict[str, Any]:
    bridged = not arm.endswith(("_none", "_more"))
    charged, lm = BRIDGE * FLOPS if bridged else 0.0, 0.0 if arm.startswith("rand") else 3e5
    value = accuracy + NOISE[(seed + len(arm)) % 8]
    return {
        "arm": arm, "seed": seed, "n": 50_000, "d": d, "flops": FLOPS * step, "charged": charged, "steps": step,
        "with_lm": FLOPS * step + charged + lm, **dict.fromkeys(m.name for m in METRICS), "part": part,
        "accuracy": value,
    }  # fmt: skip


def made_up() -> list[dict[str, Any]]:
    rows = []
    for arm in (arm.name for arm in ARMS):
        final = ACCURACY.get(arm, 0.5)
        for seed in range(1, 9 if arm in CORE else 6):
            main = row(arm, "main", seed, final, 415 if arm.endswith("_more") else 240)
            reached = {"lm_first": 200.0 if seed < 3 else None, "lm_none": 150.0 + seed}.get(arm)
            main |= {"accuracy_early": 0.2 + NOISE[seed - 1], "accuracy_half": 0.3 + NOISE[seed - 1], "probe": 0.25}
            rows.append(main | {"steps_to_target": reached, "forgetting": 0.1 * seed, "above_1": 0.1} | _weights())
    for seed in range(1, 9):
        for arm in CURVES:
            last = 420 if arm in ("lm_none", "rand_none") else 240
            rows += [row(arm, "curve", seed, 0.15 + 0.4 * s / 240, s) for s in range(60, last + 1, 60)]
    for seed in range(1, 6):
        rows += [row(arm, "labels", seed, 0.1 + 0.1 * i, d=125 * 2**i) for arm in LADDERS for i in range(5)]
        rows += [
            {**row(arm, "joint", seed, 0.0), "accuracy": None, "grounded": 2.0 + NOISE[seed], "caption_loss": 1.0}
            for arm in JOINT
        ]
    return rows


def _weights() -> dict[str, float]:
    return dict.fromkeys(("above_1_matrices", "above_6sd", "kurtosis", "max_over_rms", "rms"), 0.2)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Data, list[Block]]:
    out: Path = tmp_path_factory.mktemp("bridge")
    (out / "study.json").write_text(json.dumps(as_json(study(out, "cpu"))))
    (out / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made_up()))
    data = load(out)
    return data, blocks(data)


def tables(page: list[Block]) -> list[Table]:
    return [block for block in page if isinstance(block, Table)]


def test_equal_flops_decide(page: tuple[Data, list[Block]]) -> None:
    boxes = {block.question: block for block in page[1] if isinstance(block, Verdict)}
    decisive = boxes["Is a bridge of random labels better than its FLOPs spent on classification?"]
    assert decisive.alarm and decisive.verdict.startswith("lm_random is worse than lm_more")
    assert "83,000 for lm_random, 83,000 for lm_more" in decisive.note, "both sides are told what they spent"
    free = boxes["And with the bridge for free, at equal steps of classification?"]
    assert not free.alarm and "lm_random against lm_none" in free.verdict
    patches = boxes["Are random labels better than predicting the next patch, as many steps?"]
    assert patches.alarm and patches.verdict.startswith("lm_random is worse than lm_next_patch")


def test_all_controls_are_paired_and_boxes_say_what_tables_say(page: tuple[Data, list[Block]]) -> None:
    data, found = page
    paired = [line for one in tables(found) if one.header[:2] == ("arm", "against") for line in one.rows]
    number = len(paired)
    assert number == sum(len(pairs.arms) * len(pairs.metrics) for pairs in SECTIONS.values())
    headers = {one.header[4] for one in tables(found) if one.header[:2] == ("arm", "against")}
    assert headers == {f"95 % for all {number}"}
    pairs = {(line[0], line[1]) for line in paired}
    assert pairs >= {
        ("lm_random", "lm_more"), ("lm_first", "lm_more"), ("shuffle_first", "shuffle_none"),
        ("rescaled_first", "rescaled_none"), ("lm_random", "lm_next_patch"), ("lm_shift", "lm_first"),
    }  # fmt: skip
    corrected = {line[4] for line in paired}
    boxes = [block for block in found if isinstance(block, Verdict) and "comparisons" in block.numbers_label]
    assert len(boxes) == 10
    assert all(box.numbers[0] in corrected and str(number) in box.numbers_label for box in boxes)
    limits = next(block for block in found if isinstance(block, Bullets)).items
    assert f"all {number} of them" in limits[-1]
    assert any("held-out pictures are the same for all seeds" in limit for limit in limits)


def test_seeds_that_never_reached_the_target_count(page: tuple[Data, list[Block]]) -> None:
    target = next(one for one in tables(page[1]) if "median (steps)" in one.header)
    said = {line[0]: line[1:] for line in target.rows}
    assert said["lm_first"] == ("2 of 8", "7 % to 59 %", ">240", "200 to >240")
    assert said["lm_none"][0] == "8 of 8" and said["lm_none"][2:] == ("154", "151 to 158")
    assert said["lm_last"][0] == "0 of 5" and said["lm_last"][3] == ">240 to >240"
    assert not {"lm_more", "rand_more"} & set(said)


def test_curves_along_the_way_end_together(page: tuple[Data, list[Block]]) -> None:
    figure = next(block for block in page[1] if isinstance(block, Figure) and block.name == "curves")
    (axes,) = figure.draw(False).axes
    ends = [np.asarray(line.get_xdata()).max() for line in axes.get_lines()]
    assert len(ends) >= 5
    np.testing.assert_allclose(ends, 240.0)
