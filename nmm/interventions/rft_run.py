"""The run of `nmm rft`: step after step, saved, logged and published; resumable bit for bit, as any other run of ours.

What the record needs beside weights and optimizer is in ``Log``, which checkpoints carry in the place that other runs
have for their loader.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nmm.config import Rft, RunConfig
from nmm.data.manifest import Shards
from nmm.data.tasks import tasks, verifier
from nmm.interventions.rft_bar import StepBar
from nmm.interventions.rft_step import Lesson, marks, step
from nmm.model.fusion import NativeMultimodalModel
from nmm.record import Attempt, publish
from nmm.start import initial_model
from nmm.training import checkpoint
from nmm.training.code import ROOT, ChangedCode, file_digests
from nmm.training.module import TrainingModule
from nmm.training.outcome import assemble, weights_digest
from nmm.training.parallel import device_of
from nmm.training.preflight import check_room
from nmm.training.run import begin, shards_of
from nmm.training.stopping import Diverged, Interrupted, StopFlag

CODE = "nmm.interventions.rft_run"


@dataclass
class Log:
    """What a run knows of its past: marks of the start, the curve so far, FLOPs and tokens spent, and the code."""

    before: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=lambda: file_digests(ROOT, CODE))


def reinforce(config: RunConfig, directory: Path, attempt: Attempt | None, flag: StopFlag) -> dict[str, Any]:
    """Run ``config`` and return the published record (``nmm.training.run.Work``)."""
    assert attempt is not None and config.rft is not None  # one rank; nmm.validation
    check_room(config, directory)
    shards = shards_of(config)
    assert isinstance(shards, Shards)  # nmm.validation
    lesson = _lesson(shards, config, config.rft)
    flag.check(0)
    module, state = begin(config, directory, attempt)
    _place(module, device_of(config))
    start = initial_model(config).to(module.device).eval()
    log = _log_of(config, state)
    begun, began_at, positions = module.step, time.monotonic(), log.cost.get("positions", 0.0)
    result: dict[str, Any]
    try:
        _learn(config, config.rft, module, start, state, log, lesson, attempt, flag)
        status, after = "done", marks(module.model, lesson, config.rft)
        attempt.log_metrics({"step": module.step, **_flat_marks(after)})
        result = {"rft": {"before": log.before, "after": after, "curve": log.curve}}
    except Diverged as error:
        status, result = "diverged", {"error": str(error), "cause": error.cause, "step": error.step}
    result |= {"weights_sha256": weights_digest(module.model), "skipped_steps": module.guard.skipped}
    made = (log.cost["positions"] - positions) / config.tokens_per_step if module.step > begun else 0.0
    timing = {"seconds": time.monotonic() - began_at, "steps": made}
    tokens, flops = _tokens(log.cost), {name: log.cost[name] for name in ("rollouts", "updates", "reference")}
    flops |= {"total": sum(flops.values()), "6nd": log.cost["sixnd"]}
    record = assemble(config, directory, module.numerics, status, result, timing, state.code_history, tokens, flops, {})
    return publish(directory, attempt, record)


def _place(module: TrainingModule, device: torch.device) -> None:
    """Weights and what the optimizer knows of them, where the run computes."""
    module.to(device)
    for known in module.optimizer.state.values():
        known.update({name: value.to(device) for name, value in known.items() if isinstance(value, torch.Tensor)})


def _lesson(shards: Shards, config: RunConfig, rft: Rft) -> Lesson:
    pool = tasks(shards, config, "train", rft.pool, rft.kinds)
    held_out = tasks(shards, config, "val", config.stage.eval_questions, rft.kinds)
    return Lesson(pool, held_out, verifier(shards.tokenizer))


def _log_of(config: RunConfig, state: checkpoint.TrainingState) -> Log:
    """As the checkpoint has it, or new. Raises ``ChangedCode`` when other code than this made the steps so far."""
    if not state.loader:
        return Log()
    log, here = Log(**state.loader), file_digests(ROOT, CODE)
    changed = sorted(name for name in log.code.keys() | here.keys() if log.code.get(name) != here.get(name))
    if changed and config.trainer.changed_code == "refuse":
        raise ChangedCode(
            f"the run was begun by other code than is here now ({', '.join(changed[:6])}); go on with that code, or "
            "with this one by changed_code=accept"
        )
    return dataclasses.replace(log, code=here)


def _learn(
    config: RunConfig,
    rft: Rft,
    module: TrainingModule,
    start: NativeMultimodalModel,
    state: checkpoint.TrainingState,
    log: Log,
    lesson: Lesson,
    attempt: Attempt,
    flag: StopFlag,
) -> None:
    """The steps that are left."""
    if not log.before:
        log.before = marks(module.model, lesson, rft)
        attempt.log_metrics({"step": 0, **_flat_marks(log.before)})
    bar, saved_at = StepBar(config.total_steps, config.trainer.progress), time.monotonic()
    with bar:
        while module.step < config.total_steps:
            flag.check(module.step)  # of an earlier step, which is saved, or of none
            row, cost = step(config, rft, module, start, lesson)
            for name, value in dataclasses.asdict(cost).items():
                log.cost[name] = log.cost.get(name, 0.0) + value
            if module.step % config.trainer.log_every_steps == 0 or module.step == config.total_steps:
                log.curve.append(row)
                attempt.log_metrics(row)
            bar.show(module.step, row["reward"])
            if _is_due(config, module.step, saved_at) or flag.signum:
                state.step, state.guard = module.step, dataclasses.asdict(module.guard)
                state.loader = dataclasses.asdict(log)
                checkpoint.save(attempt, config, module, state)
                saved_at = time.monotonic()
            if flag.signum and module.step < config.total_steps:
                raise Interrupted(flag.signum, module.step)


def _is_due(config: RunConfig, step: int, saved_at: float) -> bool:
    trainer = config.trainer
    if step == config.total_steps or (trainer.checkpoint_every_steps and step % trainer.checkpoint_every_steps == 0):
        return True
    return time.monotonic() - saved_at >= trainer.checkpoint_every_seconds > 0


def _flat_marks(marks: dict[str, Any]) -> dict[str, float]:
    right = {f"held_out_accuracy_{kind}": share for kind, share in marks["accuracy"].items()}
    return right | {f"held_out_{name}": marks[name] for name in ("length", "slow")}


def _tokens(cost: dict[str, float]) -> dict[str, Any]:
    """Tokens learned from; positions include padding."""
    text, image = int(cost["text"]), int(cost["image"])
    return {
        "total": text + image,
        "text": text,
        "image": image,
        "targets": int(cost["drawn"]),
        "unique": text + image,  # every answer is a new one
        "positions": int(cost["positions"]),
        "by_source": {},
    }
