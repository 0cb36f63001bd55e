"""Formulas against counting: FLOPs of a real batch through the built model, pairing of early and late, budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from lab import ARCHS, SIZES, training_batch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nmm.batch import IMAGE_ID, Batch
from nmm.config import Budget, ConfigError, RunConfig
from nmm.flops import (
    IMAGE_SHARE,
    TARGET_SHARE,
    count_params,
    ffn_hidden,
    forward_flops,
    resolve_budget,
    training_flops,
)
from nmm.model.build import build
from nmm.model.loss import balance_loss, target_losses
from nmm.model.moe import MoE

MakeConfig = Callable[..., RunConfig]


def experts_one_by_one(layer: MoE, x_SD: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
    """``MoE._experts`` in plain products, which the counter knows; it does not know grouped_mm."""
    parts = x_SD.split(counts_E.tolist())
    return torch.cat([torch.relu(x @ layer.up[e]).square() @ layer.down[e] for e, x in enumerate(parts)])


def counted(config: RunConfig, batch: Batch, backward: bool) -> int:
    """FLOPs torch's counter sees.

    Attention runs as plain products: flash attention's backward computes its scores a second time (5 products where the
    formula, like every published one, counts 4).
    """
    model = build(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(batch)
        loss = target_losses(output, batch).sum() + balance_loss(output)
        if backward:
            loss.backward()
    return counter.get_total_flops()


def shares(batch: Batch) -> tuple[float, float]:
    """Share of positions that are patches, and that are scored."""
    return (batch.tokens == IMAGE_ID).float().mean().item(), batch.weights.mean().item()


@pytest.mark.parametrize("size", ["d32", "d48"])
@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("early", {}),
        ("late", {}),
        ("late", {"connector": "mlp", "pairing": "params"}),
        ("moe", {}),
        ("moe", {"top_k": 2, "num_experts": 4}),
    ],
)
def test_flops_are_what_the_counter_counts(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, arch: str, changes: dict, size: str
) -> None:
    monkeypatch.setattr(MoE, "_experts", experts_one_by_one)
    config = make_config(arch, size, arch={**changes} if changes else {}, trainer={"rows_per_step": 8})
    batch = training_batch(config)
    positions, (image, target) = batch.tokens.numel(), shares(batch)
    forward = forward_flops(config, image, target).total * positions
    training = training_flops(config, positions, image, target)["total"]
    assert forward == pytest.approx(counted(config, batch, backward=False), rel=1e-5)
    assert training == pytest.approx(counted(config, batch, backward=True), rel=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_components_add_up_and_6nd_is_6nd(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    flops = training_flops(config, 1000.0)
    parts = {name: value for name, value in flops.items() if name not in ("total", "6nd")}
    assert set(parts) == {f.name for f in dataclasses.fields(forward_flops(config))}
    assert flops["total"] == pytest.approx(sum(parts.values()), rel=1e-12)
    assert flops["6nd"] == 6.0 * count_params(config).active * 1000
    assert all(value >= 0 for value in parts.values())
    twice = training_flops(config, 2000.0)
    assert twice["total"] == pytest.approx(2 * flops["total"], rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_late_costs_what_early_costs(make_config: MakeConfig, size: str) -> None:
    early, late = make_config("early", size), make_config("late", size, arch={"pairing": "flops"})
    assert training_flops(late, 1.0)["total"] == pytest.approx(training_flops(early, 1.0)["total"], rel=0.01)
    assert forward_flops(late).total == pytest.approx(forward_flops(early).total, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_late_holds_what_early_holds(make_config: MakeConfig, size: str) -> None:
    early, late = make_config("early", size), make_config("late", size, arch={"pairing": "params"})
    assert count_params(late).non_embedding == pytest.approx(count_params(early).non_embedding, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_late_unpaired_has_the_same_decoder_as_early(make_config: MakeConfig, size: str) -> None:
    early, late = make_config("early", size), make_config("late", size, arch={"pairing": "none"})
    assert ffn_hidden(late) == ffn_hidden(early)
    assert count_params(late).decoder_non_embedding == count_params(early).decoder_non_embedding
    assert count_params(late).vision > 0 == count_params(early).vision


def test_a_vision_encoder_that_leaves_no_decoder_is_refused(make_config: MakeConfig) -> None:
    config = make_config(
        "late", size={"vision_width": 64, "vision_depth": 8, "vision_heads": 1}, arch={"pairing": "none"}
    )
    for pairing in ("flops", "params"):
        with pytest.raises(ConfigError, match=r"leaves no room for a late decoder with arch.pairing=" + pairing):
            ffn_hidden(dataclasses.replace(config, arch=dataclasses.replace(config.arch, pairing=pairing)))


@pytest.mark.parametrize("size", SIZES)
def test_moe_is_early_with_experts(make_config: MakeConfig, size: str) -> None:
    early, moe = count_params(make_config("early", size)), count_params(make_config("moe", size))
    assert moe.active - moe.router == early.total == early.active
    assert moe.experts == 8 * moe.experts_active == 8 * early.ffn
    assert moe.total - moe.active == 7 * early.ffn
    assert moe.active_non_embedding - moe.router == early.non_embedding
    assert (early.experts, early.router, moe.ffn) == (0, 0, 0)


def test_a_hand_counted_model(make_config: MakeConfig) -> None:
    config = make_config("early", "d16")  # width 16, depth 2, one head, FFN 64, patches of 3 * 8 * 8, context 128
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=100))
    params = count_params(config)
    assert (params.embedding, params.head) == (1600, 1600)
    assert params.attention == 2 * (4 * 16 * 16 + 2 * 16)
    assert params.ffn == 2 * 2 * 16 * 64
    assert params.norm == 5 * 16
    assert params.patch == 16 * 16 + 192 * 16
    assert params.total == 3200 + 2112 + 4096 + 80 + 3328
    flops = forward_flops(config, image_share=0.5, target_share=0.25)
    assert flops.attention_projections == 2 * 2 * 4 * 16 * 16
    assert flops.attention_scores == 2 * 2 * (128 * 16 + 128 * 16)
    assert flops.ffn == 2 * 2 * 2 * 16 * 64
    assert flops.head == 0.25 * 2 * 16 * 100
    assert flops.patch == 0.5 * 2 * 192 * 16


def test_typical_shares_are_those_of_the_mixture(make_config: MakeConfig) -> None:
    """The constants budgets and pairing rest on, against the first 2,000 rows of real batches."""
    batch = training_batch(make_config(trainer={"rows_per_step": 2000}))
    image, target = shares(batch)
    assert image == pytest.approx(IMAGE_SHARE, abs=0.03)
    assert target == pytest.approx(TARGET_SHARE, abs=0.03)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_budget_becomes_the_nearest_whole_step(make_config: MakeConfig, arch: str) -> None:
    def steps(**budget: float) -> int:
        config = dataclasses.replace(make_config(arch), budget=Budget(**budget))  # type: ignore[arg-type]
        resolved = resolve_budget(config)
        assert (resolved.budget.tokens, resolved.budget.flops) == (None, None)
        assert resolve_budget(resolved) is resolved
        return resolved.total_steps

    assert steps(tokens=512 * 10) == steps(tokens=512 * 10 + 255) == 10
    assert steps(tokens=512 * 10 + 257) == 11
    assert steps(tokens=1) == 1
    assert steps(flops=training_flops(make_config(arch), 512 * 30)["total"]) == 30
    assert steps(steps=7) == 7
