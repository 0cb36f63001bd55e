"""The configuration: mapping to dataclass and back, derived numbers, and identity."""

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
    RunConfig,
    Schedule,
    Size,
    canonical_json,
    from_dict,
    run_id,
    to_dict,
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
    "intervention.method",
    "intervention.arm",
    "intervention.charged_flops",
    "logger.name",
    "logger.project",
    "arch.vision_weights",  # its digest counts
    "arch.vision_facts",  # follow from the model's name
    "arch.vision_weights2",
    "arch.vision_facts2",
    "data.path",
    "data.world",
    "start.path",  # its digest counts
    "trainer.num_workers",
    "trainer.checkpoint_every_seconds",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
    "trainer.eval_every_steps",
    "trainer.progress",
    "trainer.changed_code",
    "data.sources",
    "data.tokenizer",
    "data.index_dir",
    "data.max_skipped",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.activation_checkpointing",
}
# Only the learning rate that follows from them counts.
THROUGH_LR = ("optim.lr", "optim.lr_width", "size.lr")


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
    if name in THROUGH_LR:
        assert (run_id(other) == run_id(CONFIG)) == (other.learning_rate == CONFIG.learning_rate)
    else:
        assert (run_id(other) == run_id(CONFIG)) == (name in FREE)


def test_the_free_fields_exist() -> None:
    assert {*FREE, *THROUGH_LR} <= {name for name, _ in leaves(CONFIG)} | {"name"}


def test_learning_rate_by_optim_then_size_then_width() -> None:
    size = dataclasses.replace(CONFIG.size, lr=1e-3)
    by_size = dataclasses.replace(CONFIG, size=size)
    assert CONFIG.learning_rate == 0.25 / 32
    assert by_size.learning_rate == 1e-3
    assert dataclasses.replace(by_size, optim=Optim(lr=2e-3)).learning_rate == 2e-3
    assert run_id(by_size) == run_id(dataclasses.replace(CONFIG, optim=Optim(lr=1e-3)))
    mup = dataclasses.replace(CONFIG, size=Size(width=64), optim=Optim(mup=True, mup_width=32))
    assert mup.learning_rate == 0.25 / 32  # that of mup_width; muP scales it


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
