"""Which process of a run this is, read from the environment of whatever started it. No torch.

srun and torchrun start every rank themselves, on one node or on many. Started by hand, a process starts the other ranks
of its node (``nmm.training.parallel.join``), which then find LOCAL_RANK set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nmm.config import ConfigError, RunConfig


@dataclass(frozen=True)
class Place:
    """``rank`` among all processes of the run, ``local_rank`` among those of this node.

    ``starter``: srun | torchrun | self; ``world`` processes on ``nodes`` nodes were started by it (self: 0, not known).
    """

    starter: str = "self"
    rank: int = 0
    local_rank: int = 0
    world: int = 0
    nodes: int = 0


def place(environ: Mapping[str, str] | None = None) -> Place:
    """Where this process stands. A SLURM step of one task counts as started by hand, and so does a batch script."""
    env = os.environ if environ is None else environ
    if "TORCHELASTIC_RUN_ID" in env:
        nodes = int(env["WORLD_SIZE"]) // int(env["LOCAL_WORLD_SIZE"])
        return Place("torchrun", int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"]), nodes)
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    if "SLURM_STEP_ID" in env and tasks > 1:
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
        return Place("srun", int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), tasks, nodes)
    local = int(env.get("LOCAL_RANK", "0"))
    return Place("self", local, local)


def rank() -> int:
    """This process among all ranks of the run, on all nodes."""
    return place().rank


def is_main() -> bool:
    """True in the process that owns the run directory (rank 0)."""
    return rank() == 0


def check_ranks(config: RunConfig, here: Place | None = None) -> None:
    """Raise ``ConfigError`` unless exactly the ranks of ``config`` were started, as many on every node."""
    here, trainer = here or place(), config.trainer
    if here.starter == "self":
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: this process cannot start ranks on other nodes; start "
                "`nmm train` on all of them with srun (slurm/README.md) or torchrun, or give trainer.num_nodes=1"
            )
        return
    fits = (here.world, here.nodes) == (trainer.world_size, trainer.num_nodes) and here.local_rank < trainer.devices
    if not fits:
        each = here.world / here.nodes
        hint = f"give trainer.devices={each:g} trainer.num_nodes={here.nodes}" if each.is_integer() else "even them out"
        raise ConfigError(
            f"{here.starter} started {here.world} processes on {here.nodes} nodes, but trainer.devices="
            f"{trainer.devices} x trainer.num_nodes={trainer.num_nodes} asks for {trainer.devices} on each of "
            f"{trainer.num_nodes}; {hint}, or start as many as the run has"
        )
