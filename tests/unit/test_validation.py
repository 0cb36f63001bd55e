"""What is refused: every message names the field, its value and what is allowed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from nmm.config import (
    Budget,
    ConfigError,
    Data,
    Parent,
    RunConfig,
    Schedule,
    Size,
    Trainer,
    from_dict,
    validate,
)
from nmm.validation.tables import CHOICES, NOT_NEGATIVE, POSITIVE

CONFIG = RunConfig(data=Data(vocab_size=100), budget=Budget(steps=100))
BRANCH = dataclasses.replace(CONFIG, role="branch", parent=Parent("trunk", 75))
TRUNK = dataclasses.replace(CONFIG, role="trunk", keep_steps=(50, 100), schedule=Schedule(cooldown_fraction=0.0))


def changed(config: Any, dotted: str, value: Any) -> Any:
    head, _, rest = dotted.partition(".")
    return dataclasses.replace(config, **{head: changed(getattr(config, head), rest, value) if rest else value})


@pytest.mark.parametrize("config", [CONFIG, BRANCH, TRUNK, changed(BRANCH, "parent.step", 1)])
def test_possible_configs_pass_unchanged(config: RunConfig) -> None:
    assert validate(config) is config


CHOSEN = [
    ("role", "run, trunk, branch"),
    ("arch.fusion", "early, late"),
    ("arch.pairing", "flops, params, none"),
    ("arch.connector", "linear, mlp"),
    ("arch.image_attention", "bidirectional, causal"),
    ("arch.routing", "agnostic, aware"),
    ("arch.balancing", "loss, bias, none"),
    ("block.norm", "rms, layer"),
    ("block.qk_norm", "head, width, none"),
    ("block.ffn", "relu2, swiglu"),
    ("block.rope", "1d, 2d"),
    ("block.vision", "vit, swiglu"),
    ("block.init", "plain, depth"),
    ("start.kind", "scratch, hf, run"),
    ("start.embeddings", "load, fresh"),
    ("start.transform", "none, shuffle, rescaled_random, covariance"),
    ("stage.name", "pretrain, sft, bridge, rft"),
    ("stage.objective", "labels, next_patch"),
    ("stage.labels", "random, not_true, truth"),
    ("stage.classes", "shape, colour, both"),
    ("data.weights", "tokens, samples"),
    ("optim.on_nonfinite", "stop, skip"),
    ("optim.on_spike", "skip, stop"),
    ("schedule.warmup_rule", "fixed, paper"),
    ("schedule.cooldown_shape", "linear, one_minus_sqrt, inverse_sqrt"),
    ("trainer.strategy", "ddp, fsdp2"),
    ("trainer.precision", "auto, fp32, bf16"),
    ("trainer.compile", "auto, on, off"),
    ("trainer.accelerator", "cpu, gpu"),
    ("trainer.changed_code", "refuse, accept"),
    ("logger.name", "none, wandb_offline"),
]


@pytest.mark.parametrize(("name", "allowed"), CHOSEN)
def test_a_choice_names_what_is_allowed(name: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}='mid' is not one of {allowed}$"):
        validate(changed(CONFIG, name, "mid"))


def test_every_choice_is_tested() -> None:
    assert dict(CHOSEN) == {name: ", ".join(allowed) for name, allowed in CHOICES.items()}


@pytest.mark.parametrize("name", [f"{group}.{field}" for group, fields in POSITIVE.items() for field in fields])
def test_what_must_be_positive(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ConfigError, match=f"^{name}={value} must be greater than 0$"):
            validate(changed(CONFIG, name, value))


@pytest.mark.parametrize("name", [f"{group}.{field}" for group, fields in NOT_NEGATIVE.items() for field in fields])
def test_what_must_not_be_negative(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=-1 must be 0 or more$"):
        validate(changed(CONFIG, name, -1))


@pytest.mark.parametrize(
    ("config", "name", "value", "message"),
    [
        (CONFIG, "optim.lr", 0.0, "optim.lr=0.0 must be greater than 0, or null"),
        (CONFIG, "optim.lr", math.nan, "optim.lr=nan"),
        (CONFIG, "size.lr", -1.0, "size.lr=-1.0 must be greater than 0, or null"),
        (CONFIG, "optim.lr_width", math.nan, "optim.lr_width=nan must be greater than 0"),
        (CONFIG, "optim.beta1", -0.1, r"optim.beta1=-0.1 must lie in \[0, 1\)"),
        (CONFIG, "optim.beta2", 1.0, r"optim.beta2=1.0 must lie in \[0, 1\)"),
        (CONFIG, "optim.spike_factor", 0.9, "optim.spike_factor=0.9 must be above 1"),
        (CONFIG, "schedule.cooldown_fraction", 1.0, "cooldown_fraction=1.0 must lie in"),
        (CONFIG, "size.num_heads", 3, "size.width=32 is not a multiple of size.num_heads=3; set size.head_dim"),
        (CONFIG, "size", Size(width=30, num_heads=2), "give heads of 15; block.rope=1d needs a multiple of 2"),
        (CONFIG, "size.head_dim", 7, "size.head_dim=7, .* give heads of 7; block.rope=1d needs a multiple of 2"),
        (CONFIG, "size.num_kv_heads", 3, "size.num_heads=2 is not a multiple of size.num_kv_heads=3"),
        (CONFIG, "data.patch_size", 7, "data.image_size=32 is not a multiple of data.patch_size=7"),
        (CONFIG, "data.context_length", 16, "leaves no room for text"),
        (CONFIG, "data.pixel_mean", (0.5,), "data.pixel_mean=.* needs one number .* for each of 3 channels"),
        (CONFIG, "data.pixel_std", (0.5, 0.5, 0.0), "data.pixel_std=.* needs one number"),
        (CONFIG, "data.image_share", 1.1, r"data.image_share=1.1 must lie in \[0, 1\]"),
        (CONFIG, "data.target_share", math.nan, "data.target_share=nan must lie in"),
        (CONFIG, "arch.num_experts", 1, "use 0 for a dense model or at least 2"),
        (CONFIG, "arch.num_experts", -2, "use 0 for a dense model"),
        (CONFIG, "trainer.micro_batches", 5, "trainer.micro_batches=5 exceeds the 4 rows"),
        (CONFIG, "trainer", Trainer(devices=3), "trainer.rows_per_step=4 is not a multiple of the 3 ranks"),
        (CONFIG, "trainer", Trainer(devices=2, num_nodes=4), r"the 8 ranks \(devices=2 x num_nodes=4\)"),
        (CONFIG, "trainer", Trainer(devices=2, micro_batches=3), "exceeds the 2 rows"),
        (CONFIG, "budget", Budget(), "exactly one of tokens, flops, steps; got none"),
        (CONFIG, "budget", Budget(tokens=5, steps=5), "exactly one of tokens, flops, steps"),
        (CONFIG, "budget", Budget(tokens=0), "budget.tokens=0 must be greater than 0"),
        (CONFIG, "data.mixture", {}, "non-negative weights"),
        (CONFIG, "data.mixture", {"text": -1.0, "caption": 2.0}, "non-negative weights"),
        (CONFIG, "data.mixture", {"text": math.nan}, "non-negative weights"),
        (CONFIG, "parent.run_id", "trunk", "a branch, and only a branch, names its trunk"),
        (CONFIG, "keep_steps", (5,), "a trunk, and only a trunk, keeps"),
        (BRANCH, "parent.run_id", "", "a branch, and only a branch, names its trunk"),
        (BRANCH, "parent.step", 76, r"parent.step=76 must lie in 1..75"),
        (BRANCH, "parent.step", 0, r"parent.step=0 must lie in 1..75"),
        (TRUNK, "keep_steps", (), "a trunk, and only a trunk, keeps"),
        (TRUNK, "keep_steps", (50, 101), r"keep_steps=\(50, 101\) must lie in 1..100"),
        (TRUNK, "schedule.cooldown_fraction", 0.25, "a trunk has no cooldown"),
    ],
)
def test_impossible_configs_name_the_field(config: RunConfig, name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(changed(config, name, value))


AWARE = {"num_experts": 4, "routing": "aware"}
SOURCES = {"sources": {"a": "tars"}, "tokenizer": "bytes", "val_fraction": 0.01, "mixture": {"a": 1.0}}
LATE = {"fusion": "late", "pairing": "none", "vision_model": "vit_tiny_patch16_224"}
TWO = {"fusion": "late", "vision_model2": "sized"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"arch": {"num_experts": 4, "top_k": 5}}, "arch.top_k=5 must lie in 1..4, the experts a position can choose"),
        ({"arch": {"num_experts": 4, "top_k": 0}}, "arch.top_k=0 must lie in 1..4"),
        ({"arch": {**AWARE, "image_experts": 1, "top_k": 2}}, "arch.top_k=2 must lie in 1..1"),
        ({"arch": {**AWARE, "image_experts": 4}}, "arch.image_experts=4 must lie in 1..3: routing=aware"),
        ({"arch": AWARE}, "arch.image_experts=0 must lie in 1..3"),
        ({"arch": {"num_experts": 4, "image_experts": 2}}, "arch.image_experts=2 needs arch.routing=aware"),
        ({"arch": {"routing": "aware"}}, "arch.routing=aware, .* need experts: set arch.num_experts"),
        ({"arch": {"shared_experts": 1}}, "shared_experts=1, image_experts=0 need experts"),
        ({"arch": {"num_experts": 4, "fusion": "late"}}, "arch.num_experts > 0 with arch.fusion=late"),
        ({"arch": {"num_experts": 4, "moe_every": 3}}, "arch.moe_every=3 does not divide size.depth=2"),
        ({"arch": {"num_experts": 4, "granularity": 3}}, "arch.granularity=3 does not divide 128, the hidden width"),
        ({"arch": {"num_experts": 4}, "size": {"width": 36}}, "size.width=36 and experts of .* multiples of 8"),
        ({"arch": {"num_experts": 4, "granularity": 32}}, "experts of hidden width 4: grouped products need"),
        ({"size": {"vision_width": 20, "vision_heads": 3}, "arch": {"fusion": "late"}},
         "size.vision_width=20 is not a multiple of vision_heads=3"),
        ({"arch": {**LATE, "fusion": "early"}}, "arch.vision_model='vit_tiny_patch16_224' needs arch.fusion=late"),
        ({"arch": {**LATE, "pairing": "flops"}}, "pairing knows only the ViT of conf/size; set arch.pairing=none"),
        ({"arch": {"vision_weights": "x.safetensors"}}, "arch.vision_weights='x.safetensors' needs arch.vision_model"),
        ({"arch": {**LATE, "vision_weights": "x"}, "start": {"kind": "run", "path": "runs/x"}},
         "arch.vision_weights='x' with start=run: .* leave one of the two out"),
        ({"arch": {**LATE, "vision_frozen": True}}, "freezes random weights; give arch.vision_weights or start=run"),
        ({"arch": {"pixel_shuffle": 3}}, r"arch.pixel_shuffle=3 must be 1 \(off\) or 2"),
        ({"arch": {"pixel_shuffle": 2}, "data": {"image_size": 24}}, "has 3 patches a side, no multiple of arch.pixel"),
        ({"arch": {"vision_model2": "sized"}}, "vision_model2='sized' needs arch.fusion=late: .* one projection again"),
        ({"arch": {"fusion": "late", "vision_patch2": 4}}, "vision_patch2=4 are for a second encoder; set arch"),
        ({"arch": {**TWO, "vision_mix": 1.0}}, "arch.vision_mix=1.0 must lie between 0 and 1"),
        ({"arch": {**TWO, "vision_patch2": 3}}, "arch.vision_patch2=3 must divide 8, the pixels of a position"),
        ({"arch": {**TWO, "vision_model2": "vit_tiny_patch16_224"}}, "pairing knows only the ViT of conf/size"),
        ({"arch": {**TWO, "vision_weights2": "x"}}, "arch.vision_weights2='x' needs arch.vision_model2 to be the timm"),
        ({"arch": {**TWO, "vision_frozen2": True}}, "arch.vision_frozen2=true freezes random weights"),
        ({"arch": TWO, "optim": {"mup": True}}, "optim.mup with arch.vision_model2='sized': muP has no rule"),
        ({"block": {"rope": "2d"}, "size": {"head_dim": 6}}, "block.rope=2d needs a multiple of 4"),
        ({"block": {"tied_head": True}, "optim": {"mup": True}}, "optim.mup with block.tied_head"),
        ({"optim": {"mup": True}, "size": {"lr": 1e-3}}, "optim.mup with size.lr=0.001, which was tuned for width 32"),
        ({"optim": {"mup": True, "mup_head_dim": 8}}, "optim.mup_head_dim=8, but at size.width=32=optim.mup_width"),
        ({"start": {"kind": "run"}}, "start.kind='run' with start.path='': hf and run need a directory"),
        ({"start": {"path": "runs/x"}}, "scratch has none"),
        ({"start": {"embeddings": "fresh"}}, "start.embeddings=fresh: from scratch all weights are fresh"),
        ({"data": {"val_fraction": 1.0}}, r"data.val_fraction=1.0 must lie in \[0, 1\)"),
        ({"data": {"max_skipped": -0.1}}, r"data.max_skipped=-0.1 must lie in \[0, 1\)"),
        ({"data": {"flip": 1.5}}, r"data.flip=1.5 must lie in \[0, 1\]"),
        ({"data": {"crop_scale": 0.0}}, r"data.crop_scale=0.0 must lie in \(0, 1\]"),
        ({"data": {"crop_scale": 0.4}}, "data.crop_scale=0.4, .*: rendered shards are .* seen as they are"),
        ({"data": {"weights": "samples"}}, "data.weights=samples, .*: rendered shards are mixed by tokens"),
        ({"data": {**SOURCES, "tokenizer": ""}}, "data.tokenizer is empty; data.sources need one: bytes"),
        ({"data": {**SOURCES, "val_fraction": 0.0}}, "data.val_fraction=0.0 holds nothing out"),
        ({"data": {**SOURCES, "mixture": {"b": 1.0}}}, r"draws from b, but data.sources names a; add \+data.sources.b"),
        ({"data": SOURCES, "start": {"kind": "hf", "path": "llama"}}, "set start.embeddings=fresh"),
        ({"data": SOURCES, "stage": {"name": "sft"}, "start": {"kind": "run", "path": "x"}}, "needs the questions of"),
        ({"stage": {"name": "sft"}}, "stage=sft tunes a pretrained model: add start=run start.path=RUN_DIRECTORY"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_combinations(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(from_dict({**groups, "budget": {"steps": 1}}))


@pytest.mark.parametrize(
    "groups",
    [
        {"arch": {**AWARE, "image_experts": 2, "top_k": 2}},
        {"arch": {"num_experts": 4, "granularity": 4, "shared_experts": 1, "moe_every": 2, "top_k": 4}},
        {"arch": LATE},
        {"arch": {**LATE, "pairing": "flops"}, "size": {"paired": False}},
        {"arch": {**LATE, "vision_weights": "x.safetensors", "vision_frozen": True}},
        {"arch": {**LATE, "vision_frozen": True}, "start": {"kind": "run", "path": "runs/x"}},
        {"arch": {**TWO, "vision_frozen2": True, "vision_patch2": 4}, "start": {"kind": "run", "path": "runs/x"}},
        {"arch": {**LATE, "vision_model2": "test_vit", "vision_weights2": "y.safetensors", "vision_frozen2": True}},
        {"stage": {"name": "sft"}, "start": {"kind": "hf", "path": "llama", "embeddings": "fresh"}},
        {"size": {"num_heads": 3, "head_dim": 8}},
        {"data": {**SOURCES, "crop_scale": 0.4, "flip": 0.5, "weights": "samples"}},
        {"data": SOURCES, "start": {"kind": "hf", "path": "llama", "embeddings": "fresh"}},
        {"trainer": {"devices": 2, "num_nodes": 2}},
    ],
    ids=str,
)
def test_possible_combinations(groups: dict[str, Any]) -> None:
    config = from_dict({**groups, "budget": {"steps": 1}})
    assert validate(config) is config


def test_lineage_is_not_judged_before_the_budget_is_whole_steps() -> None:
    assert validate(dataclasses.replace(BRANCH, budget=Budget(tokens=100))).parent.step == 75
