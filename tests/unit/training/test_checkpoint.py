"""A checkpoint brings back everything the next step depends on, and only into the run it belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import run_directory, train

from nmm.config import Budget, Parent, RunConfig, run_id, to_dict
from nmm.model.build import build
from nmm.record import CheckpointError, begin_attempt, newest_checkpoint, write_json
from nmm.training.checkpoint import TrainingState, load, restore, save, starting_point, trunk_digest
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics
from nmm.training.spikes import Guard

TinyConfig = Callable[..., RunConfig]


def module_of(config: RunConfig) -> TrainingModule:
    return TrainingModule(config, build(config), Numerics("fp32", False))


def after_steps(config: RunConfig, steps: int) -> TrainingModule:
    """A module after ``steps`` updates with made-up gradients."""
    module, generator = module_of(config), torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in module.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        module._update(torch.tensor(2.0), torch.tensor(8.0))
    return module


def tensors_of(values: Any) -> list[torch.Tensor]:
    """All tensors of nested dicts."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [t for value in values.values() for t in tensors_of(value)] if isinstance(values, dict) else []


def state_of(module: TrainingModule) -> list[Any]:
    optimizer = module.optimizer.state_dict()
    return [*module.model.state_dict().values(), *(v for s in optimizer["state"].values() for v in s.values())]


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
def test_everything_comes_back(tiny_config: TinyConfig, tmp_path: Path, arch: str) -> None:
    config = tiny_config(arch)
    module = after_steps(config, 3)
    state = TrainingState(step=3, loader={"cursor": 12}, order_hash="ab" * 16, window_loss=1.25, window_targets=7.0)
    state.guard = dataclasses.asdict(module.guard)
    save(begin_attempt(tmp_path), config, module, state)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    content = load(found[1], config)
    fresh = module_of(config)
    assert restore(fresh, content) == state
    assert fresh.step == 3
    assert fresh.guard == module.guard == Guard(mean=2.0, seen=3)
    assert Numerics(**content["numerics"]) == module.numerics
    assert all(torch.equal(a, b) for a, b in zip(state_of(module), state_of(fresh), strict=True))
    mapped = {value.untyped_storage().data_ptr() for value in tensors_of(content)}
    assert mapped.isdisjoint(value.untyped_storage().data_ptr() for value in state_of(fresh))  # the file may go
    for one in (module, fresh):  # and the next update is the same
        for parameter in one.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        one._update(torch.tensor(2.0), torch.tensor(8.0))
    assert all(torch.equal(a, b) for a, b in zip(state_of(module), state_of(fresh), strict=True))


def test_a_checkpoint_holds_no_code(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """Plain tensors, numbers and strings: reading a foreign checkpoint runs nothing."""
    config = tiny_config()
    save(begin_attempt(tmp_path), config, after_steps(config, 1), TrainingState(step=1))
    found = newest_checkpoint(tmp_path)
    assert found is not None
    content = torch.load(found[1], weights_only=True)
    assert set(content) == {"format", "trunk", "code", "numerics", "state", "model", "optimizer"}


def test_ranks_above_zero_write_nothing(tiny_config: TinyConfig) -> None:
    save(None, tiny_config(), after_steps(tiny_config(), 1), TrainingState(step=1))


CHANGES: dict[str, dict[str, Any]] = {
    "another seed": {"seed": 1},
    "another width": {"size": {"width": 32}},
    "another rate": {"optim": {"lr": 0.1}},
    "another warmup": {"schedule": {"warmup_steps": 5}},
    "another mixture": {"data": {"mixture": {"caption": 1.0}}},
    "another split into micro-batches": {"trainer": {"micro_batches": 2}},
}
SAME_TRUNK: dict[str, dict[str, Any]] = {
    "another length": {"budget": {"steps": 99}},
    "another cooldown": {"schedule": {"cooldown_fraction": 0.5, "cooldown_shape": "one_minus_sqrt"}},
    "a branch": {"role": "branch", "parent": {"run_id": "t", "step": 2}},
    "other held-out rows": {"data": {"eval_rows": 2}},
    "other logging": {"trainer": {"log_every_steps": 9}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_branch_may_not_change(tiny_config: TinyConfig, name: str) -> None:
    assert trunk_digest(tiny_config(**CHANGES[name])) != trunk_digest(tiny_config())


@pytest.mark.parametrize("name", SAME_TRUNK)
def test_what_a_branch_may_change(tiny_config: TinyConfig, name: str) -> None:
    assert trunk_digest(tiny_config(**SAME_TRUNK[name])) == trunk_digest(tiny_config())


def test_a_foreign_checkpoint_is_refused(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config()
    save(begin_attempt(tmp_path), config, after_steps(config, 1), TrainingState(step=1))
    found = newest_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match="another model, data, optimizer or seed"):
        load(found[1], tiny_config(seed=1))
    content = torch.load(found[1], weights_only=True)
    torch.save({**content, "format": 99}, found[1])
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this code reads 4"):
        load(found[1], config)


def trunk_and_branch(tiny_config: TinyConfig) -> tuple[RunConfig, RunConfig]:
    trunk = tiny_config(role="trunk", keep_steps=[4, 6], schedule={"cooldown_fraction": 0.0}, budget={"steps": 6})
    branch = dataclasses.replace(tiny_config(), role="branch", budget=Budget(steps=8), parent=Parent(run_id(trunk), 6))
    return trunk, branch


def test_where_a_run_begins(tiny_config: TinyConfig) -> None:
    trunk, branch = trunk_and_branch(tiny_config)
    alone = tiny_config()
    assert starting_point(run_directory(alone), alone) is None
    with pytest.raises(CheckpointError, match=f"trunk {run_id(trunk)} is not beside {run_id(branch)}"):
        starting_point(run_directory(branch), branch)
    train(trunk)
    at_six = starting_point(run_directory(branch), branch)
    assert at_six is not None
    assert (at_six.name, at_six.parents[3].name) == ("step-000000006.pt", run_id(trunk))
    shorter = dataclasses.replace(branch, parent=Parent(run_id(trunk), 4))
    at_four = starting_point(run_directory(shorter), shorter)
    assert at_four is not None
    assert at_four.name == "step-000000004.pt"
    missing = dataclasses.replace(branch, parent=Parent(run_id(trunk), 5))
    with pytest.raises(CheckpointError, match=r"no verified checkpoint at step 5 \(steps on disk: \[4, 6\]\)"):
        starting_point(run_directory(missing), missing)


def test_its_own_checkpoint_comes_before_the_trunk_s(tiny_config: TinyConfig) -> None:
    trunk, branch = trunk_and_branch(tiny_config)
    train(trunk)
    own = begin_attempt(run_directory(branch))
    save(own, branch, module_of(branch), TrainingState(step=7))
    found = starting_point(run_directory(branch), branch)
    assert found is not None
    assert found.is_relative_to(own.path)


def test_a_trunk_that_is_not_what_its_name_says(tiny_config: TinyConfig) -> None:
    trunk, branch = trunk_and_branch(tiny_config)
    write_json(run_directory(trunk) / "config.json", {"run_id": "other", "identity": {}, "settings": to_dict(trunk)})
    with pytest.raises(CheckpointError, match="does not hold the run its name says"):
        starting_point(run_directory(branch), branch)
