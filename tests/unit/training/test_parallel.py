"""Who a process is, whether the right ranks were started, and what Lightning is told about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from nmm.config import ConfigError, RunConfig
from nmm.training import parallel
from nmm.training.parallel import describe_ranks, device_of, environment, from_main, join, on_main
from nmm.training.ranks import Place, check_ranks, place

MakeConfig = Callable[..., RunConfig]

SRUN = {
    "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Place()),
        ({"LOCAL_RANK": "2", "WORLD_SIZE": "4"}, Place("self", 2, 2)),
        (SRUN, Place("srun", 3, 1, world=4, nodes=2)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}, Place("srun", 3, 1, world=2, nodes=1)),
        ({**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Place()),  # srun --pty bash
        ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}, Place()),  # a batch script of a job of four tasks
        (TORCHRUN, Place("torchrun", 5, 1, world=6, nodes=3)),
        ({**SRUN, **TORCHRUN}, Place("torchrun", 5, 1, world=6, nodes=3)),  # torchrun, started on every node by srun
    ],
)
def test_where_a_process_stands(environ: dict[str, str], expected: Place) -> None:
    assert place(environ) == expected


def on(config: RunConfig, devices: int, nodes: int = 1, **trainer: Any) -> RunConfig:
    changed = dataclasses.replace(config.trainer, devices=devices, num_nodes=nodes, **trainer)
    return dataclasses.replace(config, trainer=changed)


@pytest.mark.parametrize(
    ("devices", "nodes", "here"),
    [
        (1, 1, Place()),
        (8, 1, Place()),
        (2, 2, Place("srun", 3, 1, world=4, nodes=2)),
        (2, 3, Place("torchrun", 5, 1, world=6, nodes=3)),
    ],
)
def test_the_right_ranks(make_config: MakeConfig, devices: int, nodes: int, here: Place) -> None:
    check_ranks(on(make_config(), devices, nodes), here)


@pytest.mark.parametrize(
    ("devices", "nodes", "here", "message"),
    [
        (1, 2, Place(), "cannot start ranks on other nodes.*with srun .*or torchrun, or give trainer.num_nodes=1"),
        (1, 1, Place("srun", 0, 0, 4, 2), "srun started 4 processes on 2 nodes.*give trainer.devices=2 trainer.num_no"),
        (4, 1, Place("srun", 0, 0, 4, 2), "asks for 4 on each of 1; give trainer.devices=2 trainer.num_nodes=2"),
        (2, 2, Place("srun", 2, 2, 4, 2), "srun started 4 processes on 2 nodes"),  # three on one node, one on the other
        (2, 2, Place("srun", 0, 0, 3, 2), "srun started 3 processes on 2 nodes.*even them out, or start as many"),
        (2, 1, Place("torchrun", 0, 0, 1, 1), "torchrun started 1 processes on 1 nodes"),
    ],
)
def test_other_ranks_are_refused(make_config: MakeConfig, devices: int, nodes: int, here: Place, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_ranks(on(make_config(), devices, nodes), here)


@pytest.mark.parametrize(
    ("environ", "devices", "nodes", "kind", "rank"),
    [
        ({}, 2, 1, LightningEnvironment, 0),
        (SRUN, 2, 2, SLURMEnvironment, 3),
        (TORCHRUN, 2, 3, TorchElasticEnvironment, 5),
    ],
)
def test_what_lightning_is_told(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    devices: int,
    nodes: int,
    kind: type,
    rank: int,
) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # so that it is put back afterwards
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    told = environment(on(make_config(), devices, nodes))
    assert isinstance(told, kind)
    assert told.global_rank() == rank
    assert not getattr(told, "auto_requeue", False)  # Lightning must not save in its signal handler
    told.validate_settings(devices, nodes)


@pytest.mark.parametrize(("set_by_hand", "meeting"), [(None, "127.0.0.1"), ("localhost", "localhost")])
def test_ranks_of_one_node_meet_without_a_name_server(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, set_by_hand: str | None, meeting: str
) -> None:
    one_node = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    for name, value in (SRUN | one_node | {"MASTER_ADDR": "", "SLURM_NTASKS_PER_NODE": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR")
    if set_by_hand:
        monkeypatch.setenv("MASTER_ADDR", set_by_hand)
    assert environment(on(make_config(), 2, 1)).main_address == meeting


def test_a_meeting_place_that_nobody_can_look_up(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"MASTER_ADDR": "no.such.host.invalid", "SLURM_NTASKS_PER_NODE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"meet at no\.such\.host\.invalid, .*; export MASTER_ADDR=ADDRESS"):
        environment(on(make_config(), 2, 2))


def test_alone_nothing_is_joined_and_rank_0_decides(make_config: MakeConfig) -> None:
    config = make_config()
    join(config)
    assert not parallel.dist.is_initialized()
    assert on_main(lambda: 3) == from_main(lambda: 3) == 3
    with pytest.raises(ValueError, match="as it was"):
        on_main(lambda: int("as it was"))
    assert describe_ranks(config) == "1 rank"
    assert describe_ranks(on(config, 2, 2, strategy="fsdp2")) == "4 ranks on 2 nodes, fsdp2, started by self"


def test_gpus_that_are_not_there(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.torch.cuda, "device_count", lambda: 1)
    join(on(make_config(), 1, accelerator="gpu"))
    with pytest.raises(ConfigError, match="gpu with trainer.devices=2, but this process sees 1 GPUs; give fewer dev"):
        join(on(make_config(), 2, accelerator="gpu"))


def test_where_a_rank_computes(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(device_of(on(make_config(), 2, accelerator="gpu"))) == "cuda:1"
    assert str(device_of(on(make_config(), 2))) == "cpu"


@pytest.mark.parametrize(
    ("arch", "changes", "looks_for_unused"),
    [
        ("late", {}, False),
        ("moe", {}, False),
        ("early", {"data": {"mixture": {"text": 1.0, "caption": 0.0}}}, True),
        ("late", {"arch": {"vision_model": "test_vit", "pairing": "none"}, "data": {"patch_size": 16}}, True),
    ],
)
def test_ddp_looks_for_unused_parameters_only_where_there_may_be_some(
    make_config: MakeConfig, arch: str, changes: dict[str, Any], looks_for_unused: bool
) -> None:
    strategy = parallel._strategy(on(make_config(arch, **changes), 2))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] is looks_for_unused


def test_fsdp2_shares_over_all_ranks(make_config: MakeConfig) -> None:
    strategy = parallel._strategy(on(make_config(), 2, 2, strategy="fsdp2"))
    assert isinstance(strategy, ModelParallelStrategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (4, 1)
