"""The configuration: mapping to dataclass and back, identity, and every refusal."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from nmm.config import (
    CODE_NUMERICS,
    Budget,
    ConfigError,
    Data,
    Optim,
    Parent,
    RunConfig,
    Schedule,
    Size,
    Trainer,
    canonical_json,
    from_dict,
    run_id,
    to_dict,
    validate,
)

CONFIG = RunConfig(
    data=Data(path="/shards", fingerprint="f" * 64, vocab_size=100),
    budget=Budget(steps=100),
    keep_steps=(),
)
# What may change without making it another run; everything else in the tree of dataclasses must change the run id.
FREE = {
    "name",
    "sweep",
    "out",
    "logger.name",
    "logger.project",
    "data.path",
    "data.world",
    "optim.lr_width",  # only through the learning rate it gives
    "optim.lr",
    "trainer.num_workers",
    "trainer.checkpoint_every_seconds",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
    "trainer.eval_every_steps",
    "trainer.progress",
    "trainer.devices",
}


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def changed(config: Any, dotted: str, value: Any) -> Any:
    head, _, rest = dotted.partition(".")
    return dataclasses.replace(config, **{head: changed(getattr(config, head), rest, value) if rest else value})


def another(value: Any) -> Any:
    """A value of the same type that differs."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, 7)
        case dict():
            return {**value, "more": 1.0}
    return 3


@pytest.mark.parametrize(("name", "value"), list(leaves(CONFIG)), ids=[name for name, _ in leaves(CONFIG)])
def test_run_id_changes_with_everything_that_can_change_the_result_and_nothing_else(name: str, value: Any) -> None:
    if name == "budget.steps":
        value = 100
    other = changed(CONFIG, name, another(value))
    if name.startswith("optim.lr"):
        assert (run_id(other) == run_id(CONFIG)) == (other.learning_rate == CONFIG.learning_rate)
    else:
        assert (run_id(other) == run_id(CONFIG)) == (name in FREE)


def test_learning_rate_given_or_derived_is_the_same_run() -> None:
    derived = dataclasses.replace(CONFIG, optim=Optim(lr=None, lr_width=0.25))
    given = dataclasses.replace(CONFIG, optim=Optim(lr=0.25 / 32, lr_width=9.0))
    assert derived.learning_rate == given.learning_rate == 0.0078125
    assert run_id(derived) == run_id(given)


def test_run_id_is_readable_and_changes_with_the_numerics_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_id(CONFIG)
    assert re.fullmatch("early-d32-run-s0-100-[0-9a-f]{10}", before)
    monkeypatch.setattr("nmm.config.CODE_NUMERICS", CODE_NUMERICS + 1)
    assert run_id(CONFIG) != before


def test_round_trip_through_plain_values() -> None:
    config = dataclasses.replace(
        CONFIG,
        role="trunk",
        keep_steps=(10, 20),
        schedule=Schedule(cooldown_fraction=0.0),
        data=dataclasses.replace(CONFIG.data, world={"seed": 3, "tails": [0.5, 0.5, 0.0]}),
    )
    assert from_dict(to_dict(config)) == config
    assert canonical_json(to_dict(from_dict(to_dict(config)))) == canonical_json(to_dict(config))


def test_canonical_json_is_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": math.nan})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nosuch": 1}, "unknown key nosuch; allowed here: sweep, out"),
        ({"trainer": {"nosuch": 1}}, "unknown key trainer.nosuch; allowed here: rows_per_step"),
        ({"trainer": 3}, "trainer. is 3, but it must be a group"),
        ({"seed": "x"}, "seed='x' must be of type int"),
        ({"seed": 1.5}, "seed=1.5 must be of type int"),
        ({"seed": math.nan}, "seed=nan must be of type int"),
        ({"seed": math.inf}, "seed=inf must be of type int"),
        ({"seed": True}, "seed=True must be of type int"),
        ({"optim": {"beta1": "0.9"}}, "optim.beta1='0.9' must be of type float"),
        ({"trainer": {"progress": 1}}, "trainer.progress=1 must be of type bool"),
        ({"budget": {"tokens": "abc"}}, "budget.tokens='abc' must be of type int"),
        ({"keep_steps": 5}, "keep_steps=5 must be a list"),
        ({"keep_steps": ["a"]}, r"keep_steps\[0\]='a' must be of type int"),
        ({"data": {"mixture": 1}}, "data.mixture=1 must be a mapping"),
        ({"data": {"mixture": {"caption": "much"}}}, "data.mixture.caption='much' must be of type float"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


def test_values_are_converted_without_loss() -> None:
    config = from_dict(
        {
            "budget": {"tokens": 1e6},
            "trainer": {"compile": False, "checkpoint_every_seconds": 5},
            "keep_steps": [3, 4.0],
            "data": {"mixture": {"text": 1}},
        }
    )
    assert config.budget.tokens == 1_000_000
    assert isinstance(config.budget.tokens, int)
    assert config.trainer.compile == "off"  # YAML reads off as a boolean
    assert isinstance(config.trainer.checkpoint_every_seconds, float)
    assert config.keep_steps == (3, 4)
    assert config.data.mixture == {"text": 1.0}


def test_derived_numbers() -> None:
    config = from_dict(
        {"trainer": {"rows_per_step": 6}, "data": {"context_length": 50, "image_size": 24}, "budget": {"steps": 10}}
    )
    assert config.tokens_per_step == 300
    assert config.tokens_per_image == 9
    assert (config.total_steps, config.branch_step) == (10, 8)  # round(2.5) is 2
    with pytest.raises(ConfigError, match="not resolved"):
        _ = RunConfig(budget=Budget(tokens=5)).total_steps


BRANCH = dataclasses.replace(CONFIG, role="branch", parent=Parent("trunk", 75))
TRUNK = dataclasses.replace(CONFIG, role="trunk", keep_steps=(50, 100), schedule=Schedule(cooldown_fraction=0.0))


@pytest.mark.parametrize("config", [CONFIG, BRANCH, TRUNK, changed(BRANCH, "parent.step", 1)])
def test_possible_configs_pass_unchanged(config: RunConfig) -> None:
    assert validate(config) is config


@pytest.mark.parametrize(
    ("config", "name", "value", "message"),
    [
        (CONFIG, "role", "leaf", "role='leaf' is not one of run, trunk, branch"),
        (CONFIG, "arch.fusion", "mid", "arch.fusion='mid' is not one of early, late"),
        (CONFIG, "trainer.precision", "fp8", "trainer.precision='fp8'"),
        (CONFIG, "size.width", 0, "size.width=0 must be greater than 0"),
        (CONFIG, "optim.lr", 0.0, "optim.lr=0.0 must be greater than 0"),
        (CONFIG, "optim.lr", math.nan, "optim.lr=nan"),
        (CONFIG, "optim.lr_width", math.nan, "optim.lr_width=nan must be greater than 0"),
        (CONFIG, "optim.beta2", 1.0, r"optim.beta2=1.0 must lie in \[0, 1\)"),
        (CONFIG, "optim.weight_decay", -0.1, "optim.weight_decay=-0.1 must be 0 or more"),
        (CONFIG, "trainer.log_every_steps", 0, "trainer.log_every_steps=0 must be greater than 0"),
        (CONFIG, "trainer.num_workers", -1, "trainer.num_workers=-1 must be 0 or more"),
        (CONFIG, "schedule.warmup_steps", -1, "schedule.warmup_steps=-1 must be 0 or more"),
        (CONFIG, "schedule.cooldown_fraction", 1.0, "cooldown_fraction=1.0 must lie in"),
        (CONFIG, "size.num_heads", 3, "size.width=32 with size.num_heads=3"),
        (CONFIG, "size", Size(width=30, num_heads=2), "no even head_dim"),
        (CONFIG, "data.patch_size", 7, "data.image_size=32 is not a multiple of data.patch_size=7"),
        (CONFIG, "data.context_length", 16, "leaves no room for text"),
        (CONFIG, "arch.num_experts", 1, "use 0 for a dense model or at least 2"),
        (CONFIG, "arch.num_experts", -2, "use 0 for a dense model"),
        (CONFIG, "trainer.micro_batches", 5, "trainer.micro_batches=5 exceeds the 4 rows"),
        (CONFIG, "trainer", Trainer(devices=3), "trainer.rows_per_step=4 is not a multiple of devices=3"),
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


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"num_experts": 4, "top_k": 5}, "arch.top_k=5 must lie in 1..num_experts=4"),
        ({"num_experts": 4, "top_k": 0}, "arch.top_k=0 must lie in"),
        ({"num_experts": 4, "fusion": "late"}, "arch.num_experts > 0 with arch.fusion=late"),
    ],
)
def test_impossible_experts(arch: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(from_dict({"arch": arch, "budget": {"steps": 1}}))


def test_lineage_is_not_judged_before_the_budget_is_whole_steps() -> None:
    assert validate(dataclasses.replace(BRANCH, budget=Budget(tokens=100))).parent.step == 75
