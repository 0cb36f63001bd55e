"""Documents that could not be read: counted by source and reason, alike on every rank, and too many end the run.

Counts are {source: {reason: {"samples", "text_tokens", "image_tokens", "targets"}}}. They are part of the training
state, so a run that was stopped and went on counts what an uninterrupted one counts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch.distributed as dist

from nmm.batch import Batch, Skipped
from nmm.config import RunConfig
from nmm.data.reading import ShardError

COUNTED = ("text_tokens", "image_tokens", "targets")
Counts = Mapping[str, Mapping[str, Mapping[str, int]]]


def add_skipped(counts: Counts, skipped: Iterable[Skipped]) -> dict[str, Any]:
    """New counts that include ``skipped``."""
    new: dict[str, Any] = copy.deepcopy(dict(counts))
    for one in skipped:
        row = new.setdefault(one.source, {}).setdefault(one.reason, dict.fromkeys(("samples", *COUNTED), 0))
        for name in ("samples", *COUNTED):
            row[name] += getattr(one, name)
    return new


def total_skipped(counts: Counts, name: str, source: str | None = None) -> int:
    """Sum of one number over all reasons, of one source or of all."""
    chosen = counts if source is None else {source: counts.get(source, {})}
    return sum(row[name] for reasons in chosen.values() for row in reasons.values())


def of_all_ranks(skipped: tuple[Skipped, ...], world: int) -> list[Skipped]:
    """Every rank's, in the order of ranks. All ranks must call it."""
    if world == 1:
        return list(skipped)
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, skipped)
    return [Skipped(*one) for part in parts for one in part]


def check_skipped(config: RunConfig, counts: Counts, planned: int, last: Skipped) -> None:
    """Raise ShardError when more than ``data.max_skipped`` of the run's ``planned`` samples could not be read."""
    _check(config, counts, planned, last, "the run's")


def check_held_out(config: RunConfig, batches: Iterable[Batch]) -> None:
    """The same limit for the samples that a run is judged by. Raises ShardError."""
    batches = list(batches)
    skipped = [one for batch in batches for one in batch.skipped]
    if skipped:
        read = sum(int(((batch.position == 0) & (batch.document >= 0)).sum()) for batch in batches)
        _check(config, add_skipped({}, skipped), len(skipped) + read, skipped[-1], "the held-out")


def _check(config: RunConfig, counts: Counts, planned: int, last: Skipped, whose: str) -> None:
    allowed = math.ceil(config.data.max_skipped * planned)
    found = total_skipped(counts, "samples")
    if found > allowed:
        reasons = {f"{source} {reason}": row["samples"] for source, by in counts.items() for reason, row in by.items()}
        raise ShardError(
            f"{found} samples could not be read ({reasons}), data.max_skipped={config.data.max_skipped} allows "
            f"{allowed} of {whose} {planned}; the last was {last.sample}. `nmm index --decode` finds them "
            "beforehand; with a larger data.max_skipped the run goes on where it was"
        )
