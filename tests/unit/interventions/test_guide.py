"""Guided decoding: the identities of its rule, and the same tokens cached, uncached, row by row and side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from prompts import PROMPTS, loud, pictures
from torch import Tensor

from nmm.batch import IMAGE_ID, PAD_ID
from nmm.config import RunConfig
from nmm.generate import Prompt, generate
from nmm.interventions.guide import Step, combined, difference, guided
from nmm.interventions.guide_vocab import NONE, Vocabulary
from nmm.model.fusion import NativeMultimodalModel

MakeConfig = Callable[..., RunConfig]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 3},
    "drawn from the likeliest": {"temperature": 0.7, "top_p": 0.8, "seed": 4},
}


def other(model: NativeMultimodalModel, seed: int) -> NativeMultimodalModel:
    """The same model with another head: another distribution over the same tokens."""
    twin = loud(model.config)
    with torch.no_grad():
        twin.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return twin


@pytest.fixture(scope="module")
def base(make_config: MakeConfig) -> NativeMultimodalModel:
    return loud(make_config("late", "d32"))


@pytest.fixture(scope="module")
def expert(make_config: MakeConfig) -> NativeMultimodalModel:
    return loud(make_config("early"))


@pytest.fixture(scope="module")
def amateur(expert: NativeMultimodalModel) -> NativeMultimodalModel:
    return other(expert, 6)


def heard(*arguments: Any, **options: Any) -> tuple[list[list[int]], list[Tensor]]:
    """What is said, and the summed logits of every step."""
    logits: list[Tensor] = []

    def listen(step: Step, at: Sequence[int], numbers: Sequence[int], tokens: Sequence[int]) -> None:
        logits.append(step.combined.clone())

    return guided(*arguments, listen=listen, **options), logits


# ---------------------------------------------------------------------------------------------------------------------
# identities


@pytest.mark.parametrize("way", WAYS)
def test_alpha_0_is_the_base(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel, way: str
) -> None:
    """Bit for bit, tokens and logits."""
    said, logits = heard(base, expert, amateur, PROMPTS, 0.0, 12, **WAYS[way])
    alone, own = heard(base, None, None, PROMPTS, 1.0, 12, **WAYS[way])
    assert said == alone == generate(base, PROMPTS, 12, **WAYS[way])
    assert all(torch.equal(one, two) for one, two in zip(logits, own, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alpha", [-0.7, 0.5, 1.0, 30.0])
def test_an_expert_that_is_the_amateur_says_nothing(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, way: str, alpha: float
) -> None:
    assert guided(base, expert, expert, PROMPTS, alpha, 12, **WAYS[way]) == generate(base, PROMPTS, 12, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_base_that_is_the_amateur_becomes_the_expert(
    expert: NativeMultimodalModel, amateur: NativeMultimodalModel, way: str
) -> None:
    said, logits = heard(amateur, expert, amateur, PROMPTS, 1.0, 12, **WAYS[way])
    alone, own = heard(expert, None, None, PROMPTS, 0.0, 12, **WAYS[way])
    assert said == alone != generate(amateur, PROMPTS, 12, **WAYS[way])
    for one, two in zip(logits, own, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_logits_and_log_probabilities_give_one_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    one, two, three = (torch.randn(40, 300, generator=generator) * 5 for _ in range(3))
    same = Vocabulary(300, 300)
    for alpha in (0.1, 0.5, 1.0, 2.0):
        raw = combined(one, difference(two, three, same), alpha).softmax(dim=1)
        logs = [x.double().log_softmax(dim=1) for x in (one, two, three)]
        expected = (logs[0] + alpha * (logs[1] - logs[2])).softmax(dim=1)
        torch.testing.assert_close(raw.double(), expected, rtol=0, atol=1e-6)


def test_what_is_summed(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel
) -> None:
    """The logits of the models themselves, each read with its own cache; one may be absent."""
    steps: list[Step] = []
    pairs = {"both": (expert, amateur), "expert": (expert, None), "amateur": (None, amateur)}
    for guides in pairs.values():
        guided(base, *guides, [PROMPTS[0]], 0.5, 1, listen=lambda step, *_: steps.append(step))
    both, no_amateur, no_expert = steps
    one, two, three = (heard(model, None, None, [PROMPTS[0]], 0.0, 1)[1][0] for model in (base, expert, amateur))
    torch.testing.assert_close(both.combined, one + 0.5 * (two - three))
    torch.testing.assert_close(no_amateur.combined, one + 0.5 * two)
    torch.testing.assert_close(no_expert.combined, one - 0.5 * three)
    assert no_amateur.amateur is None and no_expert.expert is None and both.number == 0


# ---------------------------------------------------------------------------------------------------------------------
# caches, batches, threads


@pytest.mark.parametrize("way", WAYS)
def test_the_same_tokens_however_they_are_computed(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel, way: str
) -> None:
    """Cached, uncached, one row at a time, in threads; rows end at different steps and are dropped on the way."""
    models, options = (base, expert, amateur), {**WAYS[way], "stop_ids": tuple(range(2, 20))}
    said = guided(*models, PROMPTS, 0.7, 25, **options)
    assert said == guided(*models, PROMPTS, 0.7, 25, use_cache=False, **options)
    assert said == guided(*models, PROMPTS, 0.7, 25, batch_rows=1, **options)
    assert said == guided(*models, PROMPTS, 0.7, 25, batch_rows=3, parallel="threads", **options)
    assert said != generate(base, PROMPTS, 25, **options) and len({len(tokens) for tokens in said}) > 1


def test_every_model_may_read_a_prompt_of_its_own(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel
) -> None:
    """Other words, another number of pictures, other pictures; generated tokens are shared."""
    theirs = [Prompt([30, *prompt.tokens], prompt.patches) for prompt in PROMPTS]
    wrong = [Prompt(PROMPTS[0].tokens, pictures(1, seed=9)), *PROMPTS[1:]]
    options: dict[str, Any] = {"expert_prompts": theirs, "amateur_prompts": wrong, "temperature": 1.0}
    said = guided(base, expert, amateur, PROMPTS, 1.5, 12, **options)
    assert said == guided(base, expert, amateur, PROMPTS, 1.5, 12, use_cache=False, **options)
    assert said != guided(base, expert, amateur, PROMPTS, 1.5, 12, temperature=1.0)
    assert said[1] != guided(base, expert, amateur, PROMPTS[1:2], 1.5, 12, temperature=1.0)[0]
    untouched = guided(base, expert, amateur, PROMPTS, 1.5, 12, amateur_prompts=wrong, temperature=1.0)
    assert untouched[1:] == guided(base, expert, amateur, PROMPTS, 1.5, 12, temperature=1.0)[1:]


def test_the_shortest_context_ends_a_row(
    make_config: MakeConfig, base: NativeMultimodalModel, expert: NativeMultimodalModel
) -> None:
    """The expert's prompt is 20 tokens longer, and it cannot read beyond its own 128 positions."""
    prompts, theirs = [Prompt([5] * 100), Prompt([6])], [Prompt([5] * 120), Prompt([6] * 21)]
    said = guided(base, expert, None, prompts, 0.5, 40, stop_ids=(), expert_prompts=theirs)
    assert [len(tokens) for tokens in said] == [9, 40]


def test_models_are_left_as_they_were(base: NativeMultimodalModel, expert: NativeMultimodalModel) -> None:
    base.train()
    guided(base, expert, expert, PROMPTS, 0.5, 3)
    assert base.training and not expert.training
    base.eval()


# ---------------------------------------------------------------------------------------------------------------------
# vocabularies that differ


def widened(model: NativeMultimodalModel, rows: int) -> NativeMultimodalModel:
    """The model with ``rows`` more rows in head and embedding, loud ones."""
    data = model.config.data
    wide = loud(_replace(model.config, vocab_size=data.vocab_size + rows))
    state = wide.state_dict()
    for name, value in model.state_dict().items():
        state[name][: len(value)].copy_(value) if state[name].ndim else state[name].copy_(value)
    return wide


def _replace(config: RunConfig, **changes: Any) -> RunConfig:
    from dataclasses import replace

    return replace(config, data=replace(config.data, **changes))


def test_padding_rows_of_a_head_are_never_chosen(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel
) -> None:
    """Whichever model has them, everybody is cut to the common width, and the base's other tokens get -inf."""
    width = expert.config.data.vocab_size
    said = guided(base, expert, amateur, PROMPTS, 0.5, 12)
    assert said == guided(base, widened(expert, 9), amateur, PROMPTS, 0.5, 12, vocabulary=Vocabulary(width, width))
    wide, logits = heard(widened(base, 7), expert, amateur, PROMPTS, 0.5, 12, vocabulary=Vocabulary(width + 7, width))
    assert wide == said and logits[0].shape == (4, width + 7)
    assert torch.isneginf(logits[0][:, width:]).all() and torch.isfinite(logits[0][:, :width]).all()
    with pytest.raises(ValueError, match="say how they correspond"):
        guided(widened(base, 7), expert, amateur, PROMPTS, 0.5, 12)


def test_a_map_of_ids(
    base: NativeMultimodalModel, expert: NativeMultimodalModel, amateur: NativeMultimodalModel
) -> None:
    """Guides whose words are in another order guide as before; a token they do not have is the base's alone."""
    width = base.config.data.vocab_size
    order = torch.cat((torch.arange(3), 3 + torch.randperm(width - 3, generator=torch.Generator().manual_seed(2))))

    def shuffled(model: NativeMultimodalModel) -> NativeMultimodalModel:
        twin = loud(model.config)
        twin.load_state_dict(model.state_dict())
        for weight in (twin.head.weight.data, twin.embedding.weight.data):
            weight[order] = weight.clone()
        return twin

    theirs = Vocabulary(width, width, tuple(order.tolist()), 3)
    guides = (shuffled(expert), shuffled(amateur))
    assert guided(base, *guides, PROMPTS, 0.7, 12, vocabulary=theirs) == guided(base, expert, amateur, PROMPTS, 0.7, 12)
    partial = Vocabulary(width, width, (0, 1, 2, *(NONE if i % 2 else i for i in range(3, width))), 4)
    delta = difference(torch.ones(2, width), torch.zeros(2, width), partial)
    assert delta is not None and delta[0, 3:].tolist() == [float(i % 2 == 0) for i in range(3, width)]
    said = guided(base, expert, amateur, PROMPTS, 5.0, 12, vocabulary=partial)
    assert said == guided(base, expert, amateur, PROMPTS, 5.0, 12, vocabulary=partial, use_cache=False)


def test_only_text_is_said(base: NativeMultimodalModel, expert: NativeMultimodalModel) -> None:
    """Tokens that are never chosen are ruled out after the sum, however loud the guides are about them."""
    shouting = other(expert, 1)
    with torch.no_grad():
        shouting.head.weight[IMAGE_ID] *= 100
        shouting.head.weight[PAD_ID] *= 100
    said = guided(base, shouting, expert, PROMPTS, 3.0, 20, stop_ids=(), temperature=1.0)
    assert not {PAD_ID, IMAGE_ID} & {token for tokens in said for token in tokens}


# ---------------------------------------------------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"parallel": "magic"}, "parallel='magic' is not one of none, threads"),
        ({"expert_prompts": PROMPTS[:2]}, "expert_prompts are 2, prompts 4"),
        ({"amateur_prompts": [Prompt([])] * 4}, "the amateur cannot read it: prompt 0 has 0 tokens"),
        ({"alpha": math.nan}, "alpha=nan must be a finite number"),
    ],
)
def test_impossible_options_are_refused(expert: NativeMultimodalModel, options: dict[str, Any], message: str) -> None:
    usual = {"base": expert, "expert": expert, "amateur": expert, "prompts": PROMPTS, "alpha": 1, "max_new_tokens": 4}
    with pytest.raises(ValueError, match=message):
        guided(**{**usual, **options})


@pytest.mark.parametrize("name", ["base", "expert", "amateur"])
@pytest.mark.parametrize("parallel", ["none", "threads"])
def test_a_diverged_model_is_named(expert: NativeMultimodalModel, name: str, parallel: str) -> None:
    broken = other(expert, 1)
    broken.trunk.norm.weight.data[3] = math.nan
    models = {"base": expert, "expert": expert, "amateur": expert, name: broken}
    with pytest.raises(ValueError, match=f"the logits of the {name} are not finite"):
        guided(**models, prompts=PROMPTS, alpha=1.0, max_new_tokens=3, parallel=parallel)
