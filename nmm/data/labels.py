"""One label for every picture of one object: fixed by (seed, sample), independent of what is shown unless so asked.

Shape legend: n pictures with a label, R rows, T positions a row, M patches an image, I images, C classes, P pixel
values a patch.

A document is its picture alone, M positions. With ``stage.objective=labels`` its last patch has the label as target,
with ``next_patch`` all patches but the last are scored (their targets are pixels, which the model has).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nmm.data.catalogue import SHAPES, Catalogue
from nmm.data.counter_rng import CounterStream
from nmm.data.decoded import DecodedShard, sample_id
from nmm.data.manifest import Shards
from nmm.data.packing import Layout
from nmm.data.records import sample_key
from nmm.data.world import World
from nmm.data.world_config import WorldConfig
from nmm.groups import Stage

SOURCE = "caption"  # its documents have exactly one picture


@dataclass(frozen=True)
class Labels:
    """The labels of one split: (n,) ``ids`` of samples, increasing; of each its ``label`` and its ``truth``, below C.

    ``moved``: training pictures are shifted by up to so many pixels, seeded by ``seed``.
    """

    ids: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    patches: int
    scored: int
    moved: int
    seed: int

    def select(self, documents: np.ndarray, decoded: Sequence[DecodedShard], first_shard: int) -> np.ndarray:
        """The DOCUMENT records of pictures with a label, cut to the picture; see ``nmm.data.sft.Tuning.select``."""
        at = np.minimum(np.searchsorted(self.ids, documents["id"]), len(self.ids) - 1)
        documents = documents[self.ids[at] == documents["id"]]
        documents["length"] = documents["whole"] = self.patches
        documents["images"], documents["targets"], documents["truncated"] = 1, self.scored, False
        return documents

    def mark(self, rows: Mapping[str, np.ndarray], documents: np.ndarray, layout: Layout) -> None:
        """Write targets and weights into Batch's (R, T) fields of documents that stand as ``layout`` says."""
        width, last = rows["tokens"].shape[1], self.patches - 1
        first = layout.row * width + layout.column
        if self.scored == 1:
            rows["targets"].reshape(-1)[first + last] = self.label[np.searchsorted(self.ids, documents["id"])]
        scored_from = last if self.scored == 1 else 0
        at = first[:, None] + np.arange(scored_from, scored_from + self.scored)
        rows["weights"].reshape(-1)[at] = 1.0

    def shifted(self, patches: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
        """(I, M, P) ``patches`` of deliveries number (I,) ``ordinals``, each moved by its own draw, round the edges."""
        if not self.moved:
            return patches
        unit = CounterStream(self.seed, "bridge", "shift").uniform(ordinals, 0, 2)
        steps = np.minimum((unit * (2 * self.moved + 1)).astype(np.int64), 2 * self.moved) - self.moved
        return _rolled(patches, steps)


def make_labels(shards: Shards, split: str, stage: Stage, patches: int, seed: int) -> Labels:
    """The labels of ``stage`` for one split of the caption source; M = ``patches``.

    ``stage.labelled`` limits the training split to pictures drawn by ``seed``: of two such numbers, the smaller one's
    are among the larger one's. Raises ValueError for shards whose scenes are not known, or with too few pictures.
    """
    ids, truth, number = true_classes(shards, split, stage.classes)
    order = np.argsort(ids)
    ids, truth = ids[order], truth[order]
    if split == "train" and stage.labelled:
        if stage.labelled > len(ids):
            raise ValueError(
                f"stage.labelled={stage.labelled}, but {SOURCE} train in {shards.root} has {len(ids)} pictures of one "
                "object: ask for fewer or render more"
            )
        rank = CounterStream(seed, "bridge", "labelled").bits(_as_index(ids), np.zeros(1, np.int64))[:, 0]
        chosen = np.sort(np.argsort(rank, kind="stable")[: stage.labelled])
        ids, truth = ids[chosen], truth[chosen]
    label = draw_labels(stage.labels, ids, truth, number, seed)
    scored = 1 if stage.objective == "labels" else patches - 1
    return Labels(ids, label, truth, patches, scored, stage.shift if split == "train" else 0, seed)


def draw_labels(rule: str, ids: np.ndarray, truth: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """(n,) int64 labels of samples ``ids`` with true classes ``truth``, below C = ``classes``.

    random: uniform, whatever the truth. not_true: uniform over the other classes, which tells log(C / (C - 1)) nats
    about the truth. truth: the truth.
    """
    if rule == "truth":
        return truth
    choices = classes if rule == "random" else classes - 1
    unit = CounterStream(seed, "bridge", "labels").uniform(_as_index(ids), 0, 1)[:, 0]
    drawn = np.minimum((unit * choices).astype(np.int64), choices - 1)
    return drawn if rule == "random" else drawn + (drawn >= truth)


def true_classes(shards: Shards, split: str, classes: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(n,) ids and true classes of all pictures of one object in one split, in sample order, and C.

    Raises ValueError for shards that the world did not render, or of which the split holds no such picture.
    """
    if shards.manifest.get("kind") != "world" or "derived" in shards.manifest:
        raise ValueError(
            f"{shards.root} holds shards of kind {shards.manifest.get('kind')!r}, or chosen ones: stage=bridge needs "
            "the true classes of all pictures in order, which only shards straight from `nmm shards data=world` have"
        )
    world = World(WorldConfig.from_dict(shards.manifest["world"]))
    of_entity, number = _class_of_entity(world.catalogue, classes, world.config.num_colours)
    ids, truth = [], []
    for info in shards.split(SOURCE, split).shards:
        indices = np.arange(info.first_index, info.first_index + info.samples, dtype=np.int64)
        pictures = world.first_pictures(SOURCE, split, indices)
        single = pictures.count == 1
        ids.append(
            np.array([sample_id(sample_key(SOURCE, split, index)) for index in indices[single].tolist()], np.uint64)
        )
        truth.append(of_entity[pictures.entity[single, 0]])
    if not any(map(len, ids)):
        raise ValueError(
            f"{SOURCE} {split} in {shards.root} has no picture of one object to label: render a larger split"
        )
    return np.concatenate(ids), np.concatenate(truth), number


def num_classes(world: Mapping[str, object], classes: str) -> int:
    """C of shards whose manifest describes ``world``."""
    return math.prod(_sizes(classes, WorldConfig.from_dict(world).num_colours))


def _sizes(classes: str, colours: int) -> tuple[int, ...]:
    return {"shape": (len(SHAPES),), "colour": (colours,), "both": (len(SHAPES), colours)}[classes]


def _class_of_entity(catalogue: Catalogue, classes: str, colours: int) -> tuple[np.ndarray, int]:
    by_name = {
        "shape": catalogue.shape,
        "colour": catalogue.colour,
        "both": catalogue.shape * colours + catalogue.colour,
    }
    return by_name[classes], math.prod(_sizes(classes, colours))


def _as_index(ids: np.ndarray) -> np.ndarray:
    """The same 64 bits, in the type that a CounterStream is addressed by."""
    return ids.view(np.int64)


def _rolled(patches: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(I, M, P) patches of images that are rolled by (I, 2) pixels down and right. P is channel-major, 3 channels."""
    images, m, values = patches.shape
    side, patch = math.isqrt(m), math.isqrt(values // 3)
    whole = patches.reshape(images, side, side, 3, patch, patch).transpose(0, 3, 1, 4, 2, 5)
    whole = whole.reshape(images, 3, side * patch, side * patch)
    place = np.arange(side * patch)
    down, right = ((place - steps[:, axis, None]) % (side * patch) for axis in (0, 1))
    image, channel = np.arange(images)[:, None, None, None], np.arange(3)[:, None, None]
    moved = whole[image, channel, down[:, None, :, None], right[:, None, None, :]]
    cut = moved.reshape(images, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cut).reshape(images, m, values)
