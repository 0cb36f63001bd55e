"""One run from config to record. Running a finished or half-finished run again is always safe."""

from __future__ import annotations

import functools
import logging
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from nmm.batch import SOURCES, Batch
from nmm.config import RunConfig, identity, to_dict
from nmm.config import run_id as make_run_id
from nmm.data.index import Shards, open_shards
from nmm.data.loader import TrainLoader, val_batches
from nmm.data.source import RowSource
from nmm.evaluate import evaluate
from nmm.model.build import build
from nmm.record import Attempt, RecordError, begin_attempt, publish, read_record, write_config
from nmm.training import checkpoint
from nmm.training.callbacks import Diverged, Interrupted, StepBoundary, StopFlag, flat, wandb_mirror
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, choose, compile_blocks, prepare_process
from nmm.training.outcome import make_record, weights_digest
from nmm.training.parallel import is_main, make_trainer

EVAL_BATCH_ROWS = 16


def execute(config: RunConfig, directory: Path) -> dict[str, Any]:
    """Train ``config`` in ``directory`` (the run directory, named by the run id) and return the published record.

    A finished run returns its record at once. A half-finished one goes on from its newest valid checkpoint, a branch
    without one from its trunk's. Raises ``Interrupted`` when a signal stopped it, and whatever error ended it.
    """
    done = read_record(directory)
    if done is not None:
        return done
    _quiet()
    prepare_process(config.trainer.threads)
    attempt = None
    if is_main():
        write_config(directory, {"run_id": make_run_id(config), "identity": identity(config), "settings": to_dict(config)})
        attempt = begin_attempt(directory)
    try:
        record = _run(config, directory, attempt)
    except BaseException as error:
        if attempt is not None:
            attempt.end("interrupted" if isinstance(error, Interrupted) else "failed", traceback.format_exc())
        raise
    if attempt is not None:
        attempt.end(record["status"])
    return record


def _run(config: RunConfig, directory: Path, attempt: Attempt | None) -> dict[str, Any]:
    shards = shards_of(config)
    rows = rows_of(shards, config)
    start = checkpoint.starting_point(directory, config)
    content = checkpoint.load(start, config) if start is not None else None
    numerics = Numerics(**content["numerics"]) if content else choose(config)
    module = TrainingModule(config, build(config), numerics)
    state = checkpoint.restore(module, content) if content else checkpoint.TrainingState()
    begun, began_at = state.step, time.monotonic()
    try:
        _train(config, module, state, rows, attempt, shards)
        status, result = "done", {}
    except Diverged as error:
        status, result = "diverged", {"error": str(error), "step": module.step}
    timing = {"seconds": time.monotonic() - began_at, "steps": module.step - begun}
    if attempt is None:
        return {"status": status}
    if status == "done":
        result = _evaluate(config, module, shards)
        attempt.log_metrics({"step": module.step, **flat(result)})
    result |= {"order_hash": state.order_hash, "weights_sha256": weights_digest(module.model)}
    return publish(directory, attempt, make_record(config, directory, rows, numerics, status, result, timing))


def _train(
    config: RunConfig, module: TrainingModule, state: checkpoint.TrainingState, rows: RowSource, attempt: Attempt | None, shards: Shards
) -> None:
    """The steps from ``state`` to the end of the run."""
    remaining = config.total_steps - state.step
    if not remaining:
        return
    if module.numerics.compiled:
        compile_blocks(module.model)
    flag = StopFlag()
    folder = str(attempt.path) if attempt is not None else "."
    with wandb_mirror(config, make_run_id(config), folder) as mirror, flag.listening():
        boundary = StepBoundary(config, attempt, state, flag, lambda: _evaluate(config, module, shards), mirror)
        trainer = make_trainer(config, remaining, boundary)
        loader = TrainLoader(
            rows, config.trainer.rows_per_step, config.total_steps, trainer.global_rank, trainer.world_size, config.trainer.num_workers
        )
        loader.cursor = state.cursor
        trainer.fit(module, train_dataloaders=loader)
    if module.step != config.total_steps:
        raise RecordError(
            f"training ended at step {module.step} of {config.total_steps} without saying why; this is a bug in nmm, "
            "the checkpoints are kept"
        )


def _evaluate(config: RunConfig, module: TrainingModule, shards: Shards) -> dict[str, Any]:
    batches = validation(str(shards.root), config.data.eval_rows, config.data.context_length, config.data.patch_size)
    device = next(module.model.parameters()).device
    batches = {source: [b.to(device) for b in parts] for source, parts in batches.items()}
    return evaluate(module.model, batches, config.data.mixture)


@functools.lru_cache(maxsize=4)
def validation(path: str, rows: int, context_length: int, patch_size: int) -> dict[str, list[Batch]]:
    """The held-out rows of every source: the same tokens for every run, kept for the life of the process."""
    shards = open_shards(path)
    return {
        source: val_batches(shards, source, "val", rows, EVAL_BATCH_ROWS, context_length, patch_size)
        for source in SOURCES
        if source in shards.sources
    }


def shards_of(config: RunConfig) -> Shards:
    """Open the run's shards; refused when they are not the ones the run was planned with."""
    shards = _opened(config.data.path)
    if shards.fingerprint != config.data.fingerprint:
        raise RecordError(
            f"data.path={config.data.path} now holds shards {shards.fingerprint[:12]}, the run was made for "
            f"{config.data.fingerprint[:12]}; point it at the old shards or plan the runs again"
        )
    return shards


@functools.lru_cache(maxsize=4)
def _opened(path: str) -> Shards:
    return open_shards(path)


def rows_of(shards: Shards, config: RunConfig) -> RowSource:
    """The training rows of a config."""
    data = config.data
    return RowSource(shards, data.mixture, data.context_length, data.patch_size, config.seed)


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
