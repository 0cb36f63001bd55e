"""A run directory is enough to go on, with other ranks or paths, but never as another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from nmm.config import ConfigError, RunConfig, identity, run_id, to_dict
from nmm.frozen import changes_from, read_frozen
from nmm.record import write_config, write_json

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def begun(make_config: MakeConfig, tmp_path: Path) -> tuple[RunConfig, Path]:
    """A config and the directory that a run of it has begun."""
    config = make_config("moe", data={"world": {"note": "kept"}})
    write_config(tmp_path, {"run_id": run_id(config), "identity": identity(config), "settings": to_dict(config)})
    return config, tmp_path


def test_it_comes_back_as_it_was(begun: tuple[RunConfig, Path]) -> None:
    config, directory = begun
    assert read_frozen(directory) == config


def test_any_free_change_there_and_back(begun: tuple[RunConfig, Path]) -> None:
    config, directory = begun
    trainer = dataclasses.replace(
        config.trainer, devices=2, num_nodes=2, strategy="fsdp2", checkpoint_every_seconds=0.5
    )
    data = dataclasses.replace(config.data, path="1e5")  # as text, though it reads like a number
    moved = dataclasses.replace(config, out="/elsewhere", trainer=trainer, data=data)
    changes = changes_from(directory, moved)
    assert 'trainer.strategy="fsdp2"' in changes and len(changes) == 6
    assert read_frozen(directory, changes) == moved
    by_hand = ["trainer.strategy=fsdp2", "trainer.devices=2", "trainer.progress=true"]
    assert read_frozen(directory, by_hand).trainer.strategy == "fsdp2"
    assert changes_from(directory, config) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=7", "seed=7 would make another run of it"),
        ("optim.lr=0.5", "would make another run of it. What does not change the result can be given here"),
        ("trainer.nosuch=1", "'trainer.nosuch=1' is not a change of this run; give GROUP.FIELD=VALUE"),
        ("nosuch.devices=1", "is not a change of this run"),
        ("trainer.devices", "is not a change of this run"),
        ("trainer.devices=3", "rows_per_step=4 is not a multiple of the 3 ranks"),
        ("trainer.strategy=fsdp1", "'fsdp1' is not one of ddp, fsdp2"),
    ],
)
def test_what_is_refused(begun: tuple[RunConfig, Path], change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_frozen(begun[1], [change])


def test_a_run_of_another_version_and_no_run_at_all(begun: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, directory = begun
    old = {**identity(config), "code_numerics": 0}
    write_json(directory / "config.json", {"run_id": run_id(config), "identity": old, "settings": to_dict(config)})
    with pytest.raises(ConfigError, match="another version of nmm began it"):
        read_frozen(directory)
    with pytest.raises(ConfigError, match="nowhere holds no config.json, so it is no run"):
        read_frozen(tmp_path / "nowhere")
