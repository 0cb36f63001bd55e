"""One run from config to record. Running a finished or half-finished run again is always safe."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import logging
import os
import platform
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch

from nmm import __version__
from nmm.batch import Batch
from nmm.bridge import Test
from nmm.config import ConfigError, RunConfig, canonical_json, identity, to_dict
from nmm.config import run_id as make_run_id
from nmm.data.indexed import IndexedSources
from nmm.data.loader import TrainLoader, val_batches, worker_errors
from nmm.data.manifest import Shards
from nmm.data.opening import open_data, row_source
from nmm.data.shares import token_weights
from nmm.data.source import RowSource
from nmm.evaluate import evaluate
from nmm.groups import Data
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.record import DISK_ERRNOS, Attempt, DiskError, RecordError, begin_attempt, publish, read_record, write_config
from nmm.sft import Exam
from nmm.start import initial_model
from nmm.training import checkpoint
from nmm.training.callbacks import StepBoundary, flat, wandb_mirror
from nmm.training.exams import exam_of, grades, weight_facts
from nmm.training.failure import ChangedData, cause_of
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, choose, compile_blocks, prepare_process, recompute_blocks
from nmm.training.outcome import make_record, weights_digest
from nmm.training.parallel import describe_ranks, device_of, from_main, join, make_trainer, on_main
from nmm.training.preflight import check_room
from nmm.training.ranks import rank
from nmm.training.sharding import shard, unsharded
from nmm.training.skipped import add_skipped, check_held_out
from nmm.training.stopping import Diverged, Interrupted, StopFlag, Stoppable

EVAL_BATCH_ROWS = 16
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# config, run directory, attempt (None on ranks above 0), stop flag -> the published record
Work: TypeAlias = Callable[[RunConfig, Path, Attempt | None, StopFlag], dict[str, Any]]


def execute(config: RunConfig, directory: Path, work: Work | None = None) -> dict[str, Any]:
    """Train ``config`` in ``directory`` (the run directory, named by the run id) and return the published record.

    ``work`` does it; None: this module, which knows all stages but rft.

    A finished run returns its record at once. A half-finished one goes on from its newest valid checkpoint, a branch
    without one from its trunk's. Raises ``Interrupted`` when a signal stopped it, ``DiskError`` when nothing can be
    written, and whatever error ended it.
    """
    if config.stage.name == "rft" and work is None:
        raise ConfigError(f"{directory} is a run of stage rft: go on with it by the `nmm rft` command that began it")
    _quiet()
    prepare_process(config.trainer.threads)
    join(config)
    flag = StopFlag()
    with flag.listening():  # from here on a signal ends an attempt in order; before, there is none to end
        done = from_main(lambda: read_record(directory))
        return done if done is not None else _attempt(config, directory, flag, work or _run)


def _attempt(config: RunConfig, directory: Path, flag: StopFlag, work: Work) -> dict[str, Any]:
    """Begin, run, and say how it ended, whatever happens."""
    attempt = on_main(lambda: _open_attempt(config, directory))
    try:
        record = work(config, directory, attempt, flag)
    except BaseException as error:
        if attempt is not None:
            _end(attempt, error)
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskError(
                f"{directory}: {error.strerror}. What was saved before is whole: make room and run again"
            ) from error
        raise
    if attempt is not None:
        attempt.end(record["status"], cause="nan" if record["status"] == "diverged" else "")
    return record


def _end(attempt: Attempt, error: BaseException) -> None:
    stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
    try:
        attempt.end(
            "interrupted" if stopped else "failed",
            "".join(traceback.format_exception(error)),
            "" if stopped else cause_of(error),
        )
    except OSError as second:  # it must not hide the first
        error.add_note(f"{attempt.path} could not say so in ended.json: {second}")


def _open_attempt(config: RunConfig, directory: Path) -> Attempt:
    values = {"run_id": make_run_id(config), "identity": identity(config), "settings": to_dict(config)}
    try:
        write_config(directory, values)
        return begin_attempt(directory)
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise DiskError(
            f"{directory} cannot be written ({error.strerror}: {error.filename or 'a file in it'}); make room, make it "
            "writable for this user, or give the run another directory with out="
        ) from error


def _run(config: RunConfig, directory: Path, attempt: Attempt | None, flag: StopFlag) -> dict[str, Any]:
    on_main(lambda: check_room(config, directory))
    shards = shards_of(config)
    on_main(lambda: _check_validation(config))  # too few held-out rows are better reported before the first step
    exam = on_main(lambda: exam_of(config, shards))
    rows = rows_of(shards, config)
    if config.trainer.world_size == 1:  # several ranks must stop together: before the first step
        flag.check(0)
    module, state = begin(config, directory, attempt)
    begun, began_at = state.step, time.monotonic()
    with wandb_mirror(config, attempt.path if attempt is not None else None) as mirror:
        try:
            _train(config, module, state, rows, attempt, mirror, flag, exam)
            status, result = "done", {}
        except Diverged as error:
            status, result = "diverged", {"error": str(error), "cause": error.cause, "step": error.step}
        timing = {"seconds": time.monotonic() - began_at, "steps": module.step - begun}
        model = unsharded(module.model, device_of(config))
        if attempt is None or model is None:
            return {"status": status}
        if status == "done":
            result = _evaluate(config, model, flag, module.step)
            result |= grades(config, model, exam, flag, module.step) if exam is not None else {}
            final = {"step": module.step, **flat(result)}
            attempt.log_metrics(final)
            mirror(final)
            result |= weight_facts(model, exam)
    result |= {"order_hash": state.order_hash, "weights_sha256": weights_digest(model)}
    result |= {"skipped_steps": module.guard.skipped, "skipped_samples": _skipped(config, state)}
    record = make_record(config, directory, rows, module.numerics, status, result, timing, state.code_history)
    return publish(directory, attempt, record)


def begin(
    config: RunConfig, directory: Path, attempt: Attempt | None
) -> tuple[TrainingModule, checkpoint.TrainingState]:
    """Model, optimizer and state at step 0, or as the newest checkpoint has them."""
    say = attempt.log if attempt is not None else None
    start, chosen = from_main(lambda: (checkpoint.starting_point(directory, config, say), choose(config)))
    content = checkpoint.load(start, config, say) if start is not None else None
    numerics = Numerics(**content["numerics"]) if content else chosen
    model = initial_model(config) if content is None else build(config)
    if config.trainer.world_size > 1 and config.trainer.strategy == "fsdp2":
        shard(model, device_of(config), numerics.precision)
    module = TrainingModule(config, model, numerics)
    state = checkpoint.restore(module, content) if content else checkpoint.TrainingState()
    if attempt is not None:
        speed = "compiled" if numerics.compiled else "eager"
        attempt.log(f"nmm {__version__}, torch {torch.__version__}, process {os.getpid()} on {platform.node()}")
        attempt.log(f"from {start or 'initial weights'} at step {state.step} of {config.total_steps}")
        attempt.log(f"{numerics.precision}, {speed}, {config.trainer.threads} threads, {describe_ranks(config)}")
    return module, state


def _train(
    config: RunConfig,
    module: TrainingModule,
    state: checkpoint.TrainingState,
    rows: RowSource,
    attempt: Attempt | None,
    mirror: Callable[[dict[str, Any]], None],
    flag: StopFlag,
    exam: Exam | Test | None,
) -> None:
    """The steps from ``state`` to the end of the run."""
    remaining = config.total_steps - state.step
    if not remaining:
        if state.loader:  # the record counts from there
            rows.table.anchor(*state.loader["anchor"])
        return
    if module.numerics.compiled:
        compile_blocks(module.model)
    if config.trainer.activation_checkpointing:
        recompute_blocks(module.model)
    loader = TrainLoader(
        rows,
        config.trainer.rows_per_step,
        config.total_steps,
        rank(),
        config.trainer.world_size,
        config.trainer.num_workers,
    )
    if state.loader:
        loader.load_state_dict(state.loader)
    evaluate_now = functools.partial(_evaluate_now, config, module, exam, flag)
    boundary = StepBoundary(
        config,
        attempt,
        state,
        flag,
        evaluate_now,
        mirror,
        loader.state_dict,
        lambda: _planned_samples(config, rows),
    )
    trainer = make_trainer(config, remaining, boundary)
    with worker_errors(loader.timeout):
        trainer.fit(module, train_dataloaders=loader)
    if module.step != config.total_steps:
        raise RecordError(
            f"training ended at step {module.step} of {config.total_steps} without saying why; this is a bug in nmm, "
            "the checkpoints are kept"
        )


def _planned_samples(config: RunConfig, rows: RowSource) -> int:
    """Documents of the whole run, about."""
    return rows.planned_samples(config.total_steps * config.trainer.rows_per_step)


def _evaluate_now(
    config: RunConfig, module: TrainingModule, exam: Exam | Test | None, flag: StopFlag
) -> dict[str, Any]:
    """Between two steps: all ranks call it, rank 0 evaluates; of a bridge its labels only."""
    model = unsharded(module.model, device_of(config))
    if model is None:
        return {}
    if isinstance(exam, Test):
        return grades(config, model, exam, flag, module.step)
    return _evaluate(config, model, flag, module.step)


def _evaluate(config: RunConfig, model: NativeMultimodalModel, flag: StopFlag, step: int) -> dict[str, Any]:
    device = device_of(config)
    batches = {
        source: Stoppable([batch.to(device) for batch in parts], flag, step)
        for source, parts in validation(config).items()
    }
    shards = shards_of(config)
    weights = token_weights(shards, config.row_data) if isinstance(shards, IndexedSources) else config.data.mixture
    return evaluate(model, batches, weights)


def validation(config: RunConfig) -> dict[str, list[Batch]]:
    """The held-out rows of every source: the same tokens for every run, kept for the life of the process."""
    return _held_out(canonical_json(dataclasses.asdict(config.row_data)))


def _check_validation(config: RunConfig) -> None:
    check_held_out(config, [batch for parts in validation(config).values() for batch in parts])


def _skipped(config: RunConfig, state: checkpoint.TrainingState) -> dict[str, Any]:
    """What could not be read of the rows of training, and of those held out."""
    held_out = [one for parts in validation(config).values() for batch in parts for one in batch.skipped]
    return {"train": state.skipped, "held_out": add_skipped({}, held_out)}


@functools.lru_cache(maxsize=4)
def _held_out(content: str) -> dict[str, list[Batch]]:
    data, shards = _data(content), _opened(content)
    return {
        source: val_batches(
            shards, source, "val", data.eval_rows, EVAL_BATCH_ROWS, data.context_length, data.patch_size
        )
        for source in shards.names
        if source in shards.sources
    }


def shards_of(config: RunConfig) -> Shards | IndexedSources:
    """Open the run's data; refused when it is not what the run was planned with."""
    shards = _opened(canonical_json(to_dict(config)["data"]))
    if shards.fingerprint != config.data.fingerprint:
        where = f"data.path={config.data.path}" if not config.data.sources else f"data.sources={config.data.sources}"
        raise ChangedData(
            f"{where} now holds shards {shards.fingerprint[:12]}, the run was made for "
            f"{config.data.fingerprint[:12]}; point it at the old shards or plan the runs again"
        )
    return shards


@functools.lru_cache(maxsize=4)
def _opened(content: str) -> Shards | IndexedSources:
    return open_data(_data(content))


def _data(content: str) -> Data:
    return Data(**json.loads(content))  # lists for tuples do not matter here


def rows_of(shards: Shards | IndexedSources, config: RunConfig) -> RowSource:
    """The training rows of a config."""
    return row_source(shards, config.row_data, config.seed, stage=config.stage.name, bridge=config.bridge)


def _quiet() -> None:
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
        "torch.utils.cpp_extension",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
