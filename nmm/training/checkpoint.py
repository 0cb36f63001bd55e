"""What a checkpoint holds and how it comes back: plain tensors, numbers and strings, loaded with ``weights_only``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmm.config import RunConfig, canonical_json, identity
from nmm.record import Attempt, CheckpointError, checkpoint_at, newest_checkpoint, read_json
from nmm.training.code import ChangedCode, Code, code_fingerprint, differences, this_code
from nmm.training.module import TrainingModule
from nmm.training.sharding import is_sharded, place_like, whole
from nmm.training.spikes import Guard

CHECKPOINT_FORMAT = 4  # 4: code, code_history, owes_evaluation
SHOWN_CHANGES = 6  # files named in a message


@dataclass
class TrainingState:
    """Everything beside weights and optimizer that the next step depends on. ``loader`` is the loader's own state.

    ``guard``: the fields of ``nmm.training.spikes.Guard``. ``skipped``: see ``nmm.training.skipped``.
    ``owes_evaluation``: a signal came between the step and its row of held-out losses. ``code_history``: digests of all
    code that made steps of it, oldest first (``nmm.training.code``).
    """

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    order_hash: str = "0" * 32
    window_loss: float = 0.0
    window_targets: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, Any] = field(default_factory=dict)
    owes_evaluation: bool = False
    code_history: list[str] = field(default_factory=lambda: [code_fingerprint()])


def save(attempt: Attempt | None, config: RunConfig, module: TrainingModule, state: TrainingState) -> None:
    """Write a checkpoint into ``attempt``; ranks above 0, which have none, only give their parts of a sharded model.

    The file is the same whatever the strategy and the number of ranks: whole tensors, put together one at a time.
    """
    if attempt is None and not is_sharded(module.model):
        return
    content = {
        "format": CHECKPOINT_FORMAT,
        "trunk": trunk_digest(config),
        "code": dataclasses.asdict(this_code()),
        "numerics": dataclasses.asdict(module.numerics),
        "state": dataclasses.asdict(state),
        "model": whole(module.model.state_dict()),
        "optimizer": whole(module.optimizer.state_dict()),
    }
    if attempt is not None:
        attempt.save_checkpoint(state.step, lambda file: torch.save(content, file), pinned=config.keep_steps)


def load(path: Path, config: RunConfig, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Read a checkpoint and check that it belongs to this run's trunk and was made by this code.

    Raises ``CheckpointError`` if not. ``say`` hears of other code that trainer.changed_code=accept goes on from.
    """
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
    _check_code(path, config, content, say)
    return content


def _check_code(path: Path, config: RunConfig, content: dict[str, Any], say: Callable[[str], None] | None) -> None:
    made_by, here = Code(**content["code"]), this_code()
    changed = differences(made_by, here)
    if not changed:
        return
    more = f" and {len(changed) - SHOWN_CHANGES} more" if len(changed) > SHOWN_CHANGES else ""
    what = f"code {made_by.digest} -> {here.digest}: {', '.join(changed[:SHOWN_CHANGES])}{more}"
    if config.trainer.changed_code == "refuse":
        raise ChangedCode(
            f"{path} was made by other code than is here now ({what}). Go on with the code that began the run, or with "
            "this one, and the record will name both: nmm train --from RUN trainer.changed_code=accept, "
            "nmm sweep launch DIR changed_code=accept"
        )
    if say is not None:
        say(f"goes on from {path}, which other code made, as trainer.changed_code=accept says ({what})")


def restore(module: TrainingModule, content: dict[str, Any]) -> TrainingState:
    """Put weights, optimizer and step back in place, shared out if the model is; returns the rest."""
    targets = module.model.state_dict()
    weights = {name: place_like(targets.get(name), value) for name, value in content["model"].items()}
    module.model.load_state_dict(weights)
    module.optimizer.load_state_dict(_moments_like(module.optimizer, content["optimizer"]))
    state = TrainingState(**content["state"])
    if state.code_history[-1] != code_fingerprint():
        state.code_history = [*state.code_history, code_fingerprint()]
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


def starting_point(run: Path, config: RunConfig, say: Callable[[str], None] | None = None) -> Path | None:
    """The checkpoint to begin from: this run's newest, else the branch point of its trunk, else None (step 0).

    ``say`` hears of every checkpoint that was refused, and why.
    """
    own = newest_checkpoint(run, say)
    if own is not None:
        return own[1]
    if config.role != "branch":
        return None
    trunk = run.parent / config.parent.run_id
    if not (trunk / "config.json").exists():
        raise CheckpointError(f"trunk {config.parent.run_id} is not beside {run.name} in {run.parent}; run it first")
    if read_json(trunk / "config.json")["run_id"] != config.parent.run_id:
        raise CheckpointError(f"{trunk} does not hold the run its name says")
    return checkpoint_at(trunk, config.parent.step, say)
