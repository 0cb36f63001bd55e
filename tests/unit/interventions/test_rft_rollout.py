"""Answers drawn in groups are those that `generate` draws for every row by itself."""

from __future__ import annotations

import pytest
import torch
from reasoning_lab import asking_config, write_asking_shards

from nmm.batch import END_ID
from nmm.data.manifest import Shards
from nmm.data.tasks import tasks
from nmm.generate import generate
from nmm.interventions import rft_rollout
from nmm.interventions.rft_rollout import draw_answers
from nmm.model.build import build
from nmm.model.decode import Prompt
from nmm.training.run import shards_of


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    config = asking_config(write_asking_shards(tmp_path_factory.mktemp("asking") / "shards", train=60))
    shards = shards_of(config)
    assert isinstance(shards, Shards)
    torch.manual_seed(0)
    model = build(config)
    prompts = [Prompt(task.tokens, task.patches) for task in tasks(shards, config, "val", 5)]
    prompts[1] = Prompt(prompts[1].tokens[:-1], prompts[1].patches)  # of another length
    return model, prompts


@pytest.mark.parametrize("rows", [512, 4])
def test_answers_are_those_of_single_rows(asked, rows, monkeypatch):
    model, prompts = asked
    monkeypatch.setattr(rft_rollout, "BATCH_ROWS", rows)
    drawn = draw_answers(model, prompts, 3, 8, (END_ID,), temperature=1.0, seed=5)
    alone = generate(model, [prompt for prompt in prompts for _ in range(3)], 8, (END_ID,), temperature=1.0, seed=5)
    assert drawn == alone
    assert len({tuple(words) for words in drawn}) > 5


def test_other_seeds_draw_other_answers(asked):
    model, prompts = asked
    first, second = (draw_answers(model, prompts, 2, 8, (END_ID,), 1.0, seed) for seed in (0, 1))
    assert first != second
