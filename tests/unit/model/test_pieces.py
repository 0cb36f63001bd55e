"""Pixel shuffle and the second encoder: what they compute, how they are counted, begun, loaded and taken along."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import composed, run_directory, train, training_batch
from safetensors.torch import save_file

from nmm.config import ConfigError, RunConfig, from_dict, run_id
from nmm.flops import count_params, ffn_hidden, forward_flops, training_flops
from nmm.memory import training_memory
from nmm.model.build import build
from nmm.model.encoder_facts import encoder_facts
from nmm.model.fusion import pixels
from nmm.model.vision import MixedEncoder, VisionEncoder, load_vision, pixel_shuffled
from nmm.params import encoder_configs, vision_encoder, vision_encoders
from nmm.start import export, load_run, run_weights

MakeConfig = Callable[..., RunConfig]
SHUFFLED = {"arch": {"pixel_shuffle": 2}, "data": {"patch_size": 4}}
DUAL: dict[str, Any] = {"arch": {"vision_model2": "sized", "vision_mix": 0.25}}


def with_arch(config: RunConfig, **arch: Any) -> RunConfig:
    return dataclasses.replace(config, arch=dataclasses.replace(config.arch, **arch))


# ---------------------------------------------------------------------------------------------------------------------
# pixel shuffle


def test_neighbours_stand_side_by_side() -> None:
    """Feature k of the patch at (r, c) is 100 r + 10 c + k; position (0, 1) holds rows 0 and 1 of columns 2 and 3."""
    at = torch.arange(4)
    features = (100 * at[:, None, None] + 10 * at[:, None] + torch.arange(3)).float().reshape(1, 16, 3)
    shuffled = pixel_shuffled(features, 2)
    assert shuffled.shape == (1, 4, 12)
    assert shuffled[0, 1].tolist() == [20, 21, 22, 30, 31, 32, 120, 121, 122, 130, 131, 132]
    assert torch.equal(pixel_shuffled(features, 1), features)


def test_late_the_connector_reads_the_features_of_four_patches(make_config: MakeConfig) -> None:
    config = make_config("late", "d48", **SHUFFLED)
    model, batch = build(config), training_batch(config)
    assert (config.tokens_per_image, config.patches_per_image, config.position_size) == (16, 64, 8)
    assert batch.patches.shape[1:] == (16, 3 * 8 * 8)
    given = pixels(batch.patches, config.data)
    image = given.view(-1, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 32, 32)
    assert isinstance(model.vision, VisionEncoder)
    plain = model.vision.vit.forward_features(image)  # type: ignore[operator]
    assert plain.shape[1:] == (64, 32)
    rows = plain.view(-1, 8, 8, 32)
    expected = torch.cat([rows[:, r::2, c::2] for r in (0, 1) for c in (0, 1)], dim=-1).flatten(1, 2)
    assert torch.equal(model.vision(given), expected)
    assert model.connector(expected).shape[1:] == (16, 48)


def test_early_it_is_a_larger_patch(make_config: MakeConfig) -> None:
    """As many positions, parameters and FLOPs, the same rows and first loss as with patches of twice the side."""
    shuffled, larger = make_config("early", "d32", **SHUFFLED), make_config("early", "d32", data={"patch_size": 8})
    assert count_params(shuffled) == count_params(larger)
    assert forward_flops(shuffled, 0.4, 0.5) == forward_flops(larger, 0.4, 0.5)
    one, other = training_batch(shuffled), training_batch(larger)
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.patches, other.patches)
    assert torch.equal(build(shuffled)(one).logits, build(larger)(other).logits)
    assert run_id(shuffled) != run_id(larger)


@pytest.mark.parametrize("arch", ["early", "late"])
def test_positions_are_a_quarter_and_shares_follow(make_config: MakeConfig, arch: str) -> None:
    """Of the same documents: the share of image positions is measured from the manifest once a picture is shuffled."""
    plain = make_config(arch, "d32", data={"patch_size": 4, "context_length": 256})
    shuffled = make_config(arch, "d32", arch={"pixel_shuffle": 2}, data={"patch_size": 4, "context_length": 256})
    assert plain.tokens_per_image == 4 * shuffled.tokens_per_image
    assert plain.data.image_share == 0.40, "as given"
    many = dataclasses.replace(shuffled.trainer, rows_per_step=64)
    batch = training_batch(dataclasses.replace(shuffled, trainer=many))
    filled = float((batch.document >= 0).sum())
    assert shuffled.data.image_share == pytest.approx(batch.patch_at.numel() / filled, abs=0.03)
    assert shuffled.data.target_share == pytest.approx(float(batch.weights.sum()) / filled, abs=0.03)


# ---------------------------------------------------------------------------------------------------------------------
# two encoders


def test_features_are_averaged_with_fixed_weights(make_config: MakeConfig) -> None:
    config = make_config("late", "d48", **DUAL)
    model, batch = build(config), training_batch(config)
    given, vision = pixels(batch.patches, config.data), model.vision
    assert isinstance(vision, MixedEncoder)
    first, second = vision.first(given), vision.second(given)
    assert not torch.allclose(first, second), "the second one begins with other values"
    assert torch.allclose(vision(given), 0.25 * first + 0.75 * second)
    alone = build(make_config("late", "d48", arch={"pairing": "none"}))
    assert count_params(config).connector == sum(p.numel() for p in alone.connector.parameters())


def test_finer_patches_of_the_second_are_brought_to_the_width_of_the_first(make_config: MakeConfig) -> None:
    config = make_config("late", "d48", arch={"vision_model2": "sized", "vision_patch2": 4, "pairing": "none"})
    model, batch = build(config), training_batch(config)
    given, vision = pixels(batch.patches, config.data), model.vision
    assert isinstance(vision, MixedEncoder)
    assert (vision.first.width, vision.second.width, vision.width) == (32, 4 * 32, 32)
    weight = vision.project.weight
    assert weight.shape == (32, 128)
    expected = 0.5 * vision.first(given) + 0.5 * vision.second(given) @ weight.T
    assert torch.allclose(vision(given), expected, atol=1e-5)
    assert 0.9 < float(weight.detach().std()) * 128**0.5 < 1.1


@pytest.mark.parametrize("arch", [{}, {"vision_patch2": 4, "pairing": "none"}, {"pairing": "none"}])
def test_what_is_counted_is_what_is_built(make_config: MakeConfig, arch: dict[str, Any]) -> None:
    config = make_config("late", "d48", arch={"vision_model2": "sized", **arch})
    params, model = count_params(config), build(config)
    assert params.vision == sum(p.numel() for p in model.vision.parameters())
    assert params.total == sum(p.numel() for p in model.parameters())
    encoders = vision_encoders(config)
    for own, encoder in zip(encoder_configs(config), encoders, strict=True):
        facts = encoder_facts(own)
        assert {k: facts[k] for k in ("width", "params", "matrices", "forward", "backward")} == {
            k: getattr(encoder, k) for k in ("width", "params", "matrices", "forward", "backward")
        }
    assert params.vision_matrices == sum(encoder.matrices for encoder in encoders)


def test_pairing_pays_for_the_second_encoder(make_config: MakeConfig) -> None:
    """With pairing by FLOPs the decoder shrinks until the whole costs what early fusion of the size costs."""
    one, two, early = make_config("late", "d64"), make_config("late", "d64", **DUAL), make_config("early", "d64")
    assert ffn_hidden(two) < ffn_hidden(one)
    costs = [forward_flops(config).total for config in (one, two, early)]
    assert costs[0] == pytest.approx(costs[2], rel=0.01) and costs[1] == pytest.approx(costs[2], rel=0.01)
    assert vision_encoder(two).forward == 2 * vision_encoder(one).forward


@pytest.mark.parametrize(("frozen", "trained"), [((True, False), (False, True)), ((False, True), (True, False))])
def test_each_encoder_is_frozen_by_itself(
    make_config: MakeConfig, frozen: tuple[bool, bool], trained: tuple[bool, bool]
) -> None:
    config = with_arch(make_config("late", "d48", **DUAL), vision_frozen=frozen[0], vision_frozen2=frozen[1])
    model, batch = build(config), training_batch(config)
    torch.nn.init.normal_(model.head.weight)
    model(batch).logits.square().mean().backward()
    vision = model.vision
    assert isinstance(vision, MixedEncoder)
    parts = (vision.first, vision.second)
    assert tuple(all(p.grad is not None for p in part.parameters()) for part in parts) == trained
    one = vision_encoders(with_arch(config, vision_frozen=False, vision_frozen2=False))[0]
    assert vision_encoder(config).backward == one.backward, "half of the two"
    free = with_arch(config, vision_frozen=False, vision_frozen2=False)
    kept, less = (training_memory(c, 1, "ddp", False) for c in (free, config))
    assert kept.gradients - less.gradients == 4 * one.params
    assert less.activations < kept.activations


def test_flops_of_two_frozen_encoders_and_a_projection(make_config: MakeConfig) -> None:
    """Counted by torch: the projection learns, so the connector needs the gradient of what it reads."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from nmm.model.loss import target_losses

    config = make_config("late", "d32", arch={"vision_model2": "sized", "vision_patch2": 4, "pairing": "none"})
    for second in (False, True):
        frozen = with_arch(config, vision_frozen=True, vision_frozen2=second)
        batch, model = training_batch(frozen), build(frozen)
        positions = batch.tokens.numel()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            target_losses(model(batch), batch).sum().backward()
        shares = (batch.patch_at.numel() / positions, batch.weights.mean().item())
        assert training_flops(frozen, positions, *shares)["total"] == pytest.approx(counter.get_total_flops(), rel=1e-5)


def test_each_encoder_has_weights_of_its_own(make_config: MakeConfig, tmp_path: Path) -> None:
    arch = {"vision_model": "test_vit", "vision_model2": "test_vit", "pairing": "none"}
    config = make_config("late", "d32", arch=arch, data={"patch_size": 16})
    files = []
    for seed, own in enumerate(encoder_configs(config)):
        weights = build(with_arch(dataclasses.replace(own, seed=seed + 7))).vision.vit.state_dict()
        files.append(tmp_path / f"{seed}.safetensors")
        save_file({name: value.contiguous() for name, value in weights.items()}, files[-1])
    given = {"vision_weights": str(files[0]), "vision_weights2": str(files[1]), "vision_frozen2": True}
    loaded = make_config("late", "d32", arch=arch | given, data={"patch_size": 16})
    assert len({loaded.arch.vision_digest, loaded.arch.vision_digest2, ""}) == 3
    model = build(loaded)
    load_vision(model.vision, loaded)
    assert isinstance(model.vision, MixedEncoder)
    for part, file in zip((model.vision.first, model.vision.second), files, strict=True):
        other = VisionEncoder(encoder_configs(config)[0])
        load_vision(other, with_arch(encoder_configs(config)[0], vision_weights=str(file)))
        assert all(torch.equal(part.state_dict()[name], value) for name, value in other.state_dict().items())
    assert loaded.arch.vision_facts2["backward"] == 0.0 < loaded.arch.vision_facts["backward"]
    swapped = {"vision_weights": str(files[1]), "vision_weights2": str(files[0]), "vision_frozen2": True}
    assert run_id(loaded) != run_id(make_config("late", "d32", arch=arch | swapped, data={"patch_size": 16}))


def test_a_second_net_that_does_not_fit_is_named(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"second encoder \(arch.vision_model2, vision_patch2\): .*gives 4 features"):
        make_config("late", "d32", arch={"vision_model2": "test_vit", "pairing": "none"})


def test_a_run_of_two_encoders_is_exported_and_started_from(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    dual = {**DUAL["arch"], "pairing": "none"}
    config = tiny_config("late", "d16", arch=dual, budget={"steps": 2})
    train(config)
    out = export(run_directory(config), tmp_path / "exported")
    whole, again = run_weights(run_directory(config)), load_run(out).state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    groups = {"arch": {"name": "from_start"}, "block": {"name": "from_start"}, "size": {"name": "from_start"}}
    begun = tiny_config("late", "d16", **groups, start={"kind": "run", "path": str(out)})
    assert (begun.arch.vision_model2, begun.arch.vision_mix) == ("sized", 0.25)
    with pytest.raises(ConfigError, match="is another model than the config asks for: arch.vision_mix=0.5"):
        other = {"vision_model2": "sized", "pairing": "none"}
        tiny_config("late", "d16", arch=other, start={"kind": "run", "path": str(out)})


def test_the_paper_s_sizes_take_the_pieces() -> None:
    values = composed(arch="late", size="289m") | {"budget": {"steps": 1}}
    one = count_params(from_dict(values))
    values["arch"] = values["arch"] | {"vision_model2": "sized", "pixel_shuffle": 2}
    two = from_dict(values)
    assert two.tokens_per_image == 64
    assert count_params(two).vision_matrices == 2 * one.vision_matrices
