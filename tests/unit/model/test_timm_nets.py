"""Encoders by their timm name, and pretrained weights from a file: what is taken, what is refused, what is frozen."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lab import run_directory, train, training_batch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from nmm.config import ConfigError, RunConfig, run_id
from nmm.model.build import build
from nmm.model.timm_nets import load_pretrained, make_net, patch_features
from nmm.model.vision import VisionEncoder, load_vision
from nmm.record import newest_checkpoint
from nmm.resolve import finalize

MakeConfig = Callable[..., RunConfig]
NETS = ("test_vit", "test_vit2", "test_vit3", "test_vit4")  # class token; registers; map pooling; RMSNorm


def named(make_config: MakeConfig, net: str, **arch: Any) -> RunConfig:
    """A late config on real shards (32 x 32 pixels) with a timm net that cuts patches of 16."""
    return make_config(
        "late",
        "d32",
        arch={"vision_model": net, "pairing": "none", **arch},
        data={"patch_size": 16},
        budget={"steps": 4},
    )


def swapped(make_config: MakeConfig, net: str, image_size: int, patch_size: int, **arch: Any) -> RunConfig:
    """The same with another net and other images; no shards hold such images."""
    config = named(make_config, "test_vit")
    return dataclasses.replace(
        config,
        arch=dataclasses.replace(config.arch, vision_model=net, **arch),
        data=dataclasses.replace(config.data, image_size=image_size, patch_size=patch_size),
    )


def encoder_of(config: RunConfig) -> VisionEncoder:
    encoder = build(config).vision
    assert isinstance(encoder, VisionEncoder)
    return encoder


# ------------------------------------------------------------------------------------------------------ by name


@pytest.mark.parametrize(("net", "width"), [("test_vit", 64), ("test_vit2", 64), ("test_vit3", 96), ("test_vit4", 96)])
def test_features_are_those_of_the_patches_alone(make_config: MakeConfig, net: str, width: int) -> None:
    config = named(make_config, net)
    model, batch = build(config), training_batch(config)
    encoder = model.vision
    assert isinstance(encoder, VisionEncoder)
    assert encoder.width == width
    pixels = torch.randn(3, 4, 768, generator=torch.Generator().manual_seed(0))
    image = pixels.view(3, 2, 2, 3, 16, 16).permute(0, 3, 1, 4, 2, 5).reshape(3, 3, 32, 32)
    whole = encoder.vit.forward_features(image)  # type: ignore[operator]
    assert whole.shape == (3, 5, width), "one class or register token before the patches"
    assert torch.equal(encoder(pixels), whole[:, 1:])
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    model(batch).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_grid_of_features_is_read_row_by_row(make_config: MakeConfig) -> None:
    encoder = encoder_of(swapped(make_config, "test_convnext", 64, 32))
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    grid = encoder.vit.forward_features(image)  # type: ignore[operator]
    assert grid.shape == (2, 64, 2, 2)
    found = patch_features(encoder.vit, image)
    assert torch.equal(found[:, 1], grid[:, :, 0, 1])
    assert torch.equal(found[:, 2], grid[:, :, 1, 0])


def test_a_grid_with_channels_last_is_read_row_by_row() -> None:
    net = SwinTransformer(img_size=32, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 1), num_classes=0)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grid = net.eval().forward_features(image)
    assert grid.shape == (2, 4, 4, 16)
    assert torch.equal(patch_features(net, image)[:, 6], grid[:, 1, 2])


def test_values_come_from_the_seed_alone(make_config: MakeConfig) -> None:
    config = named(make_config, "test_vit")
    torch.manual_seed(1)
    first = make_net(config).state_dict()
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(1))), "no draw was taken"
    torch.manual_seed(2)
    again = encoder_of(config).vit.state_dict()
    other = encoder_of(dataclasses.replace(config, seed=config.seed + 1)).vit.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_nothing_is_dropped_at_random(make_config: MakeConfig) -> None:
    """timm's Swin drops a tenth of its branches by default."""
    config = swapped(make_config, "swin_tiny_patch4_window7_224", 224, 32)
    with torch.device("meta"):
        net = make_net(config)
    rates = [getattr(m, "drop_prob", getattr(m, "p", None)) for m in net.modules() if "Drop" in type(m).__name__]
    assert len(rates) > 20
    assert set(rates) == {0.0}


@pytest.mark.parametrize(
    ("net", "image_size", "patch_size", "message"),
    [
        ("vit_of_nobody", 32, 16, "arch.vision_model='vit_of_nobody' is not in timm; timm.list_models"),
        ("hf-hub:timm/vit", 32, 16, "is not in timm"),
        ("test_vit.nonsense", 32, 16, r"timm cannot build arch.vision_model='test_vit.nonsense'.*nonsense"),
        ("crossvit_9_240", 240, 16, "timm cannot build arch.vision_model='crossvit_9_240'"),
        ("test_vit", 32, 8, r"gives 4 features an image, but .* has 16 positions for them; set data.patch_size=16"),
        ("test_vit", 48, 12, r"gives 9 features .* has 16 positions for them; set data.patch_size=16"),
        ("test_resnet", 64, 32, "has batch norm, through which images of one batch change each other; freeze it"),
        ("hiera_tiny_224", 40, 8, "arch.vision_model='hiera_tiny_224'"),
    ],
)
def test_what_does_not_fit_is_refused(
    make_config: MakeConfig, net: str, image_size: int, patch_size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_net(swapped(make_config, net, image_size, patch_size))


def test_a_frozen_net_may_have_batch_norm(make_config: MakeConfig) -> None:
    encoder = VisionEncoder(swapped(make_config, "test_resnet", 64, 32, vision_frozen=True)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert any("running_mean" in name for name in before)
    encoder(torch.randn(2, 4, 3072, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


# ------------------------------------------------------------------------------------------- weights from a file


def pretrained(net: str, image_size: int = 64) -> dict[str, Tensor]:
    """A classifier's weights, none of them at the value it is made with."""
    generator = torch.Generator().manual_seed(7)
    state = timm.create_model(net, num_classes=10, img_size=image_size).state_dict()
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def written(path: Path, state: dict[str, Any]) -> str:
    if path.suffix == ".safetensors":
        save_file(state, str(path))
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(("net", "name"), [*((net, "net.safetensors") for net in NETS), ("test_vit2", "net.pth")])
def test_weights_are_those_that_timm_would_load(make_config: MakeConfig, tmp_path: Path, net: str, name: str) -> None:
    """Of images of another size, so that positions are resized."""
    path = written(tmp_path / name, pretrained(net))
    config = named(make_config, net, vision_weights=path)
    encoder = encoder_of(config)
    load_vision(encoder, config)
    overlay = {"file": path}
    theirs = timm.create_model(net, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=32)
    expected = theirs.state_dict()
    for end in ("weight", "bias"):
        if f"fc_norm.{end}" in expected:
            expected[f"norm.{end}"] = expected.pop(f"fc_norm.{end}")
    found = encoder.vit.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert {name.split(".")[0] for name in expected.keys() - found.keys()} <= {"attn_pool"}
    assert "norm.weight" in found


def test_a_training_checkpoint_of_timm_is_unwrapped(make_config: MakeConfig, tmp_path: Path) -> None:
    state = pretrained("test_vit", 32)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    config = named(make_config, "test_vit", vision_weights=written(tmp_path / "last.pth", wrapped))
    encoder = encoder_of(config)
    load_vision(encoder, config)
    assert all(torch.equal(value, state[name]) for name, value in encoder.vit.state_dict().items())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_never_run(make_config: MakeConfig, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    path = written(tmp_path / "net.pth", {**pretrained("test_vit"), "surprise": Bomb(crater)})
    with pytest.raises(ConfigError, match=f"arch.vision_weights={re.escape(path)} holds no plain tensors"):
        load_pretrained(make_net(named(make_config, "test_vit")), named(make_config, "test_vit", vision_weights=path))
    assert not crater.exists()


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: without(s, "blocks.3.attn.qkv.weight"),
            r"does not fit arch.vision_model='test_vit'.*blocks.3.attn.qkv",
        ),
        (lambda s: without(s, "norm.weight"), "does not fit .*norm.weight"),
        (lambda s: s | {"blocks.9.norm1.weight": torch.zeros(64)}, "does not fit .*Unexpected.*blocks.9.norm1.weight"),
        (lambda s: s | {"norm.weight": torch.zeros(65)}, "does not fit .*size mismatch for norm.weight"),
        (lambda s: pretrained("test_vit3"), "does not fit arch.vision_model='test_vit'"),
        (lambda s: {"head.weight": s["head.weight"]}, "does not fit .*No pretrained weights exist"),
        (lambda s: {}, "is no state_dict: a mapping of names to tensors is wanted"),
        (lambda s: {"norm.weight": 3.0}, "is no state_dict"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    make_config: MakeConfig, tmp_path: Path, change: Callable[..., dict[str, Any]], message: str
) -> None:
    path = written(tmp_path / "net.pth", change(pretrained("test_vit")))
    config = named(make_config, "test_vit", vision_weights=path)
    with pytest.raises(ConfigError, match=f"arch.vision_weights={re.escape(path)} {message}"):
        load_pretrained(make_net(config), config)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_a_damaged_file_is_named(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"no weights at all, but long enough to look like a header of something")
    config = named(make_config, "test_vit", vision_weights=str(path))
    with pytest.raises(ConfigError, match=f"arch.vision_weights={re.escape(str(path))} holds no plain tensors"):
        load_pretrained(make_net(config), config)


# ---------------------------------------------------------------------------------------------- digest and training


def test_the_run_id_knows_what_the_file_holds_and_not_where_it_is(make_config: MakeConfig, tmp_path: Path) -> None:
    state = pretrained("test_vit")
    first = named(make_config, "test_vit", vision_weights=written(tmp_path / "a.pth", state))
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    moved = named(make_config, "test_vit", vision_weights=str(tmp_path / "b.pth"))
    state["norm.weight"] += 1
    other = named(make_config, "test_vit", vision_weights=written(tmp_path / "c.pth", state))
    assert len(first.arch.vision_digest) == 64
    assert run_id(first) == run_id(moved) != run_id(other)
    assert run_id(first) != run_id(named(make_config, "test_vit"))
    assert finalize(first) == first


def test_another_file_than_planned_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = named(make_config, "test_vit", vision_weights=written(tmp_path / "a.pth", pretrained("test_vit")))
    written(tmp_path / "a.pth", pretrained("test_vit", 32))
    with pytest.raises(ConfigError, match=f"a.pth now holds .*made for {config.arch.vision_digest[:12]}"):
        finalize(config)
    (tmp_path / "a.pth").unlink()
    with pytest.raises(ConfigError, match="a.pth is not a file on this machine"):
        finalize(config)
    without_file = dataclasses.replace(config.arch, vision_weights="")
    with pytest.raises(ConfigError, match="is read from arch.vision_weights; leave it out"):
        finalize(dataclasses.replace(config, arch=without_file))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_training_begins_with_the_file_and_leaves_a_frozen_encoder_as_it_is(
    tiny_config: MakeConfig, tmp_path: Path, is_frozen: bool
) -> None:
    state = pretrained("test_vit", 32)
    path = written(tmp_path / "net.safetensors", state)
    config = named(tiny_config, "test_vit", vision_weights=path, vision_frozen=is_frozen)
    assert train(config)["status"] == "done"
    found = newest_checkpoint(run_directory(config))
    assert found is not None
    weights = torch.load(found[1], weights_only=True)["model"]
    encoder = {name.removeprefix("vision.vit."): v for name, v in weights.items() if name.startswith("vision.vit.")}
    assert encoder.keys() == state.keys() - {"head.weight", "head.bias"}
    same = [torch.equal(value, state[name]) for name, value in encoder.items()]
    assert all(same) if is_frozen else not any(same)
    near = max((value - state[name]).abs().max().item() for name, value in encoder.items())
    assert near < 0.1, "a few small steps away from the file, not from other initial values"
    assert not torch.equal(weights["connector.net.weight"], build(config).state_dict()["connector.net.weight"])
