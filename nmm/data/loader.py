"""Batches for training and evaluation. This is where numpy rows become torch tensors.

The state of training data is one number, the global cursor: rows delivered so far, equal on all ranks. One batch is one
optimizer step; row r of a step goes to rank r mod world. Workers are handed step numbers and hold no state.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nmm.batch import ARRAYS, Batch
from nmm.data.handover import Packed, packed, unpacked
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.data.reading import ShardError
from nmm.data.source import RowSource
from nmm.data.worker_signals import leave_signals_to_parent

WORKER_TIMEOUT_SECONDS = 300
POLL_SECONDS = 5.0


class WorkerLost(ShardError):
    """A data worker died or hung; the shards may well be sound, so the same again can succeed."""


class TrainLoader:
    """One Batch per optimizer step for this rank, in an order that depends on no rank, worker or restart.

    Args:
        rows: Where rows come from.
        rows_per_step: Rows of the global batch, a multiple of ``world``.
        total_steps: The run's length in steps; ``len()`` is this number (see ``__len__``).
        rank, world: This process and how many there are.
        num_workers: Processes that build batches ahead; 0 builds them here, which is fast enough for rendered shards.
        timeout: Seconds to wait for a worker's batch before giving up.

    Iterating raises ShardError when a shard cannot be read, WorkerLost (one too) when a worker dies or hangs.
    """

    def __init__(
        self,
        rows: RowSource,
        rows_per_step: int,
        total_steps: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        timeout: float = WORKER_TIMEOUT_SECONDS,
    ) -> None:
        if rows_per_step < 1 or rows_per_step % world:
            raise ValueError(
                f"rows_per_step={rows_per_step} must be a positive multiple of the world size {world}, so that every "
                f"rank gets as many rows; use e.g. {max(1, round(rows_per_step / world)) * world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} must be in 0..{world - 1}")
        self.rows, self.rows_per_step, self.total_steps = rows, rows_per_step, total_steps
        self.rank, self.world, self.num_workers, self.timeout = rank, world, num_workers, timeout
        self.cursor = 0

    def __len__(self) -> int:
        """Steps of the whole run, not those left: Lightning compares it with a count that goes on after a resume."""
        return self.total_steps

    @property
    def remaining(self) -> int:
        """Steps left from the cursor to the end of the run."""
        return max(0, self.total_steps - self.cursor // self.rows_per_step)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor to the end. The cursor moves when a batch is handed over, not when it is built."""
        for batch in self._batches(range(self.cursor // self.rows_per_step, self.total_steps)):
            if isinstance(batch, ShardError):
                raise batch
            self.cursor += self.rows_per_step
            yield batch

    def _batches(self, steps: range) -> Iterator[Batch | ShardError]:
        dataset = _Steps(self.rows, self.rows_per_step, self.rank, self.world)
        if self.num_workers == 0:
            return map(dataset.batch, steps)
        loader = DataLoader(
            dataset,
            sampler=steps,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_same,  # type: ignore[arg-type]
            timeout=min(POLL_SECONDS, self.timeout),
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator().manual_seed(0),  # a loader without its own would draw from the global generator
        )
        return self._watched(iter(loader))

    def _watched(self, batches: Iterator[Packed | ShardError]) -> Iterator[Batch | ShardError]:
        with worker_errors(self.timeout):
            try:
                for content in self._patient(batches):
                    yield content if isinstance(content, ShardError) else unpacked(content)
            except (ConnectionError, EOFError) as error:  # a worker died while it handed a batch over
                time.sleep(1.0)  # torch's own word on it comes by a signal: here, not in the middle of something else
                raise _no_batch(error, self.timeout) from error

    def _patient(self, batches: Iterator[Packed | ShardError]) -> Iterator[Packed | ShardError]:
        """The same, waiting up to ``timeout`` for each; between its own short waits torch looks for dead workers.

        It learns of them from a signal too, but not any more once Lightning has put the old handlers back after a run.
        """
        while True:
            start = time.monotonic()
            while True:
                try:
                    content = next(batches)
                    break
                except StopIteration:
                    return
                except RuntimeError as error:
                    if "timed out" not in str(error) or time.monotonic() - start >= self.timeout:
                        raise
            yield content

    def state_dict(self, cursor: int | None = None) -> dict[str, Any]:
        """The cursor (or a given one), its stream, and where its window starts, so that going on costs nothing."""
        cursor = self.cursor if cursor is None else cursor
        return {
            "cursor": cursor,
            "rows_per_step": self.rows_per_step,
            "stream": dict(self.rows.stream),
            "anchor": list(self.rows.table.locate(cursor)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. World size and workers may differ; ValueError when the stream or its cutting does."""
        ours, theirs = self.rows.stream, state["stream"]
        differing = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
        if differing:
            lines = [f"  {name}: saved {theirs.get(name)!r}, now {ours.get(name)!r}" for name in differing]
            raise ValueError(
                "the saved position counts rows of another stream of data:\n" + "\n".join(lines) + "\n"
                "Set these back to resume this run, or start a new run."
            )
        if state["cursor"] % self.rows_per_step:
            raise ValueError(
                f"{state['cursor']} rows were delivered, no whole number of steps of rows_per_step="
                f"{self.rows_per_step} (saved with {state['rows_per_step']}): resume with the saved value"
            )
        self.cursor = int(state["cursor"])
        self.rows.table.anchor(*state["anchor"])


@contextlib.contextmanager
def worker_errors(timeout: float = WORKER_TIMEOUT_SECONDS) -> Iterator[None]:
    """Torch's errors about data workers that died or hung become a WorkerLost that says what to do.

    Torch raises the former from a signal handler, at whatever line the training process then is: what iterates a
    TrainLoader with workers belongs inside as a whole.
    """
    try:
        yield
    except RuntimeError as error:
        told: BaseException | None = error
        while told is not None and "DataLoader" not in str(told):
            told = told.__cause__ or told.__context__  # torch's file writer answers it with an error of its own
        if not isinstance(told, RuntimeError):
            raise
        raise _no_batch(told, timeout) from error


def _no_batch(error: Exception, timeout: float) -> WorkerLost:
    return WorkerLost(
        f"a data worker gave no batch ({str(error).strip()}). It was killed, for want of memory perhaps, or a read has "
        f"hung for {timeout:.0f} s. Run again: the run goes on where it was; trainer.num_workers=0 reads in the "
        "training process itself"
    )


def val_batches(
    shards: Shards | IndexedSources,
    source: str,
    split: str,
    rows: int,
    batch_rows: int,
    context_length: int,
    patch_size: int,
) -> list[Batch]:
    """The first ``rows`` packed rows of one source and split, in batches of ``batch_rows`` (the last may be smaller).

    No shuffling of documents and no seed: the same tokens for every run with this context length and patch size. Raises
    ValueError when the split does not fill that many rows.
    """
    if rows < 1 or batch_rows < 1:
        raise ValueError(f"rows={rows} and batch_rows={batch_rows} must be at least 1")
    stream = RowSource(shards, {source: 1.0}, context_length, patch_size, seed=0, split=split, once_in_order=True)
    available = stream.rows_available()
    if rows > available:
        raise ValueError(
            f"{rows} rows were asked for, {source} {split} fills {available} of {context_length} positions: ask for "
            "fewer (data.eval_rows), or hold out more (data.val_fraction; of a rendered source, render a larger split)"
        )
    return [to_torch(stream.rows_at(at, min(batch_rows, rows - at))) for at in range(0, rows, batch_rows)]


def to_torch(batch: Batch) -> Batch:
    """A Batch of numpy arrays as one of torch tensors, without copying."""
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(batch, name))) for name in ARRAYS}
    return Batch(**arrays, skipped=batch.skipped)


class _Steps(Dataset[Packed | ShardError]):
    """Step number -> this rank's rows of it, or why there are none: an error is handed over to be raised where a person
    reads it, not buried under a worker's traceback.
    """

    def __init__(self, rows: RowSource, rows_per_step: int, rank: int, world: int) -> None:
        self.rows, self.rows_per_step, self.rank, self.world = rows, rows_per_step, rank, world

    def __getitem__(self, step: int) -> Packed | ShardError:
        """For another process."""
        try:
            return packed(self._rows_of(step))
        except ShardError as error:
            return error

    def batch(self, step: int) -> Batch | ShardError:
        """For this one."""
        try:
            return to_torch(self._rows_of(step))
        except ShardError as error:
            return error

    def _rows_of(self, step: int) -> Batch:
        return self.rows.rows_at(step * self.rows_per_step, self.rows_per_step, self.rank, self.world)


def _same(content: Packed | ShardError) -> Packed | ShardError:
    return content
