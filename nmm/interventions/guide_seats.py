"""Which process of a guided generation this is, and how they find each other: by hand, or under srun. No torch.

Rank 0 holds the base, rank 1 the expert, rank 2 the amateur; of two processes rank 1 holds both guides. Started by
hand, rank 0 starts the others; srun starts all of them with the same command line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmm.config import ConfigError
from nmm.training.ranks import place

SEAT = "NMM_GUIDE_SEAT"  # "rank:port", for processes that rank 0 starts
FIRST_PORT, PORTS = 15_000, 15_000
ROLES = ("expert", "amateur")


class RankLost(ValueError):
    """Another process of this generation has ended or does not answer."""


@dataclass(frozen=True)
class Seat:
    """``rank`` of ``world``; they meet at ``address``:``port`` (0: rank 0 chooses one and starts the others)."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def starts_others(self) -> bool:
        """Whether this process has to start the other ones."""
        return self.rank == 0 and self.port == 0


def seat(processes: int, environ: Mapping[str, str] | None = None) -> Seat:
    """From the environment. Raises ConfigError when srun or torchrun has started another number of processes."""
    env = os.environ if environ is None else environ
    if SEAT in env:
        rank, port = map(int, env[SEAT].split(":"))
        return Seat(rank, processes, rank, port=port)
    here = place(env)
    if here.starter == "self":
        return Seat(0, processes)
    if here.world != processes:
        raise ConfigError(
            f"{here.starter} started {here.world} processes, but processes={processes}; start as many as that, or say "
            "processes=2 (both guides share one) or processes=3"
        )
    return Seat(here.rank, here.world, here.local_rank, _address(env, here.nodes), _port(env))


def _address(env: Mapping[str, str], nodes: int) -> str:
    """Of the node of rank 0."""
    if "MASTER_ADDR" in env:
        return env["MASTER_ADDR"]
    if nodes == 1:
        return "127.0.0.1"
    names = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", ""))
    return first_node(names)


def first_node(names: str) -> str:
    """The first host of SLURM's short form: "gpu[07-09,12],login" -> "gpu07". Raises ConfigError for an empty one."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", names)
    if found is None:
        raise ConfigError("no list of nodes in the environment; export MASTER_ADDR=ADDRESS of the first node")
    return "".join(part or "" for part in found.groups())


def _port(env: Mapping[str, str]) -> int:
    """The same on all ranks, and another one for every step of every job."""
    if "MASTER_PORT" in env:
        return int(env["MASTER_PORT"]) + ("TORCHELASTIC_RUN_ID" in env)  # torchrun itself listens at the port it gives
    job, step = (re.sub(r"\D", "", env.get(name, "")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + (int(job or 0) * 37 + int(step or 0)) % PORTS


def rank_of(role: str, world: int) -> int:
    """Where a guide computes."""
    return 1 if world == 2 else 1 + ROLES.index(role)


class Children:
    """Processes that rank 0 has started, and what they have printed. Leaving the context ends those that still run."""

    def __init__(self) -> None:
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        self.folder = tempfile.TemporaryDirectory(prefix="nmm-guide-")
        return self

    def start(self, arguments: Sequence[str], world: int, port: int) -> None:
        """The same command once for every other rank."""
        for rank in range(1, world):
            with self._log(rank).open("wb") as said:
                self.running[rank] = subprocess.Popen(
                    [sys.executable, "-m", "nmm.cli", "guide", *arguments],
                    env={**os.environ, SEAT: f"{rank}:{port}"},
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )

    def check(self) -> None:
        """Raise RankLost for the first one that has ended with an error."""
        for rank, child in self.running.items():
            status = child.poll()
            if status:
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                raise RankLost(f"the process of rank {rank} ended {how}; its last words: {self.last_words(rank)}")

    def last_words(self, rank: int) -> str:
        """The last line that it has printed."""
        lines = self._log(rank).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "none"

    def _log(self, rank: int) -> Path:
        return Path(self.folder.name) / f"{rank}.log"

    def __exit__(self, kind: object, *_: object) -> None:
        for child in self.running.values():
            try:
                child.wait(10 if kind is None else 0.5)  # told to stop, or about to notice
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.folder.cleanup()
