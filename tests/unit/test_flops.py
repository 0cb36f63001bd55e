"""Formulas against counting: FLOPs of a real batch through the built model, pairing of early and late, budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import ALL_ARCHS, SIZES, composed, training_batch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nmm.batch import IMAGE_ID, Batch
from nmm.config import Budget, ConfigError, RunConfig, from_dict
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
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import balance_loss, target_losses

MakeConfig = Callable[..., RunConfig]


def grouped_flops(x: torch.Size, w: torch.Size, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """Two FLOPs a multiply-add: (S, K) x (E, K, N), and backward (K, S) x (S, N). torch's counter has no rule."""
    return 2 * x[0] * w[1] * w[2] if len(w) == 3 else 2 * x[0] * x[1] * w[1]


def counted(run: Callable[[], Tensor], backward: bool) -> int:
    """FLOPs torch's counter sees.

    Attention runs as plain products: flash attention's backward computes its scores a second time (5 products where the
    formula, like every published one, counts 4).
    """
    rules = {torch.ops.aten._grouped_mm: grouped_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=rules) as counter:
        loss = run()
        if backward:
            loss.backward()
    return counter.get_total_flops()


def loss_of(model: NativeMultimodalModel, batch: Batch) -> Tensor:
    output = model(batch)
    return target_losses(output, batch).sum() + balance_loss(output)


def shares(batch: Batch) -> tuple[float, float]:
    """Share of positions that are patches, and that are scored."""
    return (batch.tokens == IMAGE_ID).float().mean().item(), batch.weights.mean().item()


SWIGLU = {"ffn": "swiglu", "vision": "swiglu", "hidden_multiple": 16}
COUNTED: list[tuple[str, dict[str, Any]]] = [
    *((arch, {}) for arch in ALL_ARCHS),
    ("late", {"arch": {"connector": "mlp", "pairing": "params"}}),
    ("late", {"block": SWIGLU}),
    ("early", {"block": SWIGLU | {"tied_head": True, "patch_position": False, "norm": "layer", "qk_norm": "width"}}),
    ("early", {"size": {"num_kv_heads": 1}, "block": {"rope": "2d"}}),
    ("early", {"size": {"head_dim": 24, "hidden": 50}, "block": {"qk_norm": "none"}}),
    ("early", {"arch": {"pixel_shuffle": 2}, "data": {"patch_size": 4}}),
    ("late", {"arch": {"pixel_shuffle": 2, "connector": "mlp"}, "data": {"patch_size": 4}}),
    ("late", {"arch": {"vision_model2": "sized"}}),
    ("late", {"arch": {"vision_model2": "sized", "vision_patch2": 4, "pairing": "none"}, "block": SWIGLU}),
    (
        "late",
        {
            "arch": {"vision_model2": "sized", "vision_patch2": 8, "pixel_shuffle": 2, "pairing": "none"},
            "data": {"patch_size": 4},
        },
    ),
    ("late", {"arch": {"vision_model": "test_vit", "pixel_shuffle": 2, "pairing": "none"}, "data": {"patch_size": 16}}),
    ("late", {"arch": {"vision_model2": "test_vit", "vision_patch2": 16, "pixel_shuffle": 2, "pairing": "none"}}),
    ("moe", {"arch": {"top_k": 2, "num_experts": 4}}),
    ("moe", {"arch": {"shared_experts": 1, "granularity": 2}, "block": SWIGLU}),
    ("moe", {"arch": {"moe_every": 2}}),
    ("moe_aware_matched", {"arch": {"top_k": 2, "shared_experts": 1}}),
]


@pytest.mark.parametrize(("arch", "groups"), COUNTED, ids=lambda value: str(value).replace("'", ""))
def test_flops_are_what_the_counter_counts(make_config: MakeConfig, arch: str, groups: dict[str, Any]) -> None:
    config = make_config(arch, "d32", **groups, trainer={"rows_per_step": 8})
    batch, model = training_batch(config), build(config)
    positions, (image, target) = batch.tokens.numel(), shares(batch)
    forward = forward_flops(config, image, target).total * positions
    training = training_flops(config, positions, image, target)["total"]
    assert forward == pytest.approx(counted(lambda: loss_of(model, batch), backward=False), rel=1e-5)
    assert training == pytest.approx(counted(lambda: loss_of(model, batch), backward=True), rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", ["early", "late"])
def test_flops_of_the_ladder(make_config: MakeConfig, arch: str, size: str) -> None:
    config = make_config(arch, size)
    batch, model = training_batch(config), build(config)
    expected = training_flops(config, batch.tokens.numel(), *shares(batch))["total"]
    assert expected == pytest.approx(counted(lambda: loss_of(model, batch), backward=True), rel=1e-5)


@pytest.mark.parametrize(
    ("arch", "size", "depth"), [("early", "275m", 24), ("moe", "275m", 4), ("late", "289m", 4), ("late", "275m", 4)]
)
def test_flops_at_the_paper_s_size(arch: str, size: str, depth: int) -> None:
    """One row of 1,024 positions, two images and 400 targets, without values. Autocast knows no meta device."""
    values = composed(arch=arch, size=size) | {"budget": {"steps": 1}}
    values["size"] |= {"depth": depth, "vision_depth": depth}
    config = from_dict(values)
    with FakeTensorMode() if arch == "moe" else torch.device("meta"):
        model, batch = NativeMultimodalModel(config), meta_row(config, images=2)

        def run() -> Tensor:
            features, _ = model.features(batch)
            return model.head(features[0, :400]).sum()

        found = counted(run, backward=True)
    assert found == pytest.approx(training_flops(config, 1024, 512 / 1024, 400 / 1024)["total"], rel=1e-5)


def meta_row(config: RunConfig, images: int) -> Batch:
    """A row without values; its shapes are all that counts."""
    positions, patches = config.data.context_length, config.tokens_per_image
    whole, small = torch.empty(1, positions, dtype=torch.int64), torch.empty(1, positions, dtype=torch.int32)
    pixels = torch.empty(images, patches, config.data.channels * config.data.patch_size**2, dtype=torch.uint8)
    at = torch.empty(images, patches, dtype=torch.int64)
    return Batch(whole, pixels, at, small, small, whole, whole, whole.float(), small, whole.float(), small, whole[:, 0])


def test_a_frozen_encoder_has_no_backward_pass(make_config: MakeConfig) -> None:
    config = make_config("late", "d32", trainer={"rows_per_step": 8}, arch={"connector": "mlp"})
    frozen = dataclasses.replace(config, arch=dataclasses.replace(config.arch, vision_frozen=True))
    batch, model = training_batch(config), build(frozen)
    expected = training_flops(frozen, batch.tokens.numel(), *shares(batch))
    assert expected["total"] == pytest.approx(counted(lambda: loss_of(model, batch), backward=True), rel=1e-5)
    free = training_flops(config, batch.tokens.numel(), *shares(batch))
    assert expected["vision"] < free["vision"] / 2 and expected["connector"] < free["connector"]


@pytest.mark.parametrize("arch", ALL_ARCHS)
def test_components_add_up_and_6nd_is_the_paper_s(make_config: MakeConfig, arch: str) -> None:
    config = make_config(arch)
    flops, params = training_flops(config, 1000.0, image_share=0.25), count_params(config)
    parts = {name: value for name, value in flops.items() if name not in ("total", "6nd")}
    assert set(parts) == {f.name for f in dataclasses.fields(forward_flops(config))}
    assert flops["total"] == pytest.approx(sum(parts.values()), rel=1e-12)
    assert flops["6nd"] == pytest.approx(6.0 * (params.vision_matrices * 250 + params.paper * 1000), rel=1e-12)
    assert all(value >= 0 for value in parts.values())
    twice = training_flops(config, 2000.0, image_share=0.25)
    assert twice["total"] == pytest.approx(2 * flops["total"], rel=1e-12)


def test_6nd_of_the_paper_s_smallest_run() -> None:
    config = from_dict(composed(arch="early", size="275m") | {"budget": {"steps": 1}})
    assert training_flops(config, 300e9)["6nd"] == pytest.approx(4.95e20, rel=1e-3)
    assert (config.data.image_share, config.data.target_share) == (0.544, 0.45)


@pytest.mark.parametrize("size", [*SIZES, "275m", "8b"])
def test_late_costs_what_early_costs(size: str) -> None:
    early, late = (from_dict(composed(arch=a, size=size) | {"budget": {"steps": 1}}) for a in ("early", "late"))
    early, late = (dataclasses.replace(c, data=dataclasses.replace(c.data, vocab_size=500)) for c in (early, late))
    assert training_flops(late, 1.0)["total"] == pytest.approx(training_flops(early, 1.0)["total"], rel=0.01)
    assert forward_flops(late).total == pytest.approx(forward_flops(early).total, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_late_holds_what_early_holds(make_config: MakeConfig, size: str) -> None:
    early, late = make_config("early", size), make_config("late", size, arch={"pairing": "params"})
    assert count_params(late).non_embedding == pytest.approx(count_params(early).non_embedding, rel=0.01)


@pytest.mark.parametrize("changes", [{"arch": {"pairing": "none"}}, {"size": {"paired": False}}])
@pytest.mark.parametrize("size", SIZES)
def test_late_unpaired_has_the_same_decoder_as_early(make_config: MakeConfig, size: str, changes: dict) -> None:
    early, late = make_config("early", size), make_config("late", size, **changes)
    assert ffn_hidden(late) == ffn_hidden(early) == early.hidden
    assert count_params(late).decoder_non_embedding == count_params(early).decoder_non_embedding
    assert count_params(late).vision > 0 == count_params(early).vision


def test_a_vision_encoder_that_leaves_no_decoder_is_refused(make_config: MakeConfig) -> None:
    config = make_config(
        "late", size={"vision_width": 64, "vision_depth": 8, "vision_heads": 1}, arch={"pairing": "none"}
    )
    for pairing in ("flops", "params"):
        with pytest.raises(ConfigError, match=r"leaves no room for a late decoder with arch.pairing=" + pairing):
            ffn_hidden(dataclasses.replace(config, arch=dataclasses.replace(config.arch, pairing=pairing)))


def test_a_hand_counted_model(make_config: MakeConfig) -> None:
    config = make_config("early", "d16")  # width 16, depth 2, one head, FFN 64, patches of 3 * 8 * 8, context 128
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=100))
    params = count_params(config)
    assert (params.embedding, params.head) == (1600, 1600)
    assert params.attention == 2 * 4 * 16 * 16
    assert params.ffn == 2 * 2 * 16 * 64
    assert params.norm == 5 * 16 + 2 * 2 * 16
    assert params.patch == 16 * 16 + 192 * 16
    assert params.total == 3200 + 2048 + 4096 + 144 + 3328
    flops = forward_flops(config, image_share=0.5, target_share=0.25)
    assert flops.attention_projections == 2 * 2 * 4 * 16 * 16
    assert flops.attention_scores == 2 * 2 * (128 * 16 + 128 * 16)
    assert flops.ffn == 2 * 2 * 2 * 16 * 64
    assert flops.head == 0.25 * 2 * 16 * 100
    assert flops.patch == 0.5 * 2 * 192 * 16


def test_typical_shares_are_those_of_the_mixture(make_config: MakeConfig) -> None:
    """The constants budgets and pairing rest on, against the first 2,000 rows of real batches."""
    config = make_config(trainer={"rows_per_step": 2000})
    image, target = shares(training_batch(config))
    assert image == pytest.approx(IMAGE_SHARE, abs=0.03) and config.data.image_share == IMAGE_SHARE
    assert target == pytest.approx(TARGET_SHARE, abs=0.03) and config.data.target_share == TARGET_SHARE


@pytest.mark.parametrize("arch", ALL_ARCHS)
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
