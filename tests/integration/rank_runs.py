"""Runs on several processes of this machine, started once for a whole list of runs: imports are most of the cost.

As a script it is one rank: ``python rank_runs.py JOBS.json`` with the variables that torchrun sets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import ROOT, child_environment, run_directory

from nmm.config import RunConfig, from_dict, to_dict
from nmm.record import RecordError


@dataclass(frozen=True)
class Job:
    """A run; the step after which its last rank gets a SIGTERM (0: never); the run directory it goes on from.

    ``fails``: what the error says that rank 0 must end in, and of which the other ranks must hear.
    """

    config: RunConfig
    stop_after: int = 0
    goes_on_from: Path | None = None
    fails: str = ""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def on_ranks(world: int, jobs: Sequence[Job], folder: Path) -> None:
    """Execute ``jobs`` one after the other on ``world`` ranks."""
    file = folder / f"jobs-{world}.json"
    rows = [(to_dict(job.config), job.stop_after, str(job.goes_on_from or ""), job.fails) for job in jobs]
    file.write_text(json.dumps(rows))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "tests"}
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=child_environment() | path | shared | sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * world, "\n\n".join(outputs)


def one_rank(rows: list[Any]) -> None:
    """Execute all jobs as the rank that the environment says."""
    from nmm.training.parallel import RankZeroFailed
    from nmm.training.run import execute
    from nmm.training.stopping import Interrupted

    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    for values, step, source, message in rows:
        config = from_dict(values)
        if source and os.environ["RANK"] == "0":  # the others do not look before rank 0 has
            shutil.copytree(source, run_directory(config))
        signal_after(step if is_last else 0)
        try:
            execute(config, run_directory(config))
        except Interrupted as stopped:
            assert stopped.step == step, stopped
        except RankZeroFailed as failed:
            assert os.environ["RANK"] != "0" and message and failed.code == 0
        except RecordError as error:
            assert os.environ["RANK"] == "0" and message and message in str(error), error
        else:
            assert not step and not message


def signal_after(step: int) -> None:
    """Have this process get a SIGTERM right after the update numbered ``step`` of the next run."""
    from nmm.training.module import TrainingModule

    update = getattr(TrainingModule, "undisturbed", TrainingModule._update)

    def updated(module: TrainingModule, *inputs: Any) -> None:
        update(module, *inputs)
        if module.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    TrainingModule.undisturbed = update  # type: ignore[attr-defined]
    TrainingModule._update = updated  # type: ignore[method-assign]


if __name__ == "__main__":
    one_rank(json.loads(Path(sys.argv[1]).read_text()))
