"""What is said about guidance: numbers by hand, only steps that were really taken, logits that can be read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prompts import PROMPTS, loud
from safetensors.torch import load_file

from nmm.config import RunConfig
from nmm.generate import Prompt, generate
from nmm.interventions.guide import Step, guided
from nmm.interventions.guide_stats import (
    KeptLogits,
    StepStatistics,
    entropy,
    jensen_shannon,
    lengths,
    log_probabilities,
    summary,
)
from nmm.model.fusion import NativeMultimodalModel


@pytest.fixture(scope="module")
def trio(make_config: Callable[..., RunConfig]) -> tuple[NativeMultimodalModel, ...]:
    base, expert, amateur = (loud(make_config("early")) for _ in range(3))
    with torch.no_grad():
        for seed, model in ((6, expert), (7, amateur)):
            model.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return base, expert, amateur


def word(token: int) -> str:
    return f"w{token}"


def test_entropy_and_divergence() -> None:
    """Ids 0 and 1 are never chosen, so three text tokens are left."""
    logits = torch.tensor([[9.0, 9.0, 1.0, 1.0, 1.0], [5.0, 1.0, math.log(2), 0.0, -math.inf]])
    logp = log_probabilities(logits)
    assert entropy(logp).tolist() == pytest.approx([math.log(3), math.log(3) - 2 / 3 * math.log(2)])
    apart = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf], [math.log(0.5), math.log(0.5)]], dtype=torch.float64)
    assert jensen_shannon(apart[[0, 2]], apart[[1, 2]]).tolist() == pytest.approx([math.log(2), 0.0])
    assert jensen_shannon(apart[:1], apart[2:]).item() == pytest.approx(0.2157615543)  # 3/4 log(4/3) by hand


def test_a_step_by_hand() -> None:
    """Two rows of which one has ended; the base prefers id 2, guidance id 4."""
    base = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0], [0.0] * 5])
    expert, amateur = torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.0]] * 2), torch.zeros(2, 5)
    statistics = StepStatistics()
    statistics(Step(0, base, expert, amateur, expert - amateur, base + expert), [0], [7], [4])
    report = statistics.report([[4]], (2,), word)
    assert report["steps"] == 1 and report["mean"]["flip"] == 1.0
    assert report["mean"]["delta_norm"] == pytest.approx(math.sqrt(1 + 1 + 4))  # 3 less its mean 1 over the text
    assert report["flips"] == [{"from": "w2", "to": "w4", "count": 1}]
    assert [each["word"] for each in report["promoted"]] == ["w4"]
    gained = torch.tensor([2.0, 1.0, 3.0]).softmax(dim=0) - torch.tensor([2.0, 1.0, 0.0]).softmax(dim=0)
    assert report["promoted"][0]["probability_a_step"] == pytest.approx(gained[2].item())
    assert report["demoted"][0] == {"word": "w2", "id": 2, "probability_a_step": pytest.approx(gained[0].item())}


def test_every_step_that_was_taken_counts_once(trio: tuple[NativeMultimodalModel, ...]) -> None:
    """However rows are batched, and whenever they end."""
    stops = tuple(range(2, 30))
    reports = []
    for rows in (64, 1, 3):
        statistics = StepStatistics()
        said = guided(*trio, PROMPTS, 0.7, 25, stop_ids=stops, batch_rows=rows, listen=statistics)
        reports.append(statistics.report(said, stops, word))
        assert reports[-1]["steps"] == sum(map(len, said))
        each = [sum(len(tokens) > step for tokens in said) for step in range(max(map(len, said)))]
        assert [row["rows"] for row in reports[-1]["by_step"]] == each
    for other in reports[1:]:
        assert other["mean"] == pytest.approx(reports[0]["mean"], rel=1e-4) and other["flips"] == reports[0]["flips"]
    json.dumps(reports[0])
    assert 0 < reports[0]["mean"]["js"] < math.log(2)
    lines = summary(reports[0])
    assert lines[0].startswith(f"{reports[0]['steps']} steps; ") and any(" -> w" in line for line in lines)


def test_without_guidance_nothing_flips(trio: tuple[NativeMultimodalModel, ...]) -> None:
    base, expert, _ = trio
    statistics = StepStatistics()
    said = guided(base, expert, expert, PROMPTS, 1.0, 6, listen=statistics)
    report = statistics.report(said, (2,), word)
    assert (report["mean"]["flip"], report["mean"]["delta_norm"], report["mean"]["js"]) == (0.0, 0.0, 0.0)
    assert report["flips"] == report["promoted"] == []
    alone = StepStatistics()
    guided(base, None, None, PROMPTS, 1.0, 6, listen=alone)
    report = alone.report(said, (2,), word)
    assert set(report["mean"]) == {"flip", "entropy_base", "entropy_guided"}
    assert summary(report)[1].startswith("the likeliest word changes in 0.0%")


def test_lengths() -> None:
    assert lengths([[5, 2], [5, 6, 7], [2]], (2,)) == {"mean": 2.0, "median": 2.0, "most": 3, "stopped": 2 / 3}
    assert lengths([], (2,)) == {}


def test_logits_are_kept_for_analysis(trio: tuple[NativeMultimodalModel, ...], tmp_path: Path) -> None:
    kept = KeptLogits()
    said = guided(*trio, PROMPTS, 0.7, 9, batch_rows=3, listen=kept)
    kept.save(tmp_path / "new" / "logits.safetensors")
    found = load_file(tmp_path / "new" / "logits.safetensors")
    width = trio[0].config.data.vocab_size
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {
        **dict.fromkeys(("base", "expert", "amateur", "combined"), (width,)),
        **dict.fromkeys(("prompt", "step", "token"), ()),
    }
    assert [found["token"][found["prompt"] == number].tolist() for number in range(len(PROMPTS))] == said and found[
        "step"
    ].tolist() == [step for tokens in said for step in range(len(tokens))]
    torch.testing.assert_close(found["combined"], found["base"] + 0.7 * (found["expert"] - found["amateur"]))
    greedy = found["combined"].clone()
    greedy[:, :2] = -math.inf
    assert torch.equal(greedy.argmax(dim=1), found["token"])
    assert generate(trio[0], [Prompt([9])], 1)[0] == [int(found["base"][found["prompt"] == 1][0, 2:].argmax()) + 2]
