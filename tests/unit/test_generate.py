"""Generation: the same tokens with and without a cache, and draws that are what they claim to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from prompts import PROMPTS, VARIANTS, loud
from torch import Tensor

from nmm.batch import END_ID, IMAGE_ID, PAD_ID
from nmm.config import RunConfig
from nmm.generate import Prompt, draw, generate
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel

MakeConfig = Callable[..., RunConfig]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 3},
    "drawn from the likeliest": {"temperature": 0.7, "top_p": 0.8, "seed": 4},
}


@pytest.fixture(scope="module")
def model(make_config: MakeConfig) -> NativeMultimodalModel:
    return loud(make_config("early"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_tokens_without_a_cache(make_config: MakeConfig, variant: str, way: str) -> None:
    arch, groups = VARIANTS[variant]
    model = loud(make_config(arch, **groups))
    cached = generate(model, PROMPTS, 12, **WAYS[way])
    assert cached == generate(model, PROMPTS, 12, use_cache=False, **WAYS[way])
    assert len({tuple(tokens) for tokens in cached}) > 1


@pytest.mark.parametrize("way", WAYS)
def test_no_prompt_depends_on_its_neighbours(model: NativeMultimodalModel, way: str) -> None:
    """Neither on what they are, nor on how many are decoded together."""
    together = generate(model, PROMPTS, 20, **WAYS[way])
    for batch_rows in (1, 3):
        assert generate(model, PROMPTS, 20, batch_rows=batch_rows, **WAYS[way]) == together
    others = [Prompt([30 + i] * (3 * i + 1)) for i in range(4)]
    for i, prompt in enumerate(PROMPTS):
        changed = generate(model, [*others[:i], prompt, *others[i + 1 :]], 20, **WAYS[way])
        assert changed[i] == together[i]


def test_draws_depend_on_seed_and_number_alone(model: NativeMultimodalModel) -> None:
    prompts = [PROMPTS[0]] * 3
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, prompts, 20, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert generate(model, prompts, 20, temperature=1.0, seed=1) == first
    assert len({tuple(tokens) for tokens in first}) == 3
    assert generate(model, prompts, 20, temperature=1.0, seed=2) != first
    assert generate(model, prompts, 8, temperature=1.0, seed=1) == [tokens[:8] for tokens in first]
    greedy = generate(model, prompts, 20)
    assert greedy[0] == greedy[1] == greedy[2] == generate(model, prompts, 20, seed=9)[0]
    assert generate(model, prompts, 20, temperature=1e-300) == greedy
    assert generate(model, prompts, 20, temperature=1.0, top_p=1e-9) == greedy


def test_a_stop_token_ends_its_own_row_only(model: NativeMultimodalModel) -> None:
    """It is the last token of its row; rows are dropped once half have ended, which others do not notice."""
    way = WAYS["drawn"]
    whole = generate(model, PROMPTS, 30, stop_ids=(), **way)
    assert [len(tokens) for tokens in whole] == [30] * 4
    stops = (whole[0][2], whole[1][5], whole[3][11])
    ended = generate(model, PROMPTS, 30, stop_ids=stops, **way)
    ends = [next((n + 1 for n, token in enumerate(tokens) if token in stops), 30) for tokens in whole]
    assert ended == [tokens[:end] for tokens, end in zip(whole, ends, strict=True)]
    assert len(set(ends)) > 2 and min(ends) <= 3


def test_no_position_beyond_the_context_is_read(model: NativeMultimodalModel) -> None:
    """With 128 positions a prompt of 120 tokens has 8 more to be read, and what follows the last one is still said."""
    prompts = [Prompt([5] * n) for n in (128, 120, 3)]
    said = generate(model, prompts, 40, stop_ids=())
    assert [len(tokens) for tokens in said] == [1, 9, 40]
    assert said == generate(model, prompts, 40, stop_ids=(), use_cache=False)


def test_only_text_is_generated(make_config: MakeConfig) -> None:
    """An untrained model gives every token the same logit: the first one that is text, or any that is."""
    model = build(make_config("early"))
    assert generate(model, PROMPTS, 5) == [[END_ID]] * 4
    drawn = generate(model, [Prompt([5])] * 40, 50, stop_ids=(), temperature=1.0)
    seen = {token for tokens in drawn for token in tokens}
    assert seen == set(range(model.config.data.vocab_size)) - {PAD_ID, IMAGE_ID}
    with torch.no_grad():
        model.head.weight[IMAGE_ID] = 5.0  # on some rows above, on others below all others
        model.head.weight[PAD_ID] = -5.0
    assert generate(model, PROMPTS, 5) == [[END_ID]] * 4


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_the_model_as_it_was(model: NativeMultimodalModel, training: bool) -> None:
    model.train(training)
    generate(model, PROMPTS, 3)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_no_prompts_no_tokens(model: NativeMultimodalModel) -> None:
    assert generate(model, [], 5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"batch_rows": 0}, "batch_rows=0 must be at least 1"),
        ({"temperature": -0.5}, "temperature=-0.5 must be 0"),
        ({"temperature": math.nan}, "temperature=nan must be 0"),
        ({"temperature": math.inf}, "temperature=inf must be 0"),
        ({"top_p": 0.0}, r"top_p=0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p=1.5 must lie in \(0, 1\]"),
        ({"prompts": [PROMPTS[1], Prompt([])]}, "prompt 1 has 0 tokens"),
    ],
)
def test_impossible_options_are_refused(model: NativeMultimodalModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**{"model": model, "prompts": PROMPTS, "max_new_tokens": 4, **options})


def test_a_diverged_model_is_refused(make_config: MakeConfig) -> None:
    model = loud(make_config("early"))
    model.trunk.norm.weight.data[3] = math.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        generate(model, PROMPTS, 3)


# ---------------------------------------------------------------------------------------------------------------------
# draw


def likeliest(probability: list[float], top_p: float) -> list[int]:
    """By the definition, in plain Python: the fewest tokens, likeliest first, that reach ``top_p``."""
    order = sorted(range(len(probability)), key=lambda i: (-probability[i], i))
    kept: list[int] = []
    while sum(probability[i] for i in kept) < top_p and len(kept) < len(order):
        kept.append(order[len(kept)])
    return kept


def frequencies(logits: Tensor, temperature: float, top_p: float, n: int = 20_000) -> Tensor:
    """(V,) how often each token comes when the uniform numbers are evenly spread."""
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.bincount(draw(logits.expand(n, -1), temperature, top_p, uniform), minlength=len(logits)) / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 1.0])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(7)) * 2
    probability = (logits.double() / temperature).softmax(dim=0)
    kept = likeliest(probability.tolist(), top_p)
    expected = torch.zeros(40, dtype=torch.float64)
    expected[kept] = probability[kept] / probability[kept].sum()
    torch.testing.assert_close(frequencies(logits, temperature, top_p).double(), expected, rtol=0, atol=1.01 / 20_000)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.25, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (0.26, [0.5, 0.5, 0.0, 0.0, 0.0]),
        (0.5, [0.5, 0.5, 0.0, 0.0, 0.0]),  # two quarters reach a half; of equals the lower ids
        (0.75, [1 / 3, 1 / 3, 0.0, 1 / 3, 0.0]),
        (1.0, [0.25, 0.25, 0.0, 0.25, 0.25]),
    ],
)
def test_the_smallest_set_that_reaches_p(top_p: float, expected: list[float]) -> None:
    """Four quarters, which sum without rounding."""
    logits = torch.tensor([2.0, 2.0, -math.inf, 2.0, 2.0])
    torch.testing.assert_close(frequencies(logits, 1.0, top_p), torch.tensor(expected), rtol=0, atol=1e-3)


def test_the_ends_of_the_unit_interval() -> None:
    """The least and the greatest number a stream can give, with a token of probability 0 at the end."""
    logits = torch.tensor([[0.3, -math.inf, 1.0, 0.2, -math.inf]]).expand(2, -1)
    uniform = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits, 1.0, 1.0, uniform).tolist() == [2, 3]
    assert draw(logits, 1.0, 0.5, uniform).tolist() == [2, 2]


def test_a_row_is_drawn_by_itself() -> None:
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(8))
    uniform = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    together = draw(logits, 0.9, 0.9, uniform)
    alone = [draw(logits[i : i + 1], 0.9, 0.9, uniform[i : i + 1]).item() for i in range(6)]
    assert together.tolist() == alone
