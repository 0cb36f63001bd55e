"""conf/ against the dataclasses: no key too many, none missing, and everything that can be composed is possible."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from lab import ALL_ARCHS, PAPER_SIZES, ROOT, SIZES, composed, conf
from omegaconf import OmegaConf

from nmm.compose import compose, compose_dict
from nmm.config import (
    Arch,
    Block,
    ConfigError,
    Data,
    Logger,
    Optim,
    RunConfig,
    Schedule,
    Size,
    Stage,
    Start,
    Trainer,
    from_dict,
    validate,
)
from nmm.describe import describe
from nmm.describe_tables import si
from nmm.flops import count_params, resolve_budget

GROUPS = {
    "arch": Arch,
    "block": Block,
    "size": Size,
    "data": Data,
    "start": Start,
    "stage": Stage,
    "optim": Optim,
    "schedule": Schedule,
    "trainer": Trainer,
    "logger": Logger,
}
FILES = sorted((path.parent.name, path.stem) for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml"))
TRAINERS = ("cpu", "gpu", "ddp", "fsdp2")
VOCABULARY = 500


@pytest.fixture(scope="module", autouse=True)
def one_hydra() -> Iterator[None]:
    """Searching conf/ again for each of many compositions would take most of this file's time."""
    with hydra.initialize_config_module("conf", version_base="1.3"):
        yield


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside that one Hydra, for tests of ``nmm.compose``, which makes its own."""
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)


def by_hydra(*overrides: str) -> RunConfig:
    """What ``compose`` gives, inside the one Hydra of this file."""
    return from_dict(hydra_values(*overrides))


def hydra_values(*overrides: str) -> dict[str, Any]:
    values = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def by_merging(**options: str) -> RunConfig:
    """The same by plain merging, with a vocabulary and a budget."""
    return from_dict(completed(composed(**options)))


def completed(values: dict[str, Any]) -> dict[str, Any]:
    data = values["data"] if values["data"]["vocab_size"] else {**values["data"], "vocab_size": VOCABULARY}
    return {**values, "data": data, "budget": {"tokens": 1_000_000}}


@pytest.mark.parametrize(("group", "option"), FILES)
def test_a_file_has_exactly_the_fields_of_its_dataclass(group: str, option: str) -> None:
    values = conf(group, option)
    for base in values.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            values = {**conf(group, base), **values}
    values = values.get(group, values)  # a file that also changes other groups
    assert sorted(values) == sorted(field.name for field in dataclasses.fields(GROUPS[group]))


@pytest.mark.parametrize("group", ["arch", "block", "size"])
def test_a_file_carries_its_own_name(group: str) -> None:
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        values = conf(group, path.stem)
        assert values.get(group, values)["name"] == path.stem


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arch": "moe_fine", "size": "d64", "trainer": "fsdp2"},
        {"arch": "late", "size": "3.7b", "trainer": "ddp"},
        {"arch": "moe", "size": "932m", "trainer": "gpu", "logger": "wandb_offline"},
        {"size": "275m", "data": "world", "block": "small", "optim": "adamw", "schedule": "wsd"},
        {"stage": "sft"},
    ],
    ids=str,
)
def test_merging_is_what_hydra_does(options: dict[str, str]) -> None:
    assert composed(**options) == hydra_values(*(f"{group}={option}" for group, option in options.items()))


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = by_hydra()
    expected = RunConfig(data=dataclasses.replace(Data(), path="outputs/shards/world"))
    assert config == expected


@pytest.mark.parametrize("arch", ALL_ARCHS)
@pytest.mark.parametrize("size", SIZES)
def test_every_arch_and_size_is_possible_and_of_a_sane_size(arch: str, size: str) -> None:
    config = resolve_budget(validate(by_merging(arch=arch, size=size)))
    params, width, depth = count_params(config), config.size.width, config.size.depth
    block = 12 * depth * width * width  # what a decoder of this shape holds, without norms
    assert 0.5 * block < params.active_non_embedding < 2.2 * block + 20_000
    assert config.total_steps == round(1_000_000 / config.tokens_per_step)
    assert 1e-4 < config.learning_rate < 0.05
    assert config.tokens_per_image < config.data.context_length / 4


@pytest.mark.parametrize("size", [*SIZES, *PAPER_SIZES])
@pytest.mark.parametrize("arch", ALL_ARCHS)
def test_every_arch_size_and_trainer_composes_and_describes_itself(arch: str, size: str) -> None:
    groups = "embedding head attention ffn norm router experts patch vision connector".split()  # noqa: SIM905
    for trainer in TRAINERS:
        facts = describe(completed(composed(arch=arch, size=size, trainer=trainer)))
        params, training = facts["parameters"], facts["flops_per_token"]["training"]
        assert (facts["run"]["arch"], facts["run"]["size"]) == (arch, size)
        assert params["total"] == sum(params[name] for name in groups)
        assert training["total"] == pytest.approx(sum(v for k, v in training.items() if k not in ("total", "6nd")))
        assert facts["budget"]["flops"] == pytest.approx(training["total"] * facts["budget"]["tokens"])
        assert facts["memory"]["ranks"] == (1 if trainer in ("cpu", "gpu") else 2)


def test_a_size_of_the_paper_brings_its_own_groups_unless_told_otherwise() -> None:
    config = by_merging(size="932m")
    names = (config.block.name, config.data.vocab_size, config.schedule.warmup_rule, config.optim.beta2)
    assert names == ("paper", 50_432, "paper", 0.95)
    assert (config.learning_rate, config.trainer.rows_per_step, config.tokens_per_image) == (5e-4, 2048, 256)
    other = by_hydra("size=932m", "block=small", "data=world", "trainer.rows_per_step=8", "optim.lr=0.1")
    assert (other.block.name, other.data.context_length, other.trainer.rows_per_step) == ("small", 128, 8)
    assert (other.learning_rate, other.schedule.warmup_rule) == (0.1, "paper")


def test_the_ladder_rises() -> None:
    sizes = sorted(SIZES, key=lambda name: int(name.removeprefix("d")))
    counts = [count_params(by_merging(size=size)).non_embedding for size in sizes]
    assert all(low * 1.3 < high for low, high in zip(counts[:-1], counts[1:], strict=True)), counts
    assert counts[0] < 25_000 and counts[-1] > 1_000_000


def said(size: str) -> str:
    """The comment at the head of a size's file."""
    lines = (ROOT / "conf" / "size" / f"{size}.yaml").read_text().splitlines()
    return next(line for line in lines if line.startswith("# ") and "@package" not in line)


@pytest.mark.parametrize("size", SIZES)
def test_the_comment_of_a_size_says_its_true_count(size: str) -> None:
    (number,) = re.findall(r"about ([\d.]+[kM]) non-embedding parameters \(early\)", said(size))
    count = count_params(by_merging(size=size)).non_embedding
    assert count == pytest.approx(float(number[:-1]) * {"k": 1e3, "M": 1e6}[number[-1]], rel=0.05)


@pytest.mark.parametrize("size", PAPER_SIZES)
def test_the_comment_of_a_size_of_the_paper_says_its_true_counts(size: str) -> None:
    comment = said(size)
    numbers = re.findall(r"[\d.]+[MB](?=[ .])", comment)
    is_early = "early and MoE" in comment
    params = count_params(by_merging(arch="early" if is_early else "late", size=size))
    assert numbers == [si(n) for n in ([params.paper] if is_early else [params.vision_matrices, params.paper])]
    config = by_merging(size=size)
    assert config.size.paired == is_early


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_every_experiment_composes_and_is_possible(group: str) -> None:
    options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert options
    for option in options:
        config = by_hydra(f"{group}={option}", f"data.vocab_size={VOCABULARY}")
        assert resolve_budget(validate(config)).total_steps > 1


@pytest.mark.parametrize("logger", ["none", "wandb_offline"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_loggers_and_trainers_compose(logger: str, trainer: str) -> None:
    config = validate(by_merging(logger=logger, trainer=trainer))
    assert (config.logger.name, config.trainer.accelerator) == (logger, "cpu" if trainer == "cpu" else "gpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nosuch=1"], r"cannot compose nosuch=1: Could not override 'nosuch'. Key 'nosuch' is not in struct$"),
        (["arch=nosuch"], r"Could not find 'arch/nosuch' Available options in 'arch': early .*moe_fine$"),
        (["size.nosuch=1"], r"Key 'nosuch' is not in struct$"),
        (["seed=[1"], r"cannot compose seed=\[1: "),
    ],
)
def test_what_hydra_refuses_is_one_line(outside: None, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        compose(overrides)
    assert "\n" not in str(refused.value)


def test_an_appended_key_is_refused_by_the_dataclass(outside: None) -> None:
    with pytest.raises(ConfigError, match="unknown key trainer.nosuch; allowed here"):
        compose(["+trainer.nosuch=1"])


def test_shards_config_composes_with_any_knob_of_the_world(outside: None) -> None:
    values = compose_dict("shards", ["out=somewhere", "+data.world.seed=4"])
    assert (values["out"], values["data"]["world"], "hydra" in values) == ("somewhere", {"seed": 4}, False)
