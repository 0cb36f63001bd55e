"""conf/ against the dataclasses: no key too many, none missing, and everything that can be composed is possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from lab import ARCHS, ROOT, SIZES, conf
from omegaconf import OmegaConf

from nmm.compose import compose, compose_dict
from nmm.config import Arch, ConfigError, Data, Logger, Optim, RunConfig, Schedule, Size, Trainer, from_dict, validate
from nmm.flops import count_params, resolve_budget

GROUPS = {
    "arch": Arch,
    "size": Size,
    "data": Data,
    "optim": Optim,
    "schedule": Schedule,
    "trainer": Trainer,
    "logger": Logger,
}
FILES = sorted((path.parent.name, path.stem) for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml"))
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


def composed(*overrides: str) -> RunConfig:
    """What ``compose`` gives, inside the one Hydra of this file."""
    values = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return from_dict({str(key): value for key, value in values.items()})


@pytest.mark.parametrize(("group", "option"), FILES)
def test_a_file_has_exactly_the_fields_of_its_dataclass(group: str, option: str) -> None:
    values = conf(group, option)
    for base in values.pop("defaults", []):
        if base != "_self_":
            values = {**conf(group, base), **values}
    assert sorted(values) == sorted(field.name for field in dataclasses.fields(GROUPS[group]))


@pytest.mark.parametrize("group", ["arch", "size"])
def test_a_file_carries_its_own_name(group: str) -> None:
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        assert conf(group, path.stem)["name"] == path.stem


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = composed()
    expected = RunConfig(data=dataclasses.replace(Data(), path="outputs/shards/world"))
    assert config == expected


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", SIZES)
def test_every_arch_and_size_is_possible_and_of_a_sane_size(arch: str, size: str) -> None:
    config = composed(f"arch={arch}", f"size={size}", "budget.tokens=1000000", f"data.vocab_size={VOCABULARY}")
    config = resolve_budget(validate(config))
    params, width, depth = count_params(config), config.size.width, config.size.depth
    block = 12 * depth * width * width  # what a decoder of this shape holds, without norms
    assert 0.5 * block < params.active_non_embedding < 2.2 * block + 20_000
    assert config.total_steps == round(1_000_000 / config.tokens_per_step)
    assert 1e-4 < config.learning_rate < 0.05
    assert config.tokens_per_image < config.data.context_length / 4


def test_the_ladder_rises() -> None:
    sizes = sorted(SIZES, key=lambda name: int(name.removeprefix("d")))
    counts = [
        count_params(composed(f"size={size}", "data.vocab_size=500", "budget.steps=1")).non_embedding for size in sizes
    ]
    assert all(low * 1.3 < high for low, high in zip(counts[:-1], counts[1:], strict=True)), counts
    assert counts[0] < 25_000 and counts[-1] > 1_000_000


@pytest.mark.parametrize("size", SIZES)
def test_the_comment_of_a_size_says_its_true_count(size: str) -> None:
    first = (ROOT / "conf" / "size" / f"{size}.yaml").read_text().splitlines()[0]
    said = first.split("about ")[1].split(" ")[0]
    number = float(said.rstrip("kM")) * {"k": 1e3, "M": 1e6}[said[-1]]
    count = count_params(composed(f"size={size}", "data.vocab_size=500", "budget.steps=1")).non_embedding
    assert count == pytest.approx(number, rel=0.05)


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_every_experiment_composes_and_is_possible(group: str) -> None:
    options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert options
    for option in options:
        config = composed(f"{group}={option}", f"data.vocab_size={VOCABULARY}")
        assert resolve_budget(validate(config)).total_steps > 1


@pytest.mark.parametrize("logger", ["none", "wandb_offline"])
@pytest.mark.parametrize("trainer", ["cpu", "gpu"])
def test_loggers_and_trainers_compose(logger: str, trainer: str) -> None:
    config = validate(composed(f"logger={logger}", f"trainer={trainer}", "budget.steps=5"))
    assert (config.logger.name, config.trainer.accelerator) == (logger, trainer)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nosuch=1"], r"cannot compose nosuch=1: Could not override 'nosuch'. Key 'nosuch' is not in struct$"),
        (["arch=nosuch"], r"Could not find 'arch/nosuch' Available options in 'arch': early late moe$"),
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
