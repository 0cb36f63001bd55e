"""The page of perplexity filtering: what it concludes from results whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.interventions.blocks import Block, Bullets, Figure, Table, Text, Verdict
from analysis.interventions.filter import CHOICES, DULL, EPOCHS, LADDER, RARE, blocks
from analysis.interventions.rows import Arm, Data, Metric, Study

N = {"d16": 10_000, "d24": 20_000, "d32": 40_000}
DATA = (62_500, 125_000, 250_000, 500_000, 1_000_000)
WORTH = {"lowest": 4.0, "clean": 4.0, "length_normalised": 3.0, "blind": 0.5, "highest": 0.25}  # tokens for one


def row(arm: str, size: str, seed: int, tokens: int, charged: float, pool: str = "even") -> dict[str, Any]:
    name = arm.removeprefix("rare_").removeprefix("dull_")
    worth = WORTH.get(name, 1.0) if pool == "even" else 1.0
    noise = 1 + 0.004 * ((seed * 7 + tokens // 62_500 + len(arm)) % 3 - 1) + 0.01 * (seed - 1)
    loss = (0.02 + 20.0 / N[size] ** 0.6 + 900.0 / (worth * tokens) ** 0.7) * noise
    loss *= 2.0 if (pool, name) == ("dull", "lowest") else 1.0
    tail = loss * (3.0 if pool == "rare" and name == "lowest" else 1.1)
    kept = {"samples": 500, "share_clean": 0.3, "recall": 0.2, "share_serial": 0.6, "share_wrong": 0.3}
    kept |= {"share_boilerplate": 0.0, "share_repeated": 0.0}
    covered = {"entities": 48, "entity_entropy": 3.8, "tail_share": 0.2, "epochs": tokens / 200_000}
    losses = {"loss_grounded": loss, "loss_tail": tail, "loss_caption": loss}
    own = {"arm": arm, "seed": seed, "n": N[size], "d": tokens, "flops": 6.0 * N[size] * tokens, "charged": charged}
    return {**own, "size": size, "pool": pool, "positions": tokens, **losses, **kept, **covered}


def study_rows(charge: float) -> list[dict[str, Any]]:
    made = []
    for seed in range(3):
        for arm in ("full", "random", "lowest"):
            paid = charge if arm == "lowest" else 0.0
            made += [row(arm, size, seed, d, paid) for size in N for d in DATA[: 5 if size == "d24" else 4]]
        others = [arm for arm in CHOICES if arm not in ("random", "lowest")]
        made += [row(arm, "d24", seed, d, charge) for arm in others for d in DATA[:4]]
        made += [row(arm, "d24", seed, d, 0.0, "rare") for arm in RARE for d in DATA[2::2]]
        made += [row(arm, "d24", seed, DATA[2], 0.0, "dull") for arm in DULL]
    return made


def page_of(charge: float) -> tuple[Data, list[Block]]:
    arms = tuple(
        Arm(name, "control" if name == "full" else "baseline", "an arm") for name in ("full", *CHOICES, *RARE, *DULL)
    )
    metrics = tuple(Metric(name, f"{name} (nats)", "lower") for name in ("loss_grounded", "loss_tail", "loss_caption"))
    study = Study("filter", "Filter", "data", "A claim.", "full", arms, metrics, "Made up.")
    data = Data(study, tuple(study_rows(charge)))
    return data, blocks(data)


@pytest.fixture(scope="module")
def cheap() -> tuple[Data, list[Block]]:
    return page_of(1e8)


def verdicts(page: list[Block]) -> list[Verdict]:
    return [block for block in page if isinstance(block, Verdict)]


def test_a_filter_that_is_worth_four_tokens_for_one(cheap: tuple[Data, list[Block]]) -> None:
    whole, random, tokens, compute, amortised, blind, tail, dull = verdicts(cheap[1])
    assert whole.verdict.startswith("lowest is better than full")
    assert random.verdict.startswith("lowest is better than random")
    assert "lowest is cheaper than full" in tokens.verdict
    assert float(tokens.numbers[0].split()[0]) == pytest.approx(4.0, rel=0.15)
    assert "a pool five times as large" in tokens.note
    assert compute.verdict.startswith("lowest is cheaper than full")
    assert not any(one.alarm for one in (whole, random, tokens, compute, amortised, blind))
    assert blind.verdict.startswith("blind is worse than random")
    assert tail.alarm
    assert tail.verdict.startswith("rare_lowest is worse than rare_random")
    assert dull.alarm
    assert dull.verdict.startswith("dull_lowest is worse than dull_random")


def test_a_charge_that_is_larger_than_all_runs_turns_the_verdict() -> None:
    _, page = page_of(1e13)
    _, _, tokens, compute, amortised, *_ = verdicts(page)
    assert "lowest is cheaper than full" in tokens.verdict
    assert "lowest is cheaper than full" in amortised.verdict
    assert "lowest costs more than full" in compute.verdict
    assert compute.alarm


def test_every_arm_and_epoch_is_on_the_page(cheap: tuple[Data, list[Block]]) -> None:
    data, page = cheap
    tables = [block for block in page if isinstance(block, Table)]
    kept = next(one for one in tables if "precision" in one.header)
    assert [line[0] for line in kept.rows] == list(data.arms)
    epochs = next(one for one in tables if one.header[0] == "positions")
    assert [line[0] for line in epochs.rows] == [f"{d:,}" for d in DATA]
    figures = [block.name for block in page if isinstance(block, Figure)]
    assert len(figures) == len(set(figures))
    assert {"cost", "cost_amortised", "worth", "worth_amortised", "law_worth", "law_data", "rare_tail", "dull"} <= set(
        figures
    )


def test_boxes_say_what_tables_say(cheap: tuple[Data, list[Block]]) -> None:
    _, page = cheap
    found = [block for block in page if isinstance(block, Table) and block.header[:2] == ("arm", "against")]
    lines = [line for one in found for line in one.rows]
    assert {one.header[4] for one in found} == {f"95 % for all {len(lines)}"}
    corrected = {(line[0], line[1]): line[4] for line in lines}
    paired = [one for one in verdicts(page) if "comparisons" in one.numbers_label]
    assert len(paired) == 5
    assert all(one.numbers[0] in corrected.values() and f"all {len(lines)} c" in one.numbers_label for one in paired)
    assert ("lowest", "full") in corrected
    (limits,) = [block for block in page if isinstance(block, Bullets)]
    assert f"all {len(lines)} of them" in limits.items[-1]


def test_what_was_kept_is_averaged_over_draws() -> None:
    data, _ = page_of(1e8)
    rows = tuple({**row, "share_clean": 0.1 * row["seed"]} if row["arm"] == "random" else row for row in data.rows)
    kept = next(one for one in blocks(Data(data.study, rows)) if isinstance(one, Table) and "precision" in one.header)
    precision = {line[0]: line[kept.header.index("precision")] for line in kept.rows}
    assert (precision["random"], precision["lowest"]) == ("10.0%", "30.0%")


def test_laws_are_of_runs_that_repeat_little(cheap: tuple[Data, list[Block]]) -> None:
    data, page = cheap
    ladder = [row for row in data.rows if row["pool"] == "even" and row["arm"] in LADDER]
    few = [row for row in ladder if row["epochs"] <= EPOCHS]
    assert max(row["d"] for row in few) == 500_000 < max(row["d"] for row in ladder)
    said = next(one.text for one in page if isinstance(one, Text) and one.text.startswith("Fitted to"))
    assert f"{len(few)} of {len(ladder)} runs" in said
    assert "no exponent" in said
    spoiled = tuple({**row, "loss_grounded": 9.0} if row["epochs"] > EPOCHS else row for row in data.rows)
    tables = [
        next(one for one in found if isinstance(one, Table) and "law" in one.header)
        for found in (page, blocks(Data(data.study, spoiled)))
    ]
    assert tables[0] == tables[1], "what is read again and again is in no law"


def test_too_few_lengths_are_said_to_carry_no_law(cheap: tuple[Data, list[Block]]) -> None:
    data, _ = cheap
    rows = tuple({**row, "epochs": row["epochs"] * 8} for row in data.rows)
    texts = [block.text for block in blocks(Data(data.study, rows)) if isinstance(block, Text)]
    assert any(text == "That leaves full fewer than 3 lengths of training, so no law." for text in texts)
