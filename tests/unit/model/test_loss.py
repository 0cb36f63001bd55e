"""Token sums: cross-entropy of every text target, balance loss of every row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lab import training_batch

from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.fusion import Output
from nmm.model.loss import balance_loss, target_losses
from nmm.model.moe import Routing


def test_cross_entropy_token_by_token(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    batch, model = training_batch(config), build(config)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    output = model(batch)
    losses = target_losses(output, batch)
    assert losses.shape == (int(batch.weights.sum()),)
    logits, targets = output.logits.double(), batch.targets.reshape(-1)
    for i in range(0, len(losses), 37):
        values = logits[i].tolist()
        expected = math.log(sum(math.exp(v) for v in values)) - values[int(targets[output.at[i]])]
        assert losses[i].item() == pytest.approx(expected, rel=1e-5)


def test_losses_are_fp32_whatever_the_logits(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    batch = training_batch(config)
    output = build(config)(batch)
    low = Output(output.logits.bfloat16(), output.at, [])
    assert target_losses(low, batch).dtype == torch.float32


def test_balance_is_the_sum_over_rows_of_the_mean_over_layers() -> None:
    routings = [Routing(torch.tensor([1.0, 2.0]), torch.zeros(2)), Routing(torch.tensor([3.0, 6.0]), torch.zeros(2))]
    output = Output(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), routings)
    assert balance_loss(output).item() == pytest.approx(2.0 + 4.0)


def test_a_dense_model_has_no_balance_loss(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    assert balance_loss(build(config)(training_batch(config))).item() == 0.0


def test_a_fresh_moe_is_nearly_balanced(make_config: Callable[..., RunConfig]) -> None:
    config = make_config("moe")
    rows = config.trainer.rows_per_step
    balance = balance_loss(build(config)(training_batch(config))).item() / rows
    assert 1.0 <= balance < 2.0  # 1 is even, 8 is collapsed
