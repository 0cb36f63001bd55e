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
from nmm.model.loss import balance_loss, loss_sums, objective, target_losses
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


def test_z_loss_is_the_mean_square_of_the_log_partition(make_config: Callable[..., RunConfig]) -> None:
    """By hand, in plain Python: log Z of each target's logits, squared, averaged over the targets of the step."""
    config = make_config(optim={"z_loss_coef": 0.5})
    batch, model = training_batch(config), build(config)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    output = model(batch)
    sums = loss_sums(output, batch, config)
    by_hand = [math.log(sum(map(math.exp, row))) ** 2 for row in output.logits.double().tolist()]
    assert len(by_hand) == int(batch.weights.sum())
    assert sums["z"].item() == pytest.approx(sum(by_hand), rel=1e-5)
    loss = objective(sums, batch.weights.sum(), config).item()
    cross_entropy = sums["ce"].item() / len(by_hand)
    assert loss == pytest.approx(cross_entropy + 0.5 * sum(by_hand) / len(by_hand), rel=1e-5)
    plain = make_config()
    assert "z" not in loss_sums(output, batch, plain)


def test_the_gradient_of_z_loss_lowers_every_logit_by_its_probability(make_config: Callable[..., RunConfig]) -> None:
    """d (log Z)^2 / d logits = 2 log Z softmax(logits)."""
    config = make_config(optim={"z_loss_coef": 1.0})
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    output = Output(logits, torch.zeros(1, dtype=torch.long), [])
    batch = training_batch(config)
    loss_sums(output, batch, config)["z"].backward()
    expected = 2 * logits.logsumexp(dim=-1) * logits.softmax(dim=-1)
    assert torch.allclose(logits.grad, expected)


def test_losses_are_fp32_whatever_the_logits(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    batch = training_batch(config)
    output = build(config)(batch)
    low = Output(output.logits.bfloat16(), output.at, [])
    assert target_losses(low, batch).dtype == torch.float32


def routing(experts: list[list[int]], probability: float) -> Routing:
    """Two experts; every position of a row chooses as listed, its choice having the given probability."""
    expert = torch.tensor(experts)[..., None]
    logits = torch.full((*expert.shape[:2], 2), 1 - probability).scatter(2, expert, probability).log()
    ends = expert.reshape(-1).bincount(minlength=2).cumsum(0)
    valid = torch.ones(expert.shape[:2])
    return Routing(logits, logits.softmax(-1), expert, ends, valid, torch.zeros_like(valid, dtype=torch.bool))


def test_balance_is_the_sum_over_rows_of_the_mean_over_layers() -> None:
    """A row with all in one expert has 2 * 1 * P, one that is even has 1."""
    layers = [routing([[0, 0], [0, 1]], 0.9), routing([[1, 1], [0, 0]], 0.7)]
    output = Output(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), layers)
    assert balance_loss(output).item() == pytest.approx((2 * 0.9 + 2 * 0.7) / 2 + (1.0 + 2 * 0.7) / 2)


def test_what_the_config_does_not_ask_of_the_router_is_left_out(make_config: Callable[..., RunConfig]) -> None:
    asked = {"balancing": "loss", "router_z_coef": 0.1}
    config = make_config("moe", arch=asked)
    batch = training_batch(config)
    output = build(config)(batch)
    sums = loss_sums(output, batch, config)
    assert {"balance", "router_z", "load"} < set(sums)
    rows, targets = config.trainer.rows_per_step, batch.weights.sum()
    expected = sums["ce"] / targets + 0.01 * sums["balance"] / rows + 0.1 * sums["router_z"] / rows
    assert objective(sums, targets, config).item() == pytest.approx(expected.item(), rel=1e-6)
    for change, absent in (({"balancing": "bias"}, "balance"), ({"router_z_coef": 0.0}, "router_z")):
        rest = loss_sums(output, batch, make_config("moe", arch={**asked, **change}))
        assert set(sums) - set(rest) == {absent}


def test_the_load_counts_every_slot_that_is_not_padding(make_config: Callable[..., RunConfig]) -> None:
    config = make_config("moe", arch={"top_k": 2})
    batch = training_batch(config)
    load = loss_sums(build(config)(batch), batch, config)["load"]
    assert load.shape == (config.size.depth, 8)
    assert load.sum(dim=1).tolist() == [2 * int((batch.document >= 0).sum())] * config.size.depth


def test_a_dense_model_has_no_balance_loss(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    assert balance_loss(build(config)(training_batch(config))).item() == 0.0


def test_a_fresh_moe_is_nearly_balanced(make_config: Callable[..., RunConfig]) -> None:
    config = make_config("moe")
    rows = config.trainer.rows_per_step
    balance = balance_loss(build(config)(training_batch(config))).item() / rows
    assert 1.0 <= balance < 2.0  # 1 is even, 8 is collapsed
