"""One run, shared out or not: FSDP2, DDP and one process give the same losses, and go on from each other's checkpoints.

Two processes execute all runs of the file; what they left on disk is compared with undisturbed runs of one process.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import ARCHS, metrics, run_directory, train
from rank_runs import Job, on_ranks

from nmm.config import RunConfig
from nmm.data.loader import to_torch
from nmm.record import attempts, checkpoints, read_record, status
from nmm.training.module import TrainingModule
from nmm.training.run import rows_of, shards_of
from nmm.training.stopping import Interrupted

TOLERANCE = 1e-6
BF16_TOLERANCE = 1e-3
STOP = 5
SLOWLY = {"lr": 3e-4}  # so that a rounding of one step is not multiplied by the steps after it


RICH: dict[str, Any] = {  # everything that adds parameters, buffers or shapes of another kind
    "arch": {"balancing": "bias", "granularity": 2, "shared_experts": 1},
    "block": {"ffn": "swiglu", "norm": "layer", "qk_norm": "width", "rope": "2d", "tied_head": True, "init": "depth"},
    "size": {"num_heads": 2, "num_kv_heads": 1},
}


class Runs:
    """Every run of this file, by name; ``alone`` are the undisturbed ones of one process."""

    def __init__(self, make_config: Callable[..., RunConfig], folder: Path) -> None:
        def alone(family: str, precision: str = "fp32", **groups: Any) -> RunConfig:
            trainer = {"micro_batches": 2, "log_every_steps": 1, "precision": precision}
            return make_config(family, out=str(folder / "alone"), optim=SLOWLY, trainer=trainer, **groups)

        self.folder = folder
        self.alone = {arch: alone(arch) for arch in ARCHS}
        self.alone |= {"rich": alone("moe_aware", **RICH), "bf16": alone("moe", "bf16")}
        self.alone["text"] = alone("late", data={"mixture": {"text": 1.0, "caption": 0.0, "interleaved": 0.0}})
        net = {"vision_model": "test_vit", "pairing": "none"}
        self.alone["net"] = alone("late", arch=net, data={"patch_size": 16})
        self.made: dict[str, tuple[RunConfig, RunConfig]] = {}

    def like(self, arch: str, name: str, **trainer: Any) -> RunConfig:
        """The run of ``arch`` with another ``trainer``, in a folder ``name``; compared with the undisturbed one."""
        alone = self.alone[arch]
        same = dataclasses.replace(
            alone, out=str(self.folder / name), trainer=dataclasses.replace(alone.trainer, **trainer)
        )
        self.made[f"{arch} {name}"] = alone, same
        return same

    def stopped(self, arch: str, name: str, **trainer: Any) -> Job:
        """The same, stopped after step 5 by a signal to the last rank."""
        job = Job(self.like(arch, name, **trainer), STOP)
        del self.made[f"{arch} {name}"]
        return job

    def going_on(self, arch: str, source: str, **trainer: Any) -> Job:
        """The run that lies stopped in the folder ``source``, taken up with another ``trainer``."""
        before = run_directory(dataclasses.replace(self.alone[arch], out=str(self.folder / source)))
        name = f"{source}, then {trainer.get('devices', 1)} {trainer.get('strategy', '')}".strip()
        return Job(self.like(arch, name, **trainer), goes_on_from=before)


TWO_FSDP2 = {"devices": 2, "strategy": "fsdp2"}
TWO_DDP = {"devices": 2, "strategy": "ddp"}


@pytest.fixture(scope="module")
def runs(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs, executed: alone, on two ranks, and going on from each other."""
    all_runs = Runs(make_config, tmp_path_factory.mktemp("fsdp2"))
    for config in all_runs.alone.values():
        train(config)
    stop_alone(all_runs.stopped("moe", "one").config)
    broken = all_runs.stopped("moe", "broken").config
    stop_alone(broken)
    damage(run_directory(broken))
    cannot = all_runs.going_on("moe", "broken", **TWO_DDP)
    del all_runs.made["moe broken, then 2 ddp"]
    busy = {"eval_every_steps": 4, "checkpoint_every_seconds": 0.001}  # evaluations and checkpoints between the steps
    on_ranks(
        2,
        [
            *(Job(all_runs.like(name, "fsdp2", **TWO_FSDP2)) for name in all_runs.alone),
            dataclasses.replace(cannot, fails="none matches its checksum"),  # and the ranks are ready for the next
            Job(all_runs.like("early", "fsdp2", **TWO_FSDP2)),  # again: it is finished
            *(Job(all_runs.like(name, "ddp", **TWO_DDP)) for name in ("rich", "text", "net")),
            Job(all_runs.like("late", "busy", **TWO_FSDP2, **busy, activation_checkpointing=True)),
            Job(all_runs.like("moe", "busy", **TWO_DDP, **busy, activation_checkpointing=True)),
            all_runs.stopped("moe", "two fsdp2", **TWO_FSDP2),
            all_runs.stopped("late", "two ddp", **TWO_DDP),
            all_runs.going_on("moe", "one", **TWO_FSDP2),
            all_runs.going_on("moe", "two fsdp2", **TWO_FSDP2),
            all_runs.going_on("moe", "two fsdp2", **TWO_DDP),
            all_runs.going_on("late", "two ddp", **TWO_FSDP2),
        ],
        all_runs.folder,
    )
    back = all_runs.going_on("moe", "two fsdp2")
    assert back.goes_on_from is not None
    shutil.copytree(back.goes_on_from, run_directory(back.config))
    train(back.config)
    return all_runs


def damage(directory: Path) -> None:
    """Cut off the end of every checkpoint."""
    for _, path in checkpoints(directory):
        path.write_bytes(path.read_bytes()[:-1])


def stop_alone(config: RunConfig) -> None:
    """Train in this process until step 5."""
    update = TrainingModule._update

    def updated(module: TrainingModule, *inputs: Any) -> None:
        update(module, *inputs)
        if module.step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingModule, "_update", updated)
        train(config)


NAMES = [
    *(f"{name} fsdp2" for name in (*ARCHS, "rich", "bf16", "text", "net")),
    *(f"{name} ddp" for name in ("rich", "text", "net")),
    "late busy",
    "moe busy",
    "moe one, then 2 fsdp2",
    "moe two fsdp2, then 2 fsdp2",
    "moe two fsdp2, then 2 ddp",
    "moe two fsdp2, then 1",
    "late two ddp, then 2 fsdp2",
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_run_of_one_process(runs: Runs, name: str) -> None:
    alone, same = runs.made[name]
    first, second = (read_record(run_directory(config)) for config in (alone, same))
    assert first is not None and second is not None
    assert second["result"]["order_hash"] == first["result"]["order_hash"]
    tolerance = BF16_TOLERANCE if name.startswith("bf16") else TOLERANCE
    assert second["result"]["loss"] == pytest.approx(first["result"]["loss"], rel=tolerance)
    rows, others = metrics(alone), metrics(same)
    for (step, kind), row in rows.items():
        value = "train_loss" if kind == "train" else "loss_avg"
        assert others[step, kind][value] == pytest.approx(row[value], rel=tolerance), (step, value)


def test_every_run_was_compared(runs: Runs) -> None:
    assert sorted(runs.made) == sorted(NAMES)


def test_on_the_same_ranks_a_stop_changes_no_bit(runs: Runs) -> None:
    one, other = (runs.made[name][1] for name in ("moe fsdp2", "moe two fsdp2, then 2 fsdp2"))
    first, second = (read_record(run_directory(config)) for config in (one, other))
    assert first is not None and second is not None
    assert second["result"] == first["result"]
    assert metrics(other) == metrics(one)


def test_a_finished_run_is_left_alone_by_all_ranks(runs: Runs) -> None:
    _, same = runs.made["early fsdp2"]
    assert [path.name for path in attempts(run_directory(same))] == ["0001"]


def test_some_micro_batches_had_no_image_where_another_rank_had_one(runs: Runs) -> None:
    """Else nothing here would show that ranks keep gathering the same parameters."""
    config = runs.alone["late"]
    rows, n = rows_of(shards_of(config), config), config.trainer.rows_per_step
    counts = [
        [len(part.patches) for part in to_torch(rows.rows_at(step * n, n, rank, 2)).split(config.trainer.micro_batches)]
        for step in range(config.total_steps)
        for rank in range(2)
    ]
    pairs = zip(counts[::2], counts[1::2], strict=True)
    assert any((a == 0) != (b == 0) for first, second in pairs for a, b in zip(first, second, strict=True))


def test_a_signal_to_one_rank_stops_all_and_the_checkpoint_is_that_of_one_process(runs: Runs) -> None:
    """Whole plain tensors under the same names, whoever wrote them."""
    folders = {name: runs.folder / name for name in ("one", "two fsdp2")}
    contents = {}
    for name, folder in folders.items():
        directory = next(folder.iterdir())
        contents[name] = torch.load(dict(checkpoints(directory))[STOP], weights_only=True)
    one, two = contents["one"], contents["two fsdp2"]
    assert {k: (type(v), v.shape) for k, v in one["model"].items()} == {
        k: (type(v), v.shape) for k, v in two["model"].items()
    }
    assert one["optimizer"]["param_groups"] == two["optimizer"]["param_groups"]
    for index, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(two["optimizer"]["state"][index][name], value, rtol=1e-3, atol=1e-9)


def test_evaluations_between_the_steps_are_those_of_one_process(runs: Runs) -> None:
    for name in ("late busy", "moe busy"):
        alone, busy = runs.made[name]
        again = dataclasses.replace(
            alone, out=str(runs.folder / "again"), trainer=dataclasses.replace(alone.trainer, eval_every_steps=4)
        )
        train(again)
        planned = {key: row for key, row in metrics(again).items() if key[1] == "held out"}
        assert sorted(step for step, _ in planned) == [4, 8, 12]
        for key, row in planned.items():
            assert metrics(busy)[key]["loss_avg"] == pytest.approx(row["loss_avg"], rel=TOLERANCE)
        assert status(run_directory(busy)) == "done"


@pytest.mark.slow
def test_compiled_as_well(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Compiled, recomputed and shared out at once; most of the time is the compiler's."""
    compiled = Runs(make_config, tmp_path)
    jobs = [
        Job(compiled.like("moe", "ddp", **TWO_DDP, compile="on")),
        Job(compiled.like("moe", "fsdp2", **TWO_FSDP2, compile="on")),
        Job(compiled.like("moe", "recomputed", **TWO_FSDP2, compile="on", activation_checkpointing=True)),
    ]
    on_ranks(2, jobs, tmp_path)
    train(compiled.alone["moe"])
    for job in jobs:
        record = read_record(run_directory(job.config))
        assert record is not None and record["numerics"]["compiled"]
        for key, row in metrics(compiled.alone["moe"]).items():
            if key[1] == "train":
                assert metrics(job.config)[key]["train_loss"] == pytest.approx(row["train_loss"], rel=TOLERANCE)


@pytest.mark.slow
def test_four_ranks_go_on_where_two_stopped(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """One row a rank; and many parameters have no part for every rank."""
    some = Runs(make_config, tmp_path)
    for name in ("late", "rich"):
        some.alone[name] = dataclasses.replace(
            some.alone[name], trainer=dataclasses.replace(some.alone[name].trainer, micro_batches=1)
        )
    on_ranks(2, [some.stopped(name, "two", **TWO_FSDP2) for name in ("late", "rich")], tmp_path)
    jobs = [some.going_on(name, "two", devices=4, strategy="fsdp2") for name in ("late", "rich")]
    on_ranks(4, jobs, tmp_path)
    for alone, same in some.made.values():
        train(alone)
        assert status(run_directory(same)) == "done"
        for key, row in metrics(alone).items():
            if key[1] == "train":
                assert metrics(same)[key]["train_loss"] == pytest.approx(row["train_loss"], rel=TOLERANCE)
