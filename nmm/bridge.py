"""What a bridge, a classification or a probe has learned: accuracy on held-out pictures, and the fit of its labels.

Shape legend: G scored positions, C classes.

Held-out pictures have their true classes, whatever the labels of training are. ``train_*`` are about training pictures
with the labels they are trained on: a random label cannot be known, only remembered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nmm.batch import Batch
from nmm.config import ConfigError, RunConfig
from nmm.data.labels import SOURCE
from nmm.data.loader import to_torch
from nmm.data.manifest import Shards
from nmm.data.opening import row_source
from nmm.groups import Stage
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import patch_losses, target_losses
from nmm.model.outliers import outliers
from nmm.start import initial_model

BATCH_ROWS = 64


@dataclass(frozen=True)
class Test:
    """Pictures that are asked: ``held_out`` and of ``train``; and statistics of the weights ``before`` training."""

    held_out: Sequence[Batch]
    train: Sequence[Batch]
    before: dict[str, Any]


def make_test(shards: Shards, config: RunConfig) -> Test:
    """About ``stage.eval_images`` pictures of each split, the same for every step of a run.

    Raises ``ConfigError`` when fewer are held out.
    """
    stage = config.stage
    held_out = _pictures(shards, config, "val", dataclasses.replace(stage, labels="truth", labelled=0))
    found = sum(len(batch.patches) for batch in held_out)
    if found < stage.eval_images:
        raise ConfigError(
            f"stage.eval_images={stage.eval_images}, but {SOURCE} val in {config.data.path} has {found} pictures of "
            "one object: ask for fewer or render a larger split"
        )
    before = outliers(dict(initial_model(config).named_parameters()))
    return Test(held_out, _pictures(shards, config, "train", dataclasses.replace(stage, shift=0)), before)


def _pictures(shards: Shards, config: RunConfig, split: str, stage: Stage) -> list[Batch]:
    """The first rows that hold ``stage.eval_images`` pictures (not every row is full), or all there are."""
    rows = row_source(shards, config.row_data, config.seed, split, once_in_order=True, stage=stage.name, bridge=stage)
    available, at, found = rows.rows_available(), 0, 0
    batches = []
    while found < stage.eval_images and at < available:
        missing = -(-(stage.eval_images - found) // (config.data.context_length // config.tokens_per_image))
        batches.append(to_torch(rows.rows_at(at, min(BATCH_ROWS, missing, available - at))))
        at, found = at + len(batches[-1].tokens), found + len(batches[-1].patches)
    return batches


def mark(model: NativeMultimodalModel, held_out: Iterable[Batch], train: Iterable[Batch]) -> dict[str, Any]:
    """Marks of a model on batches of a ``Test``.

    Returns {"accuracy", "stderr", "chance", "loss", "images", "train_accuracy", "train_loss", "train_images"}: losses
    are nats a label; ``chance`` is the share of the commonest class, ``stderr`` the binomial standard error of the
    accuracy. With stage.objective=next_patch only losses (squared error a normalised pixel value) and numbers.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        clean, fitted = _sums(model, held_out), _sums(model, train)
    model.train(was_training)
    marks = {"loss": clean["loss"], "images": clean["images"]}
    marks |= {"train_loss": fitted["loss"], "train_images": fitted["images"]}
    if model.config.stage.objective == "labels":
        share = clean["right"]
        marks |= {"accuracy": share, "stderr": math.sqrt(share * (1 - share) / clean["images"])}
        marks |= {"chance": clean["commonest"], "train_accuracy": fitted["right"]}
    return marks


def _sums(model: NativeMultimodalModel, batches: Iterable[Batch]) -> dict[str, Any]:
    """Means over one split: loss, share of right answers, share of the commonest class."""
    config, losses, answers, truths, images = model.config, [], [], [], 0
    for batch in batches:
        output = model(batch, bridge=True)
        images += len(batch.patches)
        if config.stage.objective == "next_patch":
            losses.append(patch_losses(output, batch, config))
            continue
        losses.append(target_losses(output, batch))
        answers.append(output.logits.argmax(dim=-1))
        truths.append(batch.targets.reshape(-1)[output.at])
    found: dict[str, Any] = {"loss": torch.cat(losses).double().mean().item(), "images": images}
    if truths:
        truth_G = torch.cat(truths)
        found["right"] = (torch.cat(answers) == truth_G).double().mean().item()
        found["commonest"] = torch.bincount(truth_G).max().item() / len(truth_G)
    return found
