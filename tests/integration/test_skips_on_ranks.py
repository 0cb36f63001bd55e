"""A NaN that only one of two ranks meets: both leave the update out, and end with the weights of one rank's run.

As a script it is one rank: ``python test_skips_on_ranks.py CONFIG.json`` with the variables that torchrun sets.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, child_environment, metrics, run_directory, train
from rank_runs import free_port
from torch import Tensor

from nmm.config import RunConfig, from_dict, to_dict
from nmm.record import read_record
from nmm.training import module as training_module

POISONED = 5  # the update that must be left out, counted from 1


def plant(rank: int) -> None:
    """The loss of the last of two ranks (or of the only one) becomes NaN in one step."""
    if rank != int(os.environ.get("WORLD_SIZE", "1")) - 1:
        return
    sums_of, module = training_module.loss_sums, training_module.TrainingModule
    step_of, now = module.training_step, [0]

    def step(self: training_module.TrainingModule, *arguments: Any) -> None:
        now[0] = self.step + 1
        step_of(self, *arguments)

    def sums(*arguments: Any) -> dict[str, Tensor]:
        found = sums_of(*arguments)
        return {**found, "ce": found["ce"] * math.nan} if now[0] == POISONED else found

    training_module.loss_sums = sums
    module.training_step = step  # type: ignore[method-assign]


def one_rank(file: Path) -> None:
    plant(int(os.environ["RANK"]))
    train(from_dict(json.loads(file.read_text())))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_both_ranks_decide_alike(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    alone = tiny_config(optim={"on_nonfinite": "skip"}, trainer={"log_every_steps": 1}, out=str(tmp_path / "one"))
    both = dataclasses.replace(
        alone, out=str(tmp_path / "two"), trainer=dataclasses.replace(alone.trainer, devices=2, strategy=strategy)
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(both)))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "tests"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "integration")])
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=child_environment() | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    with monkeypatch.context() as patched:
        for owner, name in ((training_module, "loss_sums"), (training_module.TrainingModule, "training_step")):
            patched.setattr(owner, name, getattr(owner, name))  # so that they are put back
        plant(0)
        train(alone)
    first, second = read_record(run_directory(alone)), read_record(run_directory(both))
    assert first is not None and second is not None
    assert second["result"]["skipped_steps"] == {"nan_loss": 1} == first["result"]["skipped_steps"]
    assert second["result"]["loss"]["mixture"] == pytest.approx(first["result"]["loss"]["mixture"], rel=1e-5)
    rows = [row for (_, kind), row in sorted(metrics(both).items()) if kind == "train"]
    assert [row["skipped_steps"] for row in rows] == [0] * (POISONED - 1) + [1] * (13 - POISONED)


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
