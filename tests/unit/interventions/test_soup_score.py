"""Scores of held-out questions: one pass says what generation would, and losses are those of a plain loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab import run_directory, train

from nmm.config import ConfigError, RunConfig
from nmm.data.manifest import Shards, open_shards
from nmm.data.sft import ANSWER
from nmm.data.sft_exam import questions
from nmm.interventions.soup_score import Paper, make_paper
from nmm.model.fusion import NativeMultimodalModel
from nmm.sft import Exam, grade
from nmm.start import load_run


@pytest.fixture(scope="module")
def config(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    out = tmp_path_factory.mktemp("scored")
    made = make_config("early", budget={"steps": 150}, schedule={"warmup_steps": 20}, optim={"lr": 0.02}, out=str(out))
    train(made)
    return made


@pytest.fixture(scope="module")
def model(config: RunConfig) -> NativeMultimodalModel:
    return load_run(run_directory(config))


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Shards:
    return open_shards(tiny_shards)


@pytest.fixture(scope="module")
def paper(shards: Shards, config: RunConfig) -> Paper:
    return make_paper(shards, config, "val", ["caption"], [], 0)


def test_one_pass_finds_the_accuracy_of_greedy_generation(
    paper: Paper, model: NativeMultimodalModel, shards: Shards, config: RunConfig
) -> None:
    data = config.data
    asked = questions(shards, ["caption"], "val", 10_000, data.context_length, data.patch_size)
    generated = grade(model, Exam(asked, [], shards.tokenizer))
    found = paper.mark(model)
    assert found["questions"] == generated["questions"]
    assert found["accuracy"] == pytest.approx(generated["accuracy"])
    assert 0 < found["accuracy"]["avg"] < 1, "a model that is always wrong would test nothing"


def test_losses_are_those_of_a_loop_over_tokens(
    paper: Paper, model: NativeMultimodalModel, shards: Shards, config: RunConfig
) -> None:
    words, sums = shards.tokenizer.words, defaultdict(list)
    for sheet in paper.sheets:
        batch = sheet.batch
        output = model(batch)
        nll = torch.nn.functional.cross_entropy(output.logits, batch.targets.reshape(-1)[output.at], reduction="none")
        losses = dict(zip(output.at.tolist(), nll.tolist(), strict=True))
        tokens, letters = batch.tokens.reshape(-1).tolist(), batch.classes.reshape(-1).tolist()
        kind = ""
        for at, word in enumerate(words[token] for token in tokens):
            kind = words[tokens[at + 1]] if word == "Q" else kind
            if letters[at] == ANSWER:
                sums[kind].append(losses[at])
    found = paper.mark(model)["loss"]
    expected = {kind: sum(values) / len(values) for kind, values in sums.items()}
    assert found == pytest.approx({**expected, "avg": sum(expected.values()) / len(expected)}, rel=1e-4)


def test_chosen_kinds_are_the_only_ones_and_captions_have_a_loss(
    model: NativeMultimodalModel, shards: Shards, config: RunConfig, paper: Paper
) -> None:
    some = make_paper(shards, config, "val", ["caption"], ["colour", "caption"], 0).mark(model)
    whole = paper.mark(model)
    assert set(some["loss"]) == {"colour", "caption", "avg"} and set(some["accuracy"]) == {"colour", "avg"}
    assert some["loss"]["colour"] == pytest.approx(whole["loss"]["colour"])
    assert some["accuracy"]["avg"] == pytest.approx(whole["accuracy"]["colour"])
    assert some["loss"]["avg"] == pytest.approx((some["loss"]["colour"] + some["loss"]["caption"]) / 2)


def test_two_sources_are_asked_together(model: NativeMultimodalModel, shards: Shards, config: RunConfig) -> None:
    both = make_paper(shards, config, "val", ["caption", "interleaved"], [], 0).mark(model)
    assert both["questions"]["where"] > 0


def test_what_is_not_asked_cannot_be_scored(shards: Shards, config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"no question of kind sum .*there are .*colour"):
        make_paper(shards, config, "val", ["caption"], ["sum"], 0)
    with pytest.raises(ValueError, match="rows=100000: caption val .* fills"):
        make_paper(shards, config, "val", ["caption"], [], 100_000)


def test_weights_that_are_no_model_are_an_error_and_no_score(
    paper: Paper, model: NativeMultimodalModel, config: RunConfig
) -> None:
    broken = load_run(run_directory(config))
    with torch.no_grad():
        broken.head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        paper.mark(broken)
