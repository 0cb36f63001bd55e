"""One guide of a large model, asked for logits now and waited for later: in turn, in a thread, or on a CUDA stream.

Shape legend: B rows, V vocabulary, K rows kept.

The base and its guides read the same token at the same time, and meet when their logits are added up. A guide is
therefore asked before the base computes, and what it answers is a function that waits for the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from nmm.generate import Decoder

Pending: TypeAlias = Callable[[], Tensor]


class Guide(Protocol):
    """Like ``nmm.generate.Decoder``, but for logits that come when they are waited for."""

    def start(self) -> Pending:
        """(B, V) logits after the prompts."""

    def next(self, token_B: Tensor) -> Pending:
        """(B, V) logits after one more token in every row."""

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these rows only."""


class InTurn:
    """Computes when it is waited for, which is after the base."""

    def __init__(self, make: Callable[[], Decoder]) -> None:
        self.decoder = make()

    def start(self) -> Pending:
        return self.decoder.start

    def next(self, token_B: Tensor) -> Pending:
        return partial(self.decoder.next, token_B.to(self.decoder.device))

    def keep(self, rows_K: Tensor) -> None:
        self.decoder.keep(rows_K.to(self.decoder.device))


class InThread(InTurn):
    """Computes in a thread of ``pool`` while the base does; torch holds no interpreter lock inside its operations."""

    def __init__(self, make: Callable[[], Decoder], pool: ThreadPoolExecutor) -> None:
        super().__init__(make)
        self.pool = pool

    def start(self) -> Pending:
        return self.pool.submit(_quietly, self.decoder.start).result

    def next(self, token_B: Tensor) -> Pending:
        return self.pool.submit(_quietly, super().next(token_B)).result


def _quietly(compute: Pending) -> Tensor:
    """Gradients and compilation are switched off thread by thread."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return compute()


class OnStream(InTurn):
    """Queues its kernels on a CUDA stream of its own, where they run beside the base's.

    Everything it allocates is allocated on that stream, so that memory is not given away while it is still read.
    """

    def __init__(self, make: Callable[[], Decoder], device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        with self._queued():
            super().__init__(make)

    def start(self) -> Pending:
        with self._queued():
            return self._waiting(self.decoder.start())

    def next(self, token_B: Tensor) -> Pending:
        with self._queued():
            return self._waiting(super().next(token_B)())

    def keep(self, rows_K: Tensor) -> None:
        with self._queued():
            super().keep(rows_K)

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """After everything that has been queued so far."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield

    def _waiting(self, logits_BV: Tensor) -> Pending:
        def wait() -> Tensor:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            logits_BV.record_stream(current)
            return logits_BV

        return wait
