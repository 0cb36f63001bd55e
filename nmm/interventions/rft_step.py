"""One step of reinforcement: questions, answers, rewards, update. And the marks of greedy answers.

Shape legend: P prompts, S answers to a prompt, R = P S rows, G tokens that were drawn.

Everything depends on weights, optimizer and (seed, step) alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmm.batch import Batch
from nmm.config import Rft, RunConfig
from nmm.data.counter_rng import CounterStream
from nmm.data.tasks import Task, Verifier
from nmm.generate import generate
from nmm.interventions.guide_nll import scored
from nmm.interventions.rft_cost import StepCost, step_cost
from nmm.interventions.rft_loss import Sums, advantages, policy_sums
from nmm.interventions.rft_rollout import draw_answers
from nmm.model.decode import Prompt
from nmm.model.fusion import NativeMultimodalModel
from nmm.training.module import TrainingModule
from nmm.training.schedule import lr_factor
from nmm.training.stopping import Diverged

EVAL_BATCH_ROWS = 256


@dataclass(frozen=True)
class Lesson:
    """What is asked: training questions, held-out ones, and how answers are checked."""

    pool: list[Task]
    held_out: list[Task]
    verifier: Verifier


def step(
    config: RunConfig, rft: Rft, module: TrainingModule, start: NativeMultimodalModel, lesson: Lesson
) -> tuple[dict[str, Any], StepCost]:
    """One update; returns its row of metrics and its cost. Raises ``Diverged``."""
    number = module.step
    asked = [lesson.pool[i] for i in asked_at(config.seed, number, rft.prompts, len(lesson.pool))]
    prompts = [Prompt(task.tokens, task.patches) for task in asked]
    seed = int(CounterStream(config.seed, "rft", "answers").bits(np.array([number]), np.array([0]))[0, 0])
    said = draw_answers(
        module.model, prompts, rft.samples, rft.max_new_tokens, lesson.verifier.stops, rft.temperature, seed
    )
    rows = [task for task in asked for _ in range(rft.samples)]
    reward_R = torch.tensor(rewards(rft.reward, rows, said, lesson.verifier, config.seed, number))
    advantage_PS = advantages(reward_R.reshape(rft.prompts, rft.samples))
    batch = scored(config, [Prompt(task.tokens, task.patches) for task in rows], said)
    totals = update(config, rft, module, start, batch.to(module.device), advantage_PS.reshape(-1))
    if module.verdict.action == "stop":
        raise Diverged(module.verdict.cause, number, module.last["loss"], module.grad_norm)
    cost = step_cost(config, asked, said, batch)
    return _row(config, module, lesson, reward_R, advantage_PS, said, totals, cost), cost


def _row(
    config: RunConfig,
    module: TrainingModule,
    lesson: Lesson,
    reward_R: Tensor,
    advantage_PS: Tensor,
    said: Sequence[Sequence[int]],
    totals: Sums,
    cost: StepCost,
) -> dict[str, Any]:
    ended = sum(words[-1] in lesson.verifier.stops for words in said)
    return {
        "step": module.step,
        "reward": reward_R.mean().item(),
        "groups": (advantage_PS != 0).any(dim=1).float().mean().item(),  # that teach anything
        "length": sum(map(len, said)) / len(said),
        "slow": sum(map(lesson.verifier.is_slow, said)) / len(said),
        "ended": ended / len(said),
        "kl": totals.kl.item() / totals.tokens,
        "entropy": totals.entropy.item() / totals.tokens,
        "loss": module.last["loss"],
        "grad_norm": module.grad_norm if math.isfinite(module.grad_norm) else None,
        "lr": config.learning_rate * lr_factor(config, module.step - 1),
        "tokens": cost.drawn,
    }


def asked_at(seed: int, number: int, prompts: int, pool: int) -> list[int]:
    """Places in the pool of the questions of a step: the whole pool in random order, again and again."""
    places = []
    for place in range(number * prompts, (number + 1) * prompts):
        epoch, at = divmod(place, pool)
        places.append((epoch, at))
    orders = {epoch: CounterStream(seed, "rft", f"order {epoch}").permutation(pool) for epoch, _ in places}
    return [int(orders[epoch][at]) for epoch, at in places]


def rewards(
    kind: str, asked: Sequence[Task], said: Sequence[Sequence[int]], check: Verifier, seed: int, number: int
) -> list[float]:
    """One reward a row: for right answers, for wrong ones, or by a coin that knows neither."""
    match kind:
        case "coin":
            draws = CounterStream(seed, "rft", "coin").uniform(np.array([number]), 0, len(said))[0]
            return [float(draw < 0.5) for draw in draws]
        case "opposite":
            return [float(not check.is_right(task, words)) for task, words in zip(asked, said, strict=True)]
        case _:
            return [float(check.is_right(task, words)) for task, words in zip(asked, said, strict=True)]


def update(
    config: RunConfig,
    rft: Rft,
    module: TrainingModule,
    start: NativeMultimodalModel,
    batch: Batch,
    advantage_R: Tensor,
) -> Sums:
    """One optimizer step on the drawn rows; returns the sums over all of them."""
    module.model.train()
    rows, parts, done = len(advantage_R), [], 0
    for part in batch.split(config.trainer.micro_batches):
        height, width = part.tokens.shape
        with torch.autocast(module.device.type, torch.bfloat16, enabled=module.numerics.precision == "bf16"):
            output = module.model(part)
            with torch.no_grad():
                from_start = start(part).logits
        token_G = part.targets.reshape(-1)[output.at]
        advantage_G = advantage_R[done : done + height].to(module.device)[output.at // width]
        sums = policy_sums(output.logits, from_start, token_G, advantage_G, rows, rft.temperature, rft.kl_coef)
        sums.loss.backward()
        parts.append(dataclasses.replace(sums, loss=sums.loss.detach()))
        done += height
    total = Sums(
        torch.stack([part.loss for part in parts]).sum(),
        torch.stack([part.kl for part in parts]).sum(),
        torch.stack([part.entropy for part in parts]).sum(),
        sum(part.tokens for part in parts),
    )
    module.learn(total.loss, total.loss.new_tensor(float(total.tokens)))
    return total


def marks(model: NativeMultimodalModel, lesson: Lesson, rft: Rft) -> dict[str, Any]:
    """Of greedy answers to the held-out questions: shares right by kind and their mean, words, share told in steps."""
    asked, check = lesson.held_out, lesson.verifier
    prompts = [Prompt(task.tokens, task.patches) for task in asked]
    said = generate(model, prompts, rft.max_new_tokens, check.stops, batch_rows=EVAL_BATCH_ROWS)
    right: dict[str, list[bool]] = {}
    for task, words in zip(asked, said, strict=True):
        right.setdefault(task.kind, []).append(check.is_right(task, words))
    accuracy = {kind: sum(each) / len(each) for kind, each in right.items()}
    accuracy["avg"] = sum(accuracy.values()) / len(accuracy)
    return {
        "accuracy": accuracy,
        "questions": {kind: len(each) for kind, each in right.items()},
        "length": sum(map(len, said)) / len(said),
        "slow": sum(map(check.is_slow, said)) / len(said),
    }
