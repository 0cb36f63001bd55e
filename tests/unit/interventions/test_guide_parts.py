"""Around guided decoding: controls, vocabularies, held-out loss, FLOPs, and what many answers are worth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from prompts import PROMPTS, loud, pictures
from torch.utils.flop_counter import FlopCounterMode

from nmm.batch import IMAGE_ID, PAD_ID
from nmm.config import ConfigError, RunConfig
from nmm.data.loader import val_batches
from nmm.data.manifest import open_shards
from nmm.data.tokenizer import ByteTokenizer, make_tokenizer
from nmm.evaluate import evaluate
from nmm.generate import Prompt, generate
from nmm.interventions.guide import Step, combined, guided
from nmm.interventions.guide_controls import centred, other_pictures, permuted_delta, random_delta
from nmm.interventions.guide_cost import generation_flops, guided_flops, prompt_flops, token_flops, token_ratio
from nmm.interventions.guide_nll import guided_nll, scored
from nmm.interventions.guide_session import check_same_rows
from nmm.interventions.guide_vocab import NONE, Speaker, Vocabulary, align
from nmm.interventions.passk import mean_pass_at_k, pass_at_k, samples_for, voted
from nmm.model.decode import Cached
from nmm.model.fusion import NativeMultimodalModel

MakeConfig = Callable[..., RunConfig]
WORDS = ["<pad>", "<image>", "<end>", "red", "blue", "green"]


@pytest.fixture(scope="module")
def trio(make_config: MakeConfig) -> tuple[NativeMultimodalModel, ...]:
    """A base and two guides that differ in their heads."""
    base, expert, amateur = loud(make_config("late", "d32")), loud(make_config("early")), loud(make_config("early"))
    with torch.no_grad():
        amateur.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(6))
    return base, expert, amateur


def test_guides_that_see_pictures_in_another_way_are_not_measured_on_the_rows_of_the_base(
    make_config: MakeConfig,
) -> None:
    base, tiled = make_config(), make_config(data={"picture_size": 32, "image_size": 16, "tiles": 4})
    check_same_rows("expert", base, make_config("late", "d32"))
    with pytest.raises(ConfigError, match=r"expert sees .* data.picture_size 32 \(the base: 0\), data.tiles 4 "):
        check_same_rows("expert", base, tiled)
    with pytest.raises(ConfigError, match=r"amateur sees .* the side of a position 4 \(the base: 8\)"):
        check_same_rows("amateur", base, make_config(data={"patch_size": 4}))


# ---------------------------------------------------------------------------------------------------------------------
# controls


def test_a_random_delta_is_as_long_and_points_elsewhere() -> None:
    delta = torch.randn(5, 200, generator=torch.Generator().manual_seed(1)) * 3 + 7
    numbers = torch.arange(5)
    drawn = random_delta(1)(delta, numbers, 4)
    torch.testing.assert_close(centred(drawn).norm(dim=1), centred(delta).norm(dim=1))
    assert torch.cosine_similarity(drawn, centred(delta), dim=1).abs().max() < 0.3
    assert drawn[:, [PAD_ID, IMAGE_ID]].abs().max() == 0 and drawn.mean(dim=1).abs().max() < 1e-5
    rows = torch.tensor([3, 1])
    assert torch.equal(random_delta(1)(delta[rows], numbers[rows], 4), drawn[rows])
    assert not torch.equal(random_delta(1)(delta, numbers, 5), drawn)
    assert not torch.equal(random_delta(2)(delta, numbers, 4), drawn)


def test_a_centred_delta_changes_text_as_the_whole_one_does() -> None:
    generator = torch.Generator().manual_seed(2)
    base, delta = torch.randn(3, 50, generator=generator), torch.randn(3, 50, generator=generator) + 4
    for part in (delta, centred(delta)):
        total = combined(base, part, 0.7)
        total[:, [PAD_ID, IMAGE_ID]] = -math.inf
        torch.testing.assert_close(total.softmax(dim=1), combined_text(base, delta))


def combined_text(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """By the definition: softmax over the text tokens alone."""
    weights = (base + 0.7 * delta).double().exp()
    weights[:, [PAD_ID, IMAGE_ID]] = 0.0
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def test_a_permuted_delta_hands_its_values_to_other_words() -> None:
    delta = torch.randn(4, 60, generator=torch.Generator().manual_seed(3))
    moved = permuted_delta(5)(delta, torch.arange(4), 0)
    assert torch.equal(moved.sort(dim=1).values, delta.sort(dim=1).values) and not torch.equal(moved, delta)
    assert torch.equal(moved[:, [PAD_ID, IMAGE_ID]], delta[:, [PAD_ID, IMAGE_ID]])
    assert torch.equal(permuted_delta(5)(delta, torch.arange(4), 9), moved)


def test_controls_change_what_is_said(trio: tuple[NativeMultimodalModel, ...]) -> None:
    plain = guided(*trio, PROMPTS, 1.0, 12)
    for change in (random_delta(), permuted_delta()):
        said = guided(*trio, PROMPTS, 1.0, 12, change=change)
        assert said != plain != generate(trio[0], PROMPTS, 12)
        assert said == guided(*trio, PROMPTS, 1.0, 12, change=change, batch_rows=1, use_cache=False)


def test_pictures_of_others() -> None:
    one, two, three = (pictures(1, seed=i) for i in range(3))
    shown = [Prompt([IMAGE_ID] * 16 + [i], image) for i, image in ((3, one), (4, one), (5, two), (6, three))]
    swapped = other_pictures([*shown, Prompt([9])])
    assert [prompt.tokens for prompt in swapped] == [*(prompt.tokens for prompt in shown), [9]]
    expected = [two, two, three, one]  # the second prompt has the first one's picture, so the first takes the third's
    assert all(torch.equal(prompt.patches, image) for prompt, image in zip(swapped[:4], expected, strict=True))
    with pytest.raises(ValueError, match="prompt 0: no other prompt has 1 other pictures"):
        other_pictures(shown[:2])


# ---------------------------------------------------------------------------------------------------------------------
# vocabularies


def speaker(name: str, words: list[str], width: int = 0) -> Speaker:
    return Speaker(name, width or len(words), make_tokenizer({word: i for i, word in enumerate(words)}))


def test_the_common_width_is_the_smallest() -> None:
    base, wide = speaker("base", WORDS), speaker("expert", WORDS, 10)
    assert align(base, [wide, base]) == Vocabulary(6, 6)
    assert align(wide, [base]) == Vocabulary(10, 6)
    assert align(base, []) == Vocabulary(6, 6)
    assert align(speaker("base", [*WORDS, "grey"]), [speaker("expert", WORDS)]) == Vocabulary(7, 6)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ([*WORDS[:4], "green", "blue"], "id 4 is 'blue' for base and 'green' for expert"),
        ([*WORDS, "grey"], "id 6 is no word for base and 'grey' for expert"),
    ],
)
def test_the_first_id_that_differs_is_named(theirs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        align(speaker("base", WORDS, 9), [speaker("expert", theirs, 9)])
    with pytest.raises(ConfigError, match="id 3 is 'red' for base and '\\\\x00' for expert"):
        align(speaker("base", WORDS), [Speaker("expert", 259, ByteTokenizer())])


def test_a_map_of_ids_is_read(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"ids": {"3": 4, "5": 3}, "others": 5}))
    found = align(speaker("base", WORDS), [speaker("expert", [*WORDS[:3], "green", "red", "other"])], file)
    assert found == Vocabulary(6, 6, (0, 1, 2, 4, NONE, 3), 5)
    assert [found.shown(i) for i in range(6)] == [0, 1, 2, 4, 5, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON file like"),
        ('{"ids": {}}', "must be a JSON file like"),
        ('{"ids": {"3": 6}, "others": 3}', r"3 maps to 6, which is no text id of the guides \(3..5\)"),
        ('{"ids": {"3": 4}, "others": 0}', "others maps to 0, which is no text id"),
        ('{"ids": {"7": 4}, "others": 3}', "7 is no text id of base"),
    ],
)
def test_a_bad_map_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        align(speaker("base", WORDS), [speaker("expert", WORDS)], file)


# ---------------------------------------------------------------------------------------------------------------------
# held-out loss


def test_alpha_0_is_the_loss_of_the_base(trio: tuple[NativeMultimodalModel, ...], tiny_shards: Path) -> None:
    """As the evaluation of training computes it, by source and by class of token."""
    base, expert, amateur = trio
    shards, data = open_shards(tiny_shards), base.config.data
    batches = {
        source: val_batches(shards, source, "val", 4, 2, data.context_length, data.patch_size)
        for source in ("caption", "text")
    }
    zero, half, one = guided_nll(base, expert, amateur, batches, [0.0, 0.5, 1.0])
    known = evaluate(base, batches, {"caption": 1.0, "text": 1.0})
    assert zero.loss == pytest.approx({name: known["loss"][name] for name in ("caption", "text", "avg")}, rel=1e-6)
    for name, value in zero.excess.items():
        assert value == pytest.approx(known["class_excess"][name], abs=1e-5)
    assert zero.targets == half.targets > 100 and len({zero.loss["avg"], half.loss["avg"], one.loss["avg"]}) == 3
    capitals = {
        source: [
            replace(part, classes=torch.where(part.classes > 0, part.classes - 32, 0).to(part.classes))
            for part in parts
        ]
        for source, parts in batches.items()
    }  # every entity of the tail
    (tail,) = guided_nll(base, expert, amateur, capitals, [0.0])
    assert tail.classes == zero.classes
    (same,) = guided_nll(base, expert, expert, batches, [3.0])
    assert same.loss == pytest.approx(zero.loss, abs=1e-9)
    (moved,) = guided_nll(amateur, expert, amateur, batches, [1.0])
    assert moved.loss["avg"] == pytest.approx(evaluate(expert, batches, {"caption": 1.0})["loss"]["avg"], abs=1e-5)


def test_the_loss_of_what_follows_a_prompt(trio: tuple[NativeMultimodalModel, ...]) -> None:
    """The mean over its tokens of the log-probabilities that decoding would have drawn them with."""
    answers = [[5, 6, 2], [7], [9, 8, 7, 6], [30, 2]]
    batch = scored(trio[0].config, PROMPTS, answers)
    (found,) = guided_nll(*trio, {"gold": [batch]}, [0.6])
    total = 0.0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        for at, token in enumerate(answer):
            beginning = Prompt([*prompt.tokens, *answer[:at]], prompt.patches)
            steps: list[Step] = []
            guided(*trio, [beginning], 0.6, 1, listen=lambda step, *_, kept=steps: kept.append(step))
            total -= steps[0].combined.double().log_softmax(dim=1)[0, token].item()
    assert found.targets == 10 and found.loss["gold"] == pytest.approx(total / 10, abs=1e-5) == found.loss["avg"]
    assert found.classes == {}
    with pytest.raises(ValueError, match="prompt 1 of 1 tokens is followed by 0"):
        scored(trio[0].config, PROMPTS, [[5], [], [5], [5]])


def test_a_target_that_the_guides_do_not_know_is_refused(trio: tuple[NativeMultimodalModel, ...]) -> None:
    width = trio[0].config.data.vocab_size
    batch = scored(trio[0].config, [Prompt([5])], [[width - 1]])
    with pytest.raises(ValueError, match=f"target {width - 1} lies beyond the {width - 1} tokens"):
        guided_nll(*trio, {"gold": [batch]}, [0.5], Vocabulary(width, width - 1))


# ---------------------------------------------------------------------------------------------------------------------
# FLOPs


def counted() -> FlopCounterMode:
    """PyTorch's counter, with a rule for the product over experts: (S, K) x (E, K, N)."""
    rules = {torch.ops.aten._grouped_mm: lambda x, w, *rest, out_shape=None, **named: 2 * x[0] * w[1] * w[2]}
    return FlopCounterMode(display=False, custom_mapping=rules)


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
def test_flops_of_generation_are_those_that_are_counted(make_config: MakeConfig, arch: str) -> None:
    """PyTorch's own counter over a prompt with a picture and two more tokens."""
    config = make_config(arch, "d32")
    model = loud(config)
    prompt = Prompt([IMAGE_ID] * 16 + [5, 6, 7, 8], pictures(1))
    with torch.no_grad():
        decoder = Cached(model, [prompt], 3)
        with counted() as reading:
            decoder.start()
        with counted() as next_two:
            for _ in range(2):
                decoder.next(torch.tensor([9]))
    assert prompt_flops(config, 20, 1) == pytest.approx(reading.get_total_flops(), rel=1e-9)
    expected = token_flops(config, 21) + token_flops(config, 22)
    assert expected == pytest.approx(next_two.get_total_flops(), rel=1e-9)
    assert generation_flops(config, 20, 3, 1) == pytest.approx(prompt_flops(config, 20, 1) + expected)
    assert generation_flops(config, 20, 1, 1) == prompt_flops(config, 20, 1)


def test_guided_flops_are_the_sum_and_the_ratio_is_near_that_of_the_weights(make_config: MakeConfig) -> None:
    big, small = make_config("early", "d64"), make_config("early", "d16")
    each = [generation_flops(config, 20, 10, 1) for config in (big, small)]
    assert guided_flops([big, small, small], 20, 10, 1) == pytest.approx(each[0] + 2 * each[1])
    assert token_ratio(big, [], 50) == 1 and token_ratio(big, [big, big], 50) == 3
    assert 1 < token_ratio(big, [small, small], 50) < 1.5
    assert replace(big) == big


# ---------------------------------------------------------------------------------------------------------------------
# many answers


@pytest.mark.parametrize(("right", "samples"), [(0, 5), (2, 5), (5, 5), (1, 8), (7, 8)])
def test_pass_at_k_by_going_through_all_choices(right: int, samples: int) -> None:
    answers = [i < right for i in range(samples)]
    for k in range(1, samples + 1):
        chosen = list(combinations(answers, k))
        assert pass_at_k(right, samples, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_k_over_questions_and_its_refusals() -> None:
    assert mean_pass_at_k([0, 4, 2], 4, [1, 4]) == pytest.approx({1: 0.5, 4: 2 / 3})
    for bad in ((5, 4, 1), (1, 4, 5), (1, 4, 0), (-1, 4, 1)):
        with pytest.raises(ValueError, match="must lie in"):
            pass_at_k(*bad)
    with pytest.raises(ValueError, match="no questions"):
        mean_pass_at_k([], 4, [1])


def test_votes_and_budgets() -> None:
    assert voted(["b", "a", "a", "c", "b"]) == "b" and voted([(1,), (2,), (2,)]) == (2,)
    assert [samples_for(budget, 2.0) for budget in (0.5, 2.0, 5.9, 6.0)] == [1, 1, 2, 3]
    assert samples_for(3 * 0.1, 0.1) == 3
    with pytest.raises(ValueError, match="must be positive"):
        samples_for(0.0, 1.0)
    assert np.isclose(pass_at_k(1, 2, 1), 0.5)
