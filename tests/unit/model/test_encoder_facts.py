"""Counting an encoder on the meta device: equal to the formulas where there are any, and to the built net elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import training_batch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nmm.batch import IMAGE_ID
from nmm.config import RunConfig, from_dict, run_id
from nmm.flops import count_params, training_flops
from nmm.model.build import build
from nmm.model.encoder_facts import encoder_facts
from nmm.model.loss import target_losses
from nmm.model.vision import VisionEncoder
from nmm.params import vision_encoder
from nmm.resolve import count_encoder

MakeConfig = Callable[..., RunConfig]


@pytest.mark.parametrize("size", ["d48", "d128"])
@pytest.mark.parametrize("vision", ["vit", "swiglu"])
def test_our_encoder_counts_as_its_formula(make_config: MakeConfig, vision: str, size: str) -> None:
    config = make_config("late", size, block={"vision": vision})
    formula, facts = dataclasses.asdict(vision_encoder(config)), encoder_facts(config)
    assert facts.pop("saved") == pytest.approx(formula.pop("saved"), rel=0.25)
    assert facts == formula


def timm_late(make_config: MakeConfig, **arch: Any) -> RunConfig:
    """Images of 32 pixels in four patches for a small ViT of timm, which adds a class token."""
    arch = {"vision_model": "test_vit", "pairing": "none", "connector": "mlp"} | arch
    return make_config("late", "d32", arch=arch, data={"patch_size": 16}, trainer={"rows_per_step": 8})


def test_finalize_counts_a_timm_net_and_an_id_does_not_depend_on_it(make_config: MakeConfig) -> None:
    config = timm_late(make_config)
    assert config.arch.vision_facts == encoder_facts(config)
    model, params = build(config), count_params(config)
    assert params.vision == sum(p.numel() for p in model.vision.parameters())
    assert params.connector == sum(p.numel() for p in model.connector.parameters())
    assert params.total == sum(p.numel() for p in model.parameters())
    assert params.vision_matrices < params.vision
    bare = dataclasses.replace(config, arch=dataclasses.replace(config.arch, vision_facts={}))
    assert run_id(bare) == run_id(config)
    assert count_encoder(bare) == config and count_encoder(config) is config


@pytest.mark.parametrize("is_frozen", [False, True])
def test_flops_around_a_timm_net_are_counted_ones(make_config: MakeConfig, is_frozen: bool) -> None:
    config = timm_late(make_config)
    arch = dataclasses.replace(config.arch, vision_frozen=is_frozen, vision_facts={})
    config = count_encoder(dataclasses.replace(config, arch=arch))
    batch, model = training_batch(config), build(config)
    image, target = (batch.tokens == IMAGE_ID).float().mean().item(), batch.weights.mean().item()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        target_losses(model(batch), batch).sum().backward()
    expected = training_flops(config, batch.tokens.numel(), image, target)["total"]
    assert expected == pytest.approx(counter.get_total_flops(), rel=1e-5)


def test_a_net_without_blocks_or_linear_patches() -> None:
    """Forward as torch counts it; backward twice that but for the first layer, which meets pixels."""
    arch = {"fusion": "late", "pairing": "none", "vision_model": "test_convnext"}
    config = from_dict({"arch": arch, "data": {"image_size": 160, "patch_size": 32}, "budget": {"steps": 1}})
    facts = encoder_facts(config)
    encoder = VisionEncoder(config)
    with FlopCounterMode(display=False) as counter:
        features = encoder(torch.zeros(1, 25, 3 * 32 * 32))
    assert (facts["forward"], facts["width"]) == (counter.get_total_flops(), features.shape[-1])
    stem = next(m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d))
    assert facts["backward"] == 2 * facts["forward"] - 2 * stem.weight.numel() * 40 * 40
    assert facts["blocks"] == 0
    assert facts["params"] == sum(p.numel() for p in encoder.parameters())


def test_an_encoder_of_ours_has_nothing_to_count(make_config: MakeConfig) -> None:
    config = make_config("late")
    assert count_encoder(config) is config
