"""What Lightning's loop and our callbacks add to a step, against a bare loop over the same batches.

    python benchmarks/lightning_overhead.py [--arch early] [--size d128] [--steps 40] [--repeats 7] [--compile]

Bare: ``TrainingModule.training_step`` in a for loop. Whole: ``Trainer.fit`` as a run has it, with order hash, metrics
and stop flag. Both see the same batches in turn, on one thread. Printed are milliseconds a step and the ratio, by
processor time, which a busy machine does not stretch, and by wall time; the least of the repeats, as noise only adds.
"starting" is what a fit costs before its first step, once a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning

from nmm.batch import Batch
from nmm.compose import compose
from nmm.config import RunConfig
from nmm.data.loader import to_torch
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.model.build import build
from nmm.record import Attempt, begin_attempt
from nmm.resolve import finalize
from nmm.training.callbacks import StepBoundary
from nmm.training.checkpoint import TrainingState
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, compile_blocks, prepare_process
from nmm.training.parallel import make_trainer
from nmm.training.run import _quiet, rows_of, shards_of
from nmm.training.stopping import StopFlag

Seconds = tuple[float, float]  # processor, wall


def clocks() -> Seconds:
    """Now: (processor, wall)."""
    return time.process_time(), time.perf_counter()


def since(start: Seconds, end: Seconds | None = None) -> Seconds:
    """Seconds from ``start`` to ``end`` (now)."""
    processor, wall = end or clocks()
    return processor - start[0], wall - start[1]


class Ready:
    """Batches that are already there, as a loader; a list would be one loader each to Lightning."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Steady(lightning.Callback):
    """The clocks when the first step begins and after the last one, all other callbacks included."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.first = clocks()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.last = clocks()


def make_module(config: RunConfig, compiled: bool) -> TrainingModule:
    """The module of a run; compiled blocks share their graphs with those of other modules."""
    module = TrainingModule(config, build(config), Numerics("fp32", compiled))
    if compiled:
        compile_blocks(module.model)
    return module


def bare(module: TrainingModule, batches: list[Batch]) -> Seconds:
    """A loop without Lightning."""
    trainer: Any = SimpleNamespace(world_size=1)
    module._trainer = trainer
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, misc]
    start = clocks()
    for number, batch in enumerate(batches):
        module.training_step(batch, number)
    return since(start)


def whole(module: TrainingModule, batches: list[Batch], attempt: Attempt) -> tuple[Seconds, Seconds]:
    """One fit: its steps, and all of it."""
    config, steady, ignore = module.config, Steady(), lambda values: None
    state = TrainingState(step=module.step)
    boundary = StepBoundary(config, attempt, state, StopFlag(), dict, ignore, lambda cursor: {}, lambda: 1000)
    trainer = make_trainer(config, len(batches), boundary)
    trainer.callbacks.append(steady)
    start = clocks()
    trainer.fit(module, train_dataloaders=Ready(batches))
    return since(steady.first, steady.last), since(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="early")
    parser.add_argument("--size", default="d128")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    prepare_process(1)
    _quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = {"caption": {"train": 400}, "interleaved": {"train": 200}, "text": {"train": 100}}
        write_shards(WorldConfig(), folder / "shards", counts, progress=False)
        settings = [f"arch={arguments.arch}", f"size={arguments.size}", f"data.path={folder / 'shards'}"]
        quiet = ["trainer.progress=false", "trainer.checkpoint_every_seconds=0", f"budget.steps={10**6}"]
        config = finalize(compose([*settings, *quiet]))
        rows, n = rows_of(shards_of(config), config), config.trainer.rows_per_step
        batches = [to_torch(rows.rows_at(step * n, n)) for step in range(arguments.steps)]
        alone, fitted = (make_module(config, arguments.compile) for _ in range(2))
        attempt = begin_attempt(folder)
        bare(alone, batches), whole(fitted, batches, attempt)  # compiles and warms up
        loops, fits, all_of_it = [], [], []
        for _ in range(arguments.repeats):
            loops.append(bare(alone, batches))
            steps, everything = whole(fitted, batches, attempt)
            fits.append(steps)
            all_of_it.append(everything)
    report(arguments, loops, fits, all_of_it)


def report(arguments: argparse.Namespace, loops: list[Seconds], fits: list[Seconds], all_of_it: list[Seconds]) -> None:
    """One line a clock."""
    how = "compiled" if arguments.compile else "eager"
    print(f"{arguments.arch} {arguments.size} {how}, {arguments.steps} steps, least of {arguments.repeats}")
    for i, clock in enumerate(("processor", "wall")):
        loop, fit, everything = (1e3 * min(s[i] for s in times) / arguments.steps for times in (loops, fits, all_of_it))
        starting = (everything - fit) * arguments.steps
        print(
            f"  {clock:9}  bare {loop:7.2f} ms  whole {fit:7.2f} ms  {100 * (fit / loop - 1):+5.1f} %"
            f"  (starting a fit: {starting:.0f} ms)"
        )


if __name__ == "__main__":
    main()
