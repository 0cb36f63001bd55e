"""Guides in processes of their own: the same tokens as in one, and no waiting for a process that is gone.

The other processes are forked from this one, so that they begin at once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from prompts import PROMPTS, loud

from nmm.config import ConfigError, RunConfig
from nmm.generate import Sampling, evaluating, room_after
from nmm.interventions.guide import Guided, continue_guided, guided
from nmm.interventions.guide_ranks import Away, Meeting, meeting, serve
from nmm.interventions.guide_seats import ROLES, RankLost, Seat, first_node, rank_of, seat
from nmm.interventions.guide_vocab import same_vocabulary
from nmm.model.decode import Cached
from nmm.model.fusion import NativeMultimodalModel

Trio = tuple[NativeMultimodalModel, NativeMultimodalModel, NativeMultimodalModel]
CPU = torch.device("cpu")
SAMPLING = Sampling(20, tuple(range(2, 20)), temperature=1.0, seed=5, batch_rows=3)


@pytest.fixture(scope="module")
def trio(make_config: Callable[..., RunConfig]) -> Trio:
    base, expert, amateur = loud(make_config("late", "d32")), loud(make_config("early")), loud(make_config("early"))
    with torch.no_grad():
        amateur.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(6))
    return base, expert, amateur


def helpful(trio: Trio, here: Seat) -> None:
    """What the process of a guide does."""
    models = {role: (model, PROMPTS) for role, model in zip(ROLES, trio[1:], strict=True)}
    with meeting(here, [], 20.0) as met:
        met.connect(CPU)
        serve({role: models[role] for role in ROLES if rank_of(role, here.world) == here.rank}, met.group)


def free_port() -> int:
    """One that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def forked(act: Callable[[Trio, Seat], None], trio: Trio, world: int) -> Iterator[Seat]:
    """The other processes of a generation; gives the seat of rank 0."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=act, args=(trio, Seat(rank, world, rank, port=port)), daemon=True)
        for rank in range(1, world)
    ]
    for other in others:
        other.start()
    try:
        yield Seat(0, world, port=port)
        for other in others:
            other.join(20)
        assert [other.exitcode for other in others] == [0] * len(others)
    finally:
        for other in others:
            other.kill()


def speak(trio: Trio, met: Meeting, world: int) -> list[list[int]]:
    """What rank 0 does."""
    base = trio[0]
    met.connect(CPU)
    guides: dict[str, Away] = {role: met.away(role, trio[1].config, CPU) for role in ROLES}
    vocabulary = same_vocabulary(base.config.data.vocab_size)

    def make(chosen: Sequence[int], steps: int) -> Guided:
        begun = {role: guide.begin(chosen, steps) for role, guide in guides.items()}
        return Guided(Cached(base, [PROMPTS[i] for i in chosen], steps), begun, 0.7, vocabulary, chosen)

    with evaluating(base):
        said = continue_guided(make, room_after(base, PROMPTS), SAMPLING)
    met.release()
    return said


@pytest.mark.parametrize("world", [2, 3])
def test_the_same_tokens_as_in_one_process(trio: Trio, world: int) -> None:
    """Two processes hold a base and both guides, three one model each; rows are dropped on the way."""
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "batch_rows": 3, "stop_ids": SAMPLING.stop_ids}
    expected = guided(*trio, PROMPTS, 0.7, 20, **options)
    with forked(helpful, trio, world) as here, meeting(here, [], 20.0) as met:
        assert speak(trio, met, world) == expected
    assert not dist.is_initialized() and len({len(tokens) for tokens in expected}) > 1


def dying(trio: Trio, here: Seat) -> None:
    """A guide's process that is killed at its first question."""
    with meeting(here, [], 20.0) as met:
        met.connect(CPU)
        os._exit(9)


def failing(trio: Trio, here: Seat) -> None:
    """A guide's process that cannot load its model."""
    with meeting(here, [], 20.0):
        raise ConfigError("the expert's weights are not to be had")


def silent(trio: Trio, here: Seat) -> None:
    """A guide's process that never answers."""
    with meeting(here, [], 20.0) as met:
        met.connect(CPU)
        time.sleep(60)


@pytest.mark.parametrize(
    ("act", "timeout", "message"),
    [
        (dying, 20.0, "the process of rank 1 is lost: it has ended"),
        (failing, 20.0, "rank 1: the expert's weights are not to be had"),
        (silent, 1.5, "the process of rank 1 is lost: it does not answer"),
    ],
)
def test_a_process_that_is_lost_is_named_and_not_waited_for(
    trio: Trio, act: Callable[[Trio, Seat], None], timeout: float, message: str
) -> None:
    with pytest.raises(RankLost, match=message), forked(act, trio, 2) as here, meeting(here, [], timeout) as met:
        speak(trio, met, 2)
    assert not dist.is_initialized()


def test_a_process_that_does_not_come(trio: Trio) -> None:
    lost = pytest.raises(RankLost, match=r"rank 1 was not ready within timeout=0.2 seconds")
    with lost, forked(lambda *_: time.sleep(60), trio, 2) as here, meeting(here, [], 0.2) as met:
        met.connect(CPU)


def test_nobody_to_meet() -> None:
    with socket.socket() as probe:  # bound, but nobody listens
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        lost = pytest.raises(RankLost, match=f"cannot meet at 127.0.0.1:{port}")
        with lost, meeting(Seat(1, 2, 1, port=port), [], 0.5):
            raise AssertionError("nobody was there")


def test_a_guide_notices_that_the_base_is_gone(trio: Trio) -> None:
    """Here the process that was forked has rank 0, and dies."""
    port = free_port()
    base = multiprocessing.get_context("fork").Process(target=dying, args=(trio, Seat(0, 2, port=port)), daemon=True)
    base.start()
    with pytest.raises(RankLost, match="rank 0, which holds the base, is lost: it has ended"):
        helpful(trio, Seat(1, 2, 1, port=port))
    base.join(20)
    assert base.exitcode == 9


# ---------------------------------------------------------------------------------------------------------------------
# seats


def srun(**values: str) -> dict[str, str]:
    """The environment of a task of a step."""
    usual = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "17"}
    return {**usual, "SLURM_PROCID": "2", "SLURM_LOCALID": "2", **values}


def test_who_this_process_is() -> None:
    assert seat(3, {}) == Seat(0, 3) and seat(3, {}).starts_others
    assert seat(3, {"NMM_GUIDE_SEAT": "2:4711"}) == Seat(2, 3, 2, "127.0.0.1", 4711)
    assert seat(3, srun()) == Seat(2, 3, 2, "127.0.0.1", 15_000 + 17 * 37)
    far = srun(SLURM_STEP_NUM_NODES="3", SLURM_STEP_NODELIST="gpu[07-09]", SLURM_LOCALID="0", MASTER_PORT="99")
    assert seat(3, far) == Seat(2, 3, 0, "gpu07", 99)
    assert seat(3, {**far, "MASTER_ADDR": "10.0.0.1"}).address == "10.0.0.1"
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert seat(2, {**torchrun, "MASTER_ADDR": "h", "MASTER_PORT": "99"}) == Seat(1, 2, 1, "h", 100)
    first = seat(3, srun(SLURM_PROCID="0"))
    assert first.rank == 0 and not first.starts_others
    with pytest.raises(ConfigError, match="srun started 4 processes, but processes=3"):
        seat(3, srun(SLURM_STEP_NUM_TASKS="4"))


def test_where_guides_are() -> None:
    assert [rank_of(role, 3) for role in ROLES] == [1, 2] and {rank_of(role, 2) for role in ROLES} == {1}


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("login", "login"),
        ("a1,b2", "a1"),
        ("gpu[07-09,12],x", "gpu07"),
        ("n[3,5]-ib", "n3-ib"),
        ("r1n[10-11]", "r1n10"),
    ],
)
def test_the_first_node_of_a_list(names: str, first: str) -> None:
    assert first_node(names) == first


def test_no_nodes() -> None:
    with pytest.raises(ConfigError, match="export MASTER_ADDR"):
        first_node("")
