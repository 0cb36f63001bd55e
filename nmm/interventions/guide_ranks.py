"""Guides in processes of their own: tokens go out, logits come back, while the base computes.

Shape legend: B rows, V vocabulary of a guide, K rows kept.

Rank 0 and every guide's process form a process group of their own, so that the two exchanges do not wait for each
other. Numbers about rows travel as int64 on the CPU (gloo), logits in fp32 from the device they were computed on (gloo,
or NCCL between GPUs). Whoever is lost is noticed: the connection breaks, or does not answer within ``timeout`` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import Tensor

from nmm.config import RunConfig
from nmm.generate import Decoder, evaluating
from nmm.interventions.guide_parts import Pending
from nmm.interventions.guide_seats import ROLES, Children, RankLost, Seat, rank_of
from nmm.model.decode import Cached, Prompt
from nmm.model.fusion import NativeMultimodalModel

HEAD = 4  # an order: what to do, for which guide, how many numbers follow, how many tokens at most
READY, FAILED = "ready", "failed"


class Order(IntEnum):
    """What rank 0 can ask of a guide."""

    BEGIN = 0
    NEXT = 1
    KEEP = 2
    END = 3


class Line:
    """The connection of rank 0 with the process of a guide, seen from rank 0."""

    def __init__(self, rank: int, group: dist.ProcessGroup, device: torch.device, check: Callable[[], None]) -> None:
        self.rank, self.group, self.device, self.check = rank, group, device, check

    def order(self, what: Order, role: str, numbers: Sequence[int] = (), steps: int = 0) -> None:
        """Send a head, and the numbers if there are any."""
        with self.watched():
            dist.send(torch.tensor([what, ROLES.index(role), len(numbers), steps]), self.rank, self.group)
            if numbers:
                dist.send(torch.tensor(list(numbers)), self.rank, self.group)

    def answer(self, rows: int, width: int) -> Pending:
        """(B, V) logits that are on their way."""
        logits = torch.empty(rows, width, device=self.device)
        with self.watched():
            work = dist.irecv(logits, self.rank, self.group)

        def wait() -> Tensor:
            assert work is not None
            with self.watched():
                work.wait()
            return logits

        return wait

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say which process is lost, and why, in place of an error of the connection."""
        try:
            yield
        except RuntimeError as error:
            self.check()
            raise RankLost(f"the process of rank {self.rank} is lost: {_why(error)}") from error


class Elsewhere:
    """A guide (``nmm.interventions.guide_parts.Guide``) whose model is in another process."""

    def __init__(self, role: str, line: Line, width: int, chosen: Sequence[int], steps: int) -> None:
        self.role, self.line, self.width, self.rows = role, line, width, len(chosen)
        line.order(Order.BEGIN, role, chosen, steps)
        self.first = line.answer(
            self.rows, width
        )  # at once: a process with two guides sends one answer after the other

    def start(self) -> Pending:
        return self.first

    def next(self, token_B: Tensor) -> Pending:
        self.line.order(Order.NEXT, self.role, token_B.tolist())
        return self.line.answer(self.rows, self.width)

    def keep(self, rows_K: Tensor) -> None:
        self.rows = len(rows_K)
        self.line.order(Order.KEEP, self.role, rows_K.tolist())


@dataclass(frozen=True)
class Away:
    """What stands on rank 0 for a guide in another process: its config, and the connection."""

    config: RunConfig
    role: str
    line: Line

    def begin(self, chosen: Sequence[int], steps: int) -> Elsewhere:
        """The guide of prompts that are decoded together."""
        return Elsewhere(self.role, self.line, self.config.data.vocab_size, chosen, steps)


def serve(models: Mapping[str, tuple[NativeMultimodalModel, Sequence[Prompt]]], group: dist.ProcessGroup) -> None:
    """Answer rank 0 until it has no more questions. ``models``: of every guide here, with the prompts it reads.

    Raises RankLost when rank 0 is gone.
    """
    decoders: dict[str, Decoder] = {}
    with evaluating(*(model for model, _ in models.values())):
        while True:
            what, number, count, steps = _received(HEAD, group)
            role = ROLES[number]
            numbers = _received(count, group) if count else []
            match what:
                case Order.BEGIN:
                    model, prompts = models[role]
                    decoders[role] = Cached(model, [prompts[i] for i in numbers], steps)
                    _send(decoders[role].start(), group)
                case Order.NEXT:
                    _send(decoders[role].next(torch.tensor(numbers, device=decoders[role].device)), group)
                case Order.KEEP:
                    decoders[role].keep(torch.tensor(numbers, device=decoders[role].device))
                case _:
                    return


def _why(error: RuntimeError) -> str:
    """An error of a connection in our words, as far as it is known."""
    text = str(error).splitlines()[0]
    if "closed by peer" in text or "reset by peer" in text:
        return "it has ended"
    if "timed out" in text.lower():
        return "it does not answer; if it only needs longer, give a greater timeout=SECONDS"
    return text


def _received(count: int, group: dist.ProcessGroup) -> list[int]:
    numbers = torch.empty(count, dtype=torch.int64)
    try:
        dist.recv(numbers, 0, group)
    except RuntimeError as error:
        raise RankLost(f"rank 0, which holds the base, is lost: {_why(error)}") from error
    received: list[int] = numbers.tolist()
    return received


def _send(logits_BV: Tensor, group: dist.ProcessGroup) -> None:
    try:
        dist.send(logits_BV.float().contiguous(), 0, group)
    except RuntimeError as error:
        raise RankLost(f"rank 0, which holds the base, is lost: {_why(error)}") from error


# ---------------------------------------------------------------------------------------------------------------------
# meeting


@contextmanager
def meeting(seat: Seat, arguments: Sequence[str], timeout: float) -> Iterator[Meeting]:
    """The processes of one generation, connected once all of them are ready; started by hand, rank 0 starts the others.

    Raises RankLost when one of them does not come, with its own words.
    """
    patience = timedelta(seconds=timeout)
    try:
        store = dist.TCPStore(seat.address, seat.port, seat.world, seat.rank == 0, patience, wait_for_workers=False)
    except RuntimeError as error:
        raise RankLost(
            f"the processes cannot meet at {seat.address}:{seat.port} ({str(error).splitlines()[0]}); set MASTER_ADDR "
            "and MASTER_PORT where a name or a port is not to be had"
        ) from error
    with Children() as children:
        if seat.starts_others:
            children.start(arguments, seat.world, store.port)
        here = Meeting(seat, store, children, timeout)
        try:
            yield here
        except BaseException as error:
            here.give_up(error)
            raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


class Meeting:
    """Who is there: ``connect`` once everything is loaded, then ``lines`` (rank 0) or ``group`` (the others)."""

    def __init__(self, seat: Seat, store: dist.TCPStore, children: Children, timeout: float) -> None:
        self.seat, self.store, self.children, self.timeout = seat, store, children, timeout
        self.groups: dict[int, dist.ProcessGroup] = {}

    def connect(self, device: torch.device) -> None:
        """Wait until every process is ready, then join them; ``device`` is where this one computes."""
        self.store.set(f"{READY}{self.seat.rank}", "")
        deadline = time.monotonic() + self.timeout
        for rank in range(self.seat.world):
            while not self.known(f"{READY}{rank}"):
                self.check()
                if time.monotonic() > deadline:
                    raise RankLost(f"rank {rank} was not ready within timeout={self.timeout:g} seconds")
                time.sleep(0.02)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=self.store,
            rank=self.seat.rank,
            world_size=self.seat.world,
            timeout=timedelta(seconds=self.timeout),
        )
        for rank in range(1, self.seat.world):  # every process makes all groups, in one order
            group = dist.new_group([0, rank], timeout=timedelta(seconds=self.timeout))
            if isinstance(group, dist.ProcessGroup):  # else this process has no part in it
                self.groups[rank] = group

    def away(self, role: str, config: RunConfig, device: torch.device) -> Away:
        """On rank 0: what stands for a guide."""
        rank = rank_of(role, self.seat.world)
        return Away(config, role, Line(rank, self.groups[rank], device, self.check))

    @property
    def group(self) -> dist.ProcessGroup:
        """Of rank 0 and this process."""
        return self.groups[self.seat.rank]

    def release(self) -> None:
        """On rank 0: tell the others that there are no more questions."""
        for rank, group in self.groups.items():
            Line(rank, group, torch.device("cpu"), self.check).order(Order.END, ROLES[0])

    def known(self, key: str) -> bool:
        """Whether some process has set it. Raises RankLost when rank 0, which keeps them all, is gone."""
        try:
            return bool(self.store.check([key]))
        except RuntimeError as error:
            raise RankLost("rank 0, which holds the base, is gone") from error

    def check(self) -> None:
        """Raise RankLost for a process that has failed, with what it said."""
        for rank in range(self.seat.world):
            if rank != self.seat.rank and self.known(f"{FAILED}{rank}"):
                raise RankLost(f"rank {rank}: {self.store.get(f'{FAILED}{rank}').decode()}")
        self.children.check()

    def give_up(self, error: BaseException) -> None:
        """Let the others know why."""
        try:
            self.store.set(f"{FAILED}{self.seat.rank}", f"{error}" or type(error).__name__)
        except RuntimeError as lost:
            error.add_note(f"the other processes could not be told: {lost}")
