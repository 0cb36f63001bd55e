"""Which runs share a task: same level, same resources, mostly the same compiled code, about so many seconds."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nmm.config import RunConfig
from sweeps.manifest import Entry

START_SECONDS = 30.0  # of a task before its first run: interpreter, torch and lightning from a busy shared disk
Chunk = tuple[Entry, ...]


@dataclass(frozen=True, order=True)
class Resources:
    """What one run asks of SLURM: ``devices`` ranks on each of ``nodes``, with ``threads`` cores a rank."""

    nodes: int
    devices: int
    threads: int

    @property
    def ranks(self) -> int:
        """Processes of one run."""
        return self.nodes * self.devices


@dataclass(frozen=True)
class Array:
    """One job array to be: task k runs ``chunks[k]``."""

    resources: Resources
    chunks: tuple[Chunk, ...]

    @property
    def runs(self) -> int:
        """Lines of all tasks."""
        return sum(len(chunk) for chunk in self.chunks)


def resources_of(config: RunConfig) -> Resources:
    """What a run needs, by its config."""
    return Resources(config.trainer.num_nodes, config.trainer.devices, config.trainer.threads)


def pack(
    entries: Sequence[Entry], chunk_seconds: float, useful_seconds: float | None, workers: int, max_tasks: int
) -> list[Array]:
    """Arrays of at most ``max_tasks`` tasks, the longest task first, that cover ``entries`` of one level exactly once.

    A task holds about ``chunk_seconds`` of estimated work for each of its ``workers``, never more than
    ``useful_seconds`` allow unless a single run is longer than that: it is stopped, saves, and comes back.
    """
    room = chunk_seconds if useful_seconds is None else min(chunk_seconds, max(1.0, useful_seconds - START_SECONDS))
    arrays = []
    by_resources: dict[Resources, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_resources[resources_of(entry.config)].append(entry)
    for resources, members in sorted(by_resources.items()):
        chunks = _chunks(members, room * workers)
        count = math.ceil(len(chunks) / max_tasks)
        arrays += [Array(resources, tuple(chunks[part::count])) for part in range(count)]
    return arrays


def seconds_of(chunk: Iterable[Entry]) -> float:
    """Estimated work of a chunk."""
    return sum(entry.estimate.seconds for entry in chunk)


def shares(total: int, arrays: Sequence[Array]) -> list[int]:
    """How many tasks of each array may run at once so that about ``total`` do together; 0, no limit, stays 0."""
    tasks = sum(len(array.chunks) for array in arrays)
    return [max(1, total * len(array.chunks) // tasks) if total else 0 for array in arrays]


def _chunks(entries: Iterable[Entry], room: float) -> list[Chunk]:
    """Each shape by itself first, then what is left over of several together."""
    by_shape: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_shape[entry.shape].append(entry)
    return _merged([chunk for same in by_shape.values() for chunk in _balanced(same, room)], room)


def _balanced(entries: Sequence[Entry], room: float) -> list[Chunk]:
    """As few chunks as hold the lines within ``room`` seconds, about equally long."""
    count = max(1, math.ceil(seconds_of(entries) / room))
    while True:
        chunks = _dealt(entries, min(count, len(entries)))
        if count >= len(entries) or all(len(chunk) == 1 or seconds_of(chunk) <= room for chunk in chunks):
            return chunks
        count += max(1, count // 20)


def _dealt(entries: Sequence[Entry], count: int) -> list[Chunk]:
    """The longest first, each to the chunk that is shortest so far."""
    heap: list[tuple[float, int]] = [(0.0, number) for number in range(count)]
    chunks: list[list[Entry]] = [[] for _ in range(count)]
    for entry in _longest_first(entries):
        seconds, number = heapq.heappop(heap)
        chunks[number].append(entry)
        heapq.heappush(heap, (seconds + entry.estimate.seconds, number))
    return [tuple(chunk) for chunk in chunks]


def _merged(chunks: Sequence[Chunk], room: float) -> list[Chunk]:
    """Short chunks of different shapes put together: a compilation costs less than a task. The longest come first."""
    filled: list[tuple[float, Chunk]] = []
    open_chunks: list[tuple[float, Chunk]] = []
    for chunk in sorted(chunks, key=lambda chunk: (-seconds_of(chunk), chunk[0].run_id)):
        seconds = seconds_of(chunk)
        place = next((i for i, (taken, _) in enumerate(open_chunks) if taken + seconds <= room), None)
        if place is not None:
            taken, held = open_chunks[place]
            open_chunks[place] = (taken + seconds, held + chunk)
        elif seconds > room / 2:
            filled.append((seconds, chunk))
        else:
            open_chunks.append((seconds, chunk))
    return [chunk for _, chunk in sorted([*filled, *open_chunks], key=lambda pair: (-pair[0], pair[1][0].run_id))]


def _longest_first(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (-e.estimate.seconds, e.run_id))
