"""muP: which parameter has which scale, that the base width is left alone, and a coordinate check over four widths."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from lab import ARCHS, ROOT, train, training_batch
from torch import Tensor, nn

from nmm.config import ConfigError, RunConfig
from nmm.model import mup
from nmm.model.build import build
from nmm.model.loss import loss_sums, objective
from nmm.training.optim import build_optimizer, set_lr

MakeConfig = Callable[..., RunConfig]
MUP = {"mup": True, "mup_width": 16}


# --------------------------------------------------------------------------------------------------------------- roles


def expected_role(name: str, connector_reads_features: bool) -> str:
    """The table of nmm/model/mup.py, by hand."""
    if "norm" in name or name.endswith("bias"):
        return "vector"
    if name.startswith("connector."):
        return "hidden" if connector_reads_features else "input"
    inputs = ("embedding.weight", "patch_position", "vision.vit.pos_embed", "vision.vit.patch_embed.proj.weight")
    if name in inputs:
        return "input"
    return "output" if name == "head.weight" or name.endswith("router.weight") else "hidden"


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_the_rate_of_its_role(make_config: MakeConfig, arch: str) -> None:
    """At four times the base width: hidden and output at a quarter, everything else as it was, vision scale on top."""
    config = make_config(arch, "d64", optim={**MUP, "lr": 0.02, "vision_lr_scale": 0.5, "patch_lr_scale": 0.1})
    model = build(config)
    rates = {id(p): group["peak_lr"] for group in build_optimizer(model, config).param_groups for p in group["params"]}
    roles = set()
    for name, parameter in model.named_parameters():
        role = expected_role(name, connector_reads_features=arch == "late")
        assert mup.role(name, config) == role, name
        part = 0.5 if name.startswith("vision.") else 0.1 if name.startswith(("connector.", "patch_pos")) else 1.0
        assert rates[id(parameter)] == pytest.approx(0.02 * part * (0.25 if role in ("hidden", "output") else 1.0)), (
            name
        )
        roles.add(role)
    assert roles == {"vector", "input", "hidden", "output"}


def test_an_mlp_connector_begins_as_an_input_only_behind_a_net_of_its_own_width(make_config: MakeConfig) -> None:
    config = make_config("late", "d64", arch={"connector": "mlp"}, optim=MUP)
    assert [mup.role(f"connector.net.{i}.weight", config) for i in (0, 2)] == ["hidden", "hidden"]
    foreign = make_config("late", "d64", arch={"connector": "mlp", "pairing": "none"}, optim=MUP)
    object.__setattr__(foreign.arch, "vision_model", "vit_tiny_patch16_224")
    assert [mup.role(f"connector.net.{i}.weight", foreign) for i in (0, 2)] == ["input", "hidden"]
    assert mup.role("vision.vit.blocks.0.attn.qkv.weight", foreign) == "input"


def test_only_a_router_starts_smaller(make_config: MakeConfig) -> None:
    """A quarter of the deviation squared at four times the width; every other value is bit-equal."""
    plain, scaled = make_config("moe", "d64"), make_config("moe", "d64", optim=MUP)
    with_mup = dict(build(scaled).named_parameters())
    for name, parameter in build(plain).named_parameters():
        share = 0.5 if "router" in name else 1.0
        assert torch.equal(with_mup[name], parameter * share), name


def test_impossible_combinations_are_refused(make_config: MakeConfig) -> None:
    for size, optim, block, message in (
        ({}, MUP, {"tied_head": True}, "optim.mup with block.tied_head"),
        (
            {"lr": 0.001},
            MUP,
            {},
            "optim.mup with size.lr=0.001, which was tuned for width 32 without muP; give optim.lr",
        ),
        ({}, {"mup": True, "mup_head_dim": 8}, {}, "optim.mup_head_dim=8, but at size.width=32=optim.mup_width heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config("early", "d32", size=size, optim=optim, block=block)


# -------------------------------------------------------------------------------------------------- the base width


@pytest.mark.parametrize("arch", ARCHS)
def test_at_the_base_width_it_is_the_run_without(tiny_config: MakeConfig, arch: str) -> None:
    plain = train(tiny_config(arch))
    with_mup = train(tiny_config(arch, optim={**MUP, "mup_head_dim": 16}))
    assert with_mup["run_id"] != plain["run_id"]
    assert with_mup["result"] == plain["result"]


def test_the_rate_is_that_of_the_base_width(make_config: MakeConfig) -> None:
    assert make_config("early", "d64", optim=MUP).learning_rate == make_config("early", "d16").learning_rate


# ------------------------------------------------------------------------------------------- the same in other words


class DividedHead(nn.Linear):
    """Table 8 of the paper: the output divided by width / base width."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) * 0.25


def test_a_slower_head_is_a_divided_output(make_config: MakeConfig) -> None:
    """Tables 3 and 8 are one parametrisation for Adam: the same logits after every update."""
    config = make_config("early", "d64", optim={**MUP, "eps": 1e-20})
    slow, divided = build(config), build(config)
    head = DividedHead(64, config.data.vocab_size, bias=False)
    nn.init.zeros_(head.weight)
    divided.head = head
    optimizers = [build_optimizer(model, config) for model in (slow, divided)]
    for group in optimizers[1].param_groups:
        group["params"] = [p for p in group["params"] if p is not head.weight]
    optimizers[1].add_param_group({"params": [head.weight], "peak_lr": config.learning_rate, "weight_decay": 0.0})
    batch = training_batch(config)
    for _ in range(3):
        outputs = [model(batch) for model in (slow, divided)]
        for output, optimizer in zip(outputs, optimizers, strict=True):
            objective(loss_sums(output, batch, config), batch.weights.sum(), config).backward()
            set_lr(optimizer, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert torch.allclose(outputs[0].logits, outputs[1].logits, atol=2e-4)
    assert outputs[0].logits.abs().mean() > 0.1


def test_attention_is_scaled_by_the_inverse_of_growing_heads(make_config: MakeConfig) -> None:
    """One head at any width: 1 / 16^.5 at the base, 16^.5 / 64 at four times of it; else torch's own."""
    wide = {"num_heads": 1}
    grown = make_config("early", "d64", size=wide, optim={**MUP, "mup_head_dim": 16})
    assert mup.attention_scale(grown) == math.sqrt(16) / 64
    assert mup.attention_scale(make_config("early", "d64", optim={**MUP, "mup_head_dim": 16})) is None
    assert mup.attention_scale(make_config("early", "d64", size=wide, optim={"mup_head_dim": 16})) is None
    usual = make_config("early", "d64", size=wide, optim=MUP)
    batch = training_batch(grown)
    attention, smaller = build(usual).trunk.blocks[0].attention, build(grown).trunk.blocks[0].attention
    model = build(usual)
    x, context = model.embed(batch), model.context(batch)
    assert not torch.allclose(attention(x, context), smaller(x, context), atol=1e-3)
    with torch.no_grad():  # a factor of q . k is a factor of the gain of q
        attention.query_norm.weight.mul_(math.sqrt(16) / 64 * math.sqrt(64))
    assert torch.allclose(attention(x, context), smaller(x, context), atol=1e-5)


# ---------------------------------------------------------------------------------------------------- coordinate check


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/mup_check.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mup_check")


@pytest.mark.parametrize("arch", ["early", "moe"])
def test_activations_keep_their_scale_over_four_widths(tiny_shards: Path, check: ModuleType, arch: str) -> None:
    """After three updates at one rate: with muP flat, in the standard parametrisation growing."""
    widths = [32, 64, 128, 256]
    overrides = [f"arch={arch}", "trainer.rows_per_step=2"]
    found = check.check(tiny_shards, widths, 3, 1, 0.01, "same", overrides)
    assert set(found[True]) == {"attention 1", "block 1", "attention 2", "block 2", "logits"}
    slopes = {is_mup: {n: check.slope(widths, v) for n, v in found[is_mup].items()} for is_mup in (True, False)}
    assert max(abs(value) for value in slopes[True].values()) < 0.2, slopes
    for name in ("block 1", "block 2", "logits"):
        assert slopes[False][name] > 0.5, slopes
