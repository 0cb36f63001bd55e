"""What a run will cost before it has run: FLOPs exactly, seconds and memory by a small model that records improve.

seconds = setup + steps x (overhead + FLOPs / rate) + one evaluation. The constants fit compiled fp32 steps of 512
tokens of the demo on one CPU core (early fusion: 66k, 42k and 25k tokens/s at widths 32, 48 and 64). Every finished run
replaces them by what was observed: its own tokens/s for its (arch, size), and the median ratio to the model for shapes
not seen yet.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.config import RunConfig
from nmm.flops import training_flops
from nmm.memory import training_memory
from nmm.record import RecordError, read_record
from sweeps.manifest import Entry, Estimate

SETUP_SECONDS = 1.0  # build, open the shards, load the parent, checkpoint, publish
STEP_SECONDS = 0.005  # Python, loader and optimizer around one step, whatever the width
FLOPS_PER_SECOND = 55e9  # of one core
SIDEWAYS = 1.4  # a vision encoder or experts: more and smaller products for the same FLOPs
RENDERED_SOURCES = 3  # all of them are evaluated, whatever the mixture
PROCESS_BYTES = 1.2e9  # interpreter, torch, lightning and the compiler

Shape = tuple[str, str]


@dataclass(frozen=True)
class Speeds:
    """Observed training tokens/s by (arch, size), and observed over modelled speed for the shapes without a record."""

    observed: dict[Shape, float] = field(default_factory=dict)
    ratio: float = 1.0

    def tokens_per_second(self, config: RunConfig) -> float:
        """Training speed of one worker."""
        known = self.observed.get((config.arch.name, config.size.name))
        return known if known is not None else modelled_speed(config) * self.ratio


def own_steps(config: RunConfig) -> int:
    """Steps this line executes: a branch does not repeat its trunk's."""
    return config.total_steps - config.parent.step


def own_tokens(config: RunConfig) -> int:
    """Positions this line trains on."""
    return own_steps(config) * config.tokens_per_step


def modelled_speed(config: RunConfig) -> float:
    """Training tokens/s by the model above, ``trainer.threads`` cores counted."""
    flops = training_flops(config, config.tokens_per_step)["total"]
    slower = SIDEWAYS if config.arch.fusion == "late" or config.arch.num_experts else 1.0
    return config.tokens_per_step / slower / (STEP_SECONDS + flops / (FLOPS_PER_SECOND * config.trainer.threads))


def observe(records: Iterable[dict[str, Any]], configs: Sequence[RunConfig]) -> Speeds:
    """Speeds from published records; only shapes that occur in ``configs`` count."""
    seen: dict[Shape, list[float]] = defaultdict(list)
    for record in records:
        if record.get("tokens_per_second"):
            seen[record["arch"], record["size"]].append(float(record["tokens_per_second"]))
    by_shape = {(config.arch.name, config.size.name): config for config in configs}
    observed = {shape: statistics.median(values) for shape, values in seen.items() if shape in by_shape}
    ratios = [speed / modelled_speed(by_shape[shape]) for shape, speed in observed.items()]
    return Speeds(observed, statistics.median(ratios) if ratios else 1.0)


def published(directory: Path) -> list[dict[str, Any]]:
    """The readable records under a sweep directory; ``status`` is where unreadable ones are reported."""
    found = []
    for path in sorted(directory.glob("*/record.json")):
        try:
            record = read_record(path.parent)
        except RecordError:
            continue  # a damaged record must not stop a plan; it only lends no speed to the estimate
        if record is not None:
            found.append(record)
    return found


def estimate(config: RunConfig, speeds: Speeds) -> Estimate:
    """FLOPs, seconds and bytes of executing this one line."""
    sources = len(config.data.sources) or RENDERED_SOURCES
    evaluated = sources * config.data.eval_rows * config.data.context_length / 3  # forward: a third of a training step
    seconds = SETUP_SECONDS + (own_tokens(config) + evaluated) / speeds.tokens_per_second(config)
    flops = training_flops(config, own_tokens(config))["total"]
    return Estimate(flops=flops, seconds=round(seconds, 3), memory_bytes=float(memory_bytes(config)))


def memory_bytes(config: RunConfig) -> int:
    """Of one rank: the process, and training as ``nmm.memory`` estimates it."""
    trainer = config.trainer
    memory = training_memory(config, trainer.world_size, trainer.strategy, trainer.activation_checkpointing)
    return round(memory.total + PROCESS_BYTES)


def stand_alone_flops(entries: Sequence[Entry]) -> float:
    """What the same points cost without shared trunks: every branch (or plain run) trained from step 0."""
    points = [e.config for e in entries if e.role != "trunk"]
    return sum(training_flops(c, c.total_steps * c.tokens_per_step)["total"] for c in points)


def wall_seconds(entries: Sequence[Entry], workers: int) -> float:
    """Time on ``workers`` workers: work shared evenly, but at least the longest trunk and branch in a row."""
    total = sum(entry.estimate.seconds for entry in entries)
    trunks = {entry.run_id: entry.estimate.seconds for entry in entries}
    chains = [trunks.get(entry.parent_id, 0.0) + entry.estimate.seconds for entry in entries]
    return max([total / max(1, workers), *chains])
