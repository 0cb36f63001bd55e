"""Stage bridge: what learns, what it costs, what a start brings, what is refused, and that no other run id moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import training_batch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nmm.bridge import make_test, mark
from nmm.config import ConfigError, RunConfig, identity, run_id, to_dict
from nmm.data.manifest import Shards
from nmm.data.opening import open_data
from nmm.flops import count_params, forward_flops, resolve_budget, training_flops
from nmm.groups import Stage, Start
from nmm.memory import training_memory
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import loss_sums, objective
from nmm.record import write_json
from nmm.start import load_start
from nmm.training.optim import build_optimizer
from nmm.validation.bridge import trained_blocks

MakeConfig = Callable[..., RunConfig]
PICTURES = {"mixture": {"caption": 1.0, "interleaved": 0.0, "text": 0.0}}
CAUSAL = {"image_attention": "causal"}


def bridge(make_config: MakeConfig, arch: str = "early", size: Any = "d16", /, **groups: Any) -> RunConfig:
    """A config of stage bridge; ``stage`` and ``arch`` hold what differs."""
    stage = {"name": "bridge", "eval_images": 20, **groups.pop("stage", {})}
    data = {**PICTURES, **groups.pop("data", {})}
    depth = {"depth": 3} if arch == "early" else {}
    return make_config(arch, size, stage=stage, data=data, size={**depth, **groups.pop("size", {})}, **groups)


def loss_of(model: NativeMultimodalModel, config: RunConfig) -> Tensor:
    batch = training_batch(config)
    sums = loss_sums(model(batch, bridge=True), batch, config)
    return objective(sums, batch.weights.sum(), config)


# ---------------------------------------------------------------------------------------------------------------------
# what learns


@pytest.mark.parametrize(
    ("train", "expected"),
    [("all", (0, 1, 2, 3)), ("none", ()), ("first:1", (0,)), ("last:3", (1, 2, 3)), ("2+0", (0, 2)), ("3", (3,))],
)
def test_which_blocks_learn(train: str, expected: tuple[int, ...]) -> None:
    assert trained_blocks(train, 4) == expected


@pytest.mark.parametrize("train", ["first:0", "last:5", "first:", "middle:1", "4", "1+9", "", "-1"])
def test_blocks_that_are_not_there_are_refused(train: str) -> None:
    with pytest.raises(ConfigError, match=r"stage\.train="):
        trained_blocks(train, 4)


LEARNING = {
    "all": ("trunk.",),
    "first:1": ("trunk.blocks.0.", "trunk.norm."),
    "1+2": ("trunk.blocks.1.", "trunk.blocks.2.", "trunk.norm."),
    "none": (),
}


@pytest.mark.parametrize("train", LEARNING)
@pytest.mark.parametrize("train_patch", [True, False])
def test_what_learns_has_gradients_and_moments_and_nothing_else(
    make_config: MakeConfig, train: str, train_patch: bool
) -> None:
    config = bridge(make_config, stage={"train": train, "train_patch": train_patch})
    model = build(config)
    with torch.no_grad():  # a head of zeros passes no gradient on
        model.bridge_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    expected = (*LEARNING[train], "bridge_head.", *(("connector.", "patch_position") if train_patch else ()))
    optimizer = build_optimizer(model, config)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    loss_of(model, config).backward()
    for name, parameter in model.named_parameters():
        learns = name.startswith(expected)
        assert parameter.requires_grad == learns == (id(parameter) in held), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_an_untrained_head_knows_nothing(make_config: MakeConfig) -> None:
    config = bridge(make_config)
    assert config.stage.num_classes == 8
    assert loss_of(build(config), config).item() == pytest.approx(math.log(8), rel=1e-6)


def test_the_next_patch_is_predicted_from_those_before_it(make_config: MakeConfig) -> None:
    config = bridge(make_config, arch=CAUSAL, stage={"objective": "next_patch"})
    model, batch = build(config), training_batch(config)
    with torch.no_grad():
        model.bridge_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    images, patches, _ = batch.patches.shape
    output = model(batch, bridge=True)
    assert output.logits.shape == (images * (patches - 1), 3 * 8 * 8)
    changed = batch.patches.clone()
    changed[:, 5:] = 255 - changed[:, 5:]
    before = output.logits.view(images, patches - 1, -1)
    after = model(dataclasses.replace(batch, patches=changed), bridge=True).logits.view(before.shape)
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.equal(before[:, 5], after[:, 5])
    zero = build(config)  # predicts 0: the loss is the mean square of the pixels to come
    pixels = (batch.patches[:, 1:].float() / 255 - 0.2) * 3
    assert loss_of(zero, config).item() == pytest.approx(pixels.square().mean().item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# what it costs

COSTS: list[tuple[str, dict[str, Any]]] = [
    ("early", {}),
    ("early", {"stage": {"train": "first:1"}}),
    ("early", {"stage": {"train": "last:1"}}),
    ("early", {"stage": {"train": "1"}}),
    ("early", {"stage": {"train": "none"}}),
    ("early", {"stage": {"train": "all", "train_patch": False}}),
    ("early", {"stage": {"train": "1", "train_patch": False}}),
    ("early", {"stage": {"train": "none", "train_patch": False}}),
    ("early", {"stage": {"objective": "next_patch", "train": "first:2"}, "arch": CAUSAL}),
    ("late", {"stage": {"train": "last:1"}, "arch": {"connector": "mlp"}}),
    ("late", {"stage": {"train": "none", "train_patch": False}}),
    ("late", {"stage": {"train": "1", "train_patch": False}, "arch": {"connector": "mlp"}}),
]


@pytest.mark.parametrize(("arch", "groups"), COSTS, ids=lambda value: str(value).replace("'", ""))
def test_flops_are_what_the_counter_counts(make_config: MakeConfig, arch: str, groups: dict[str, Any]) -> None:
    config = bridge(make_config, arch, "d32", trainer={"rows_per_step": 8}, **groups)
    model, batch = build(config), training_batch(config)
    positions, images = batch.tokens.numel(), len(batch.patches)
    shares = (images * config.tokens_per_image / positions, batch.weights.sum().item() / positions)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = loss_of(model, config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward_flops(config, *shares).total * positions == pytest.approx(forward.get_total_flops(), rel=1e-5)
    total = forward.get_total_flops() + backward.get_total_flops()
    assert training_flops(config, positions, *shares)["total"] == pytest.approx(total, rel=1e-5)


def test_frozen_blocks_are_cheaper_and_the_order_is_that_of_reach(make_config: MakeConfig) -> None:
    def cost(train: str, train_patch: bool = True) -> float:
        return training_flops(bridge(make_config, stage={"train": train, "train_patch": train_patch}), 1.0)["total"]

    assert cost("none", False) < cost("last:1", False) < cost("first:1", False)
    assert cost("none") < cost("first:1") == cost("last:1") < cost("all"), "patches learn: gradients go all the way"


def test_expected_shares_are_those_of_whole_pictures(make_config: MakeConfig) -> None:
    config = bridge(make_config, data={"context_length": 100}, budget={"flops": 1e9})
    steps = resolve_budget(
        dataclasses.replace(config, budget=dataclasses.replace(config.budget, flops=1e9, steps=None))
    )
    spent = training_flops(config, steps.total_steps * config.tokens_per_step)["total"]
    assert spent == pytest.approx(1e9, rel=0.02)
    assert training_flops(config, 1.0) == training_flops(config, 1.0, 96 / 100, 6 / 100)


def test_parameters_and_moments_are_counted(make_config: MakeConfig) -> None:
    for stage in ({}, {"train": "first:1"}, {"train": "none", "train_patch": False}):
        config = bridge(make_config, stage=stage)
        model = build(config)
        assert count_params(config).total == sum(p.numel() for p in model.parameters())
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        counted = training_memory(config, 1, "ddp", False).optimizer / 8
        assert counted == pytest.approx(learning, abs=2 * config.size.width), "but for the gain of the last norm"


# ---------------------------------------------------------------------------------------------------------------------
# starts


def exported(config: RunConfig, folder: Path, seed: int = 7) -> Path:
    """An export with weights of another seed."""
    model = build(dataclasses.replace(config, seed=seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, str(folder / "model.safetensors")
    )
    write_json(folder / "config.json", {"settings": to_dict(config)})
    return folder


ADOPT = {name: {"name": "from_start"} for name in ("arch", "block", "size")}


def started(make_config: MakeConfig, folder: Path, stage: dict[str, Any], **start: Any) -> NativeMultimodalModel:
    groups: dict[str, Any] = {**ADOPT, "start": {"kind": "run", "path": str(folder), **start}}
    data = PICTURES if stage.get("name") == "bridge" else {}
    config = make_config(**groups, stage={"eval_images": 20, **stage}, data=data)
    model = build(config)
    load_start(model, config)
    return model


def differing(model: NativeMultimodalModel, other: NativeMultimodalModel) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, theirs[name])}


BRIDGE = {"name": "bridge"}


def test_a_probe_draws_anew_what_it_says_and_nothing_else(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = exported(bridge(make_config), tmp_path / "bridged")
    whole = started(make_config, folder, BRIDGE)
    probe = started(make_config, folder, {**BRIDGE, "train": "none", "labels": "truth"}, fresh=["patch", "labels"])
    assert differing(probe, whole) == {"connector.weight", "patch_position", "bridge_head.weight"}
    scratch = build(bridge(make_config))
    assert not probe.bridge_head.weight.any()
    assert torch.equal(probe.connector.weight, scratch.connector.weight), "as from scratch, by the run's own seed"
    linear = started(make_config, folder, {**BRIDGE, "train": "none", "train_patch": False}, fresh=["labels"])
    assert differing(linear, whole) == {"bridge_head.weight"}
    assert [name for name, p in linear.named_parameters() if p.requires_grad] == ["bridge_head.weight"]


def test_the_head_of_labels_stays_behind_when_words_go_on(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = exported(bridge(make_config), tmp_path / "bridged")
    words = started(make_config, folder, {"name": "pretrain"})
    assert not hasattr(words, "bridge_head")
    assert differing(words, started(make_config, folder, BRIDGE)) == set()
    with pytest.raises(ConfigError, match=r"bridge_head.weight has shape .*start.fresh=\[labels\] draws it anew"):
        started(make_config, folder, {**BRIDGE, "classes": "colour"})


def test_a_transform_reaches_the_model(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = exported(bridge(make_config), tmp_path / "bridged")
    whole, scratch = started(make_config, folder, BRIDGE), build(bridge(make_config))
    shuffled = started(make_config, folder, BRIDGE, transform="shuffle")
    matrices = {name for name, p in whole.named_parameters() if p.ndim >= 2}
    assert differing(shuffled, whole) == matrices, "gains are all 1"
    matched = started(make_config, folder, BRIDGE, transform="covariance", fresh=["labels"])
    assert differing(matched, scratch) == {"connector.weight"}
    assert "connector.weight" in differing(matched, whole)


# ---------------------------------------------------------------------------------------------------------------------
# marks, refusals, run ids


def test_marks_of_a_model_that_always_says_one_class(make_config: MakeConfig) -> None:
    config = bridge(make_config, stage={"eval_images": 30})
    shards = open_data(config.data)
    assert isinstance(shards, Shards)
    test, model = make_test(shards, config), build(config)
    marks = mark(model, test.held_out, test.train)
    truth = torch.cat([batch.targets[batch.weights > 0] for batch in test.held_out])
    assert len(truth) == marks["images"] >= 30
    assert marks["accuracy"] == (truth == 0).double().mean().item(), "zeros: the first class wins every tie"
    assert marks["chance"] == torch.bincount(truth).max().item() / len(truth)
    assert marks["loss"] == pytest.approx(math.log(8)) == marks["train_loss"]
    assert marks["stderr"] == pytest.approx(math.sqrt(marks["accuracy"] * (1 - marks["accuracy"]) / len(truth)))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("pictures of captions", {"data": {"mixture": {"caption": 0.5, "text": 0.5}}}),
    ("set arch.image_attention=causal", {"stage": {"objective": "next_patch"}}),
    ("pixels have no logits", {"stage": {"objective": "next_patch"}, "arch": CAUSAL, "optim": {"z_loss_coef": 0.1}}),
    ("below half of data.image_size", {"stage": {"shift": 16}}),
    ("from scratch all weights are fresh", {"start": {"transform": "shuffle"}}),
    ("has 3 blocks", {"stage": {"train": "first:4"}}),
]


@pytest.mark.parametrize(("message", "groups"), REFUSED)
def test_what_cannot_be_is_refused(make_config: MakeConfig, message: str, groups: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        bridge(make_config, **groups)


def test_too_few_held_out_pictures_are_refused(make_config: MakeConfig) -> None:
    config = bridge(make_config, stage={"eval_images": 5000})
    shards = open_data(config.data)
    assert isinstance(shards, Shards)
    with pytest.raises(ConfigError, match=r"stage.eval_images=5000, but caption val in .* has \d+ pictures"):
        make_test(shards, config)


def test_no_other_run_hears_of_a_bridge(make_config: MakeConfig) -> None:
    """New fields at their defaults are left out of the identity, so run ids of other stages stay what they were."""
    values = identity(make_config("early"))
    assert set(values["stage"]) == {"name", "eval_questions", "eval_captions"}
    assert set(values["start"]) == {"kind", "digest", "embeddings"}
    config = bridge(make_config)
    for name in ("objective", "labels", "train", "train_patch", "labelled", "shift"):
        other = {"objective": "next_patch", "labels": "truth", "train": "none", "train_patch": False}.get(name, 3)
        changed = dataclasses.replace(config, stage=dataclasses.replace(config.stage, **{name: other}))
        assert run_id(changed) != run_id(config), name
    fields = {field.name for field in dataclasses.fields(Stage)} | {field.name for field in dataclasses.fields(Start)}
    assert {"objective", "transform", "fresh"} <= fields
