"""FLOPs and tokens of one step of reinforcement: drawing, learning, and the forward pass of the start model.

Counted as executed: a question is read once for all its answers, rows are padded to the longest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from nmm.batch import IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.data.tasks import Task
from nmm.flops import forward_flops, training_flops
from nmm.interventions.guide_cost import prompt_flops, token_flops


@dataclass(frozen=True)
class StepCost:
    """rollouts, updates, reference: FLOPs, and ``6nd`` of the updates as ``sixnd``; of the rows that were learned from:
    positions (with padding), text and image tokens, and tokens drawn.
    """

    rollouts: float
    updates: float
    reference: float
    sixnd: float
    positions: float
    text: float
    image: float
    drawn: float


def step_cost(config: RunConfig, asked: Sequence[Task], said: Sequence[Sequence[int]], batch: Batch) -> StepCost:
    """Of questions, the answers to each of them in order, and the batch that was learned from."""
    samples = len(said) // len(asked)
    rows, width = batch.tokens.shape
    image = float((batch.tokens == IMAGE_ID).sum())
    text = float((batch.document >= 0).sum()) - image
    drawn = float(sum(map(len, said)))
    rollouts = sum(prompt_flops(config, len(task.tokens), len(task.patches)) for task in asked)
    for task, several in zip(asked, (said[n : n + samples] for n in range(0, len(said), samples)), strict=True):
        for words in several:  # the last word is never read
            rollouts += (len(words) - 1) * token_flops(config, len(task.tokens) + len(words) / 2)
    positions = float(rows * width)
    short = dataclasses.replace(config, data=dataclasses.replace(config.data, context_length=width))
    training = training_flops(short, positions, image / positions, drawn / positions)
    reference = forward_flops(short, image / positions, drawn / positions).total * positions
    return StepCost(rollouts, training["total"], reference, training["6nd"], positions, text, image, drawn)
