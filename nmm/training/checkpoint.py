"""What a checkpoint holds and how it comes back: plain tensors, numbers and strings, loaded with ``weights_only``."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmm.config import RunConfig, canonical_json, identity
from nmm.record import Attempt, CheckpointError, checkpoint_at, newest_checkpoint, read_json
from nmm.training.module import TrainingModule
from nmm.training.sharding import is_sharded, place_like, whole
from nmm.training.spikes import Guard

CHECKPOINT_FORMAT = 3


@dataclass
class TrainingState:
    """Everything beside weights and optimizer that the next step depends on. ``loader`` is the loader's own state.

    ``guard``: the fields of ``nmm.training.spikes.Guard``. ``skipped``: see ``nmm.training.skipped``.
    """

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    order_hash: str = "0" * 32
    window_loss: float = 0.0
    window_targets: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, Any] = field(default_factory=dict)


def save(attempt: Attempt | None, config: RunConfig, module: TrainingModule, state: TrainingState) -> None:
    """Write a checkpoint into ``attempt``; ranks above 0, which have none, only give their parts of a sharded model.

    The file is the same whatever the strategy and the number of ranks: whole tensors, put together one at a time.
    """
    if attempt is None and not is_sharded(module.model):
        return
    content = {
        "format": CHECKPOINT_FORMAT,
        "trunk": trunk_digest(config),
        "numerics": dataclasses.asdict(module.numerics),
        "state": dataclasses.asdict(state),
        "model": whole(module.model.state_dict()),
        "optimizer": whole(module.optimizer.state_dict()),
    }
    if attempt is not None:
        attempt.save_checkpoint(state.step, lambda file: torch.save(content, file), pinned=config.keep_steps)


def load(path: Path, config: RunConfig) -> dict[str, Any]:
    """Read a checkpoint and check that it belongs to this run's trunk. Raises ``CheckpointError`` if not."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # each rank reads only its own parts
    if content["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {content['format']}, this code reads {CHECKPOINT_FORMAT}; "
            "finish the run with the version that began it"
        )
    if content["trunk"] != trunk_digest(config):
        raise CheckpointError(
            f"{path} was made by a run with another model, data, optimizer or seed; a run or branch can only go on "
            "from its own trunk. Compare config.json of both"
        )
    return content


def restore(module: TrainingModule, content: dict[str, Any]) -> TrainingState:
    """Put weights, optimizer and step back in place, shared out if the model is; returns the rest."""
    targets = module.model.state_dict()
    weights = {name: place_like(targets.get(name), value) for name, value in content["model"].items()}
    module.model.load_state_dict(weights)
    module.optimizer.load_state_dict(_moments_like(module.optimizer, content["optimizer"]))
    state = TrainingState(**content["state"])
    module.step, module.guard = state.step, Guard(**state.guard)
    return state


def _moments_like(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """``saved`` with every tensor of a parameter's shape shared out as the parameter is; copied, as the file may go."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def placed(parameter: Tensor, value: Tensor) -> Tensor:
        return place_like(parameter if value.shape == parameter.shape else None, value).clone()

    moments = {
        index: {name: placed(parameters[index], value) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    return {**saved, "state": moments}


def trunk_digest(config: RunConfig) -> str:
    """Digest of what trunk and branches have in common: all of the identity but length, cooldown and lineage."""
    values = identity(config)
    for name in ("role", "keep_steps", "budget", "parent"):
        values.pop(name)
    for name in ("cooldown_fraction", "cooldown_shape"):
        values["schedule"].pop(name)
    values["data"].pop("eval_rows")
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def starting_point(run: Path, config: RunConfig) -> Path | None:
    """The checkpoint to begin from: this run's newest, else the branch point of its trunk, else None (step 0)."""
    own = newest_checkpoint(run)
    if own is not None:
        return own[1]
    if config.role != "branch":
        return None
    trunk = run.parent / config.parent.run_id
    if not (trunk / "config.json").exists():
        raise CheckpointError(f"trunk {config.parent.run_id} is not beside {run.name} in {run.parent}; run it first")
    if read_json(trunk / "config.json")["run_id"] != config.parent.run_id:
        raise CheckpointError(f"{trunk} does not hold the run its name says")
    return checkpoint_at(trunk, config.parent.step)
