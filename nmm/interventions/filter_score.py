"""How surprised a run is by samples: the negative log-likelihood of every sample's own text tokens, batched.

Shape legend: n samples of a shard, R rows, T positions a row, G text targets of a batch, I images, M patches an image,
P pixel values a patch.

Samples are packed into rows as in training and kept apart by the document mask, so a sample's number does not depend on
its neighbours (beyond rounding). Sums over tokens are made in float64 on the model's device and fetched once a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from nmm.batch import IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.data.decoded import DecodedShard
from nmm.data.loader import to_torch
from nmm.data.packing import Layout, lay_out
from nmm.data.window import decoded_window, gather_documents
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import target_losses


@dataclass(frozen=True)
class ShardScores:
    """Of n samples: summed NLL in nats (float64) over the text tokens that were predicted, and their number (int64).

    ``truncated``: the sample is longer than a row, its end was not read. ``positions`` were computed for all of them,
    padding included; ``images`` are patches among these, ``targets`` were scored.
    """

    nll: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    positions: int
    images: int
    targets: int


class Scorer:
    """A run that scores shards.

    Args:
        model: The run that scores, from ``nmm.start.load_run``; its config is changed so that samples are kept apart.
        sees: "image": the picture; "blank": its mean colour in every pixel, which the model sees as zeros; "nothing":
            the picture's positions are left out, so a sample's first word is given and not predicted.
        rows: Rows of a forward pass.
        device: "cpu" or "cuda".
        images_per_picture: Images that a picture becomes: a sample too long for a row ends before a picture that would
            not fit whole, as in training.
    """

    def __init__(
        self, model: NativeMultimodalModel, sees: str, rows: int, device: str = "cpu", images_per_picture: int = 1
    ) -> None:
        apart = replace(model.config, arch=replace(model.config.arch, document_mask=True))
        model.config = apart  # of a run trained without the mask every sample would be the first of its row
        self.model: NativeMultimodalModel = model.eval().to(device)
        self.config: RunConfig = apart
        self.sees, self.rows, self.device, self.images_per_picture = sees, rows, device, images_per_picture

    def score(
        self, shard: DecodedShard, source: int, advance: Callable[[int], None] = lambda count: None
    ) -> ShardScores:
        """Score one decoded shard whose samples are of source number ``source``; ``advance`` counts samples."""
        shard = without_images(shard) if self.sees == "nothing" else shard
        documents, layout = self.packed(shard, source)
        nll = torch.zeros(len(documents), dtype=torch.float64, device=self.device)
        images = targets = 0
        with torch.inference_mode():
            for batch, sample in _ahead(self.batches(shard, documents, layout)):
                batch = batch.to(self.device)
                losses = target_losses(self.model(batch), batch)
                nll.index_add_(0, sample.to(self.device), losses.double())
                images, targets = images + batch.patch_at.numel(), targets + len(sample)
                advance(int((batch.position == 0).sum() - (batch.document < 0).sum()))
        positions = layout.rows * self.config.data.context_length
        return ShardScores(
            nll.cpu().numpy(), documents["targets"].copy(), documents["truncated"].copy(), positions, images, targets
        )

    def packed(self, shard: DecodedShard, source: int) -> tuple[np.ndarray, Layout]:
        """(n,) DOCUMENT records of a shard's samples in their order, and where they stand in rows."""
        width = self.config.data.context_length
        m = self.config.tokens_per_image
        documents = gather_documents([shard], source, 0, width, m, self.images_per_picture)
        return documents, lay_out(documents["length"], width, 0, 0)

    def batches(
        self, shard: DecodedShard, documents: np.ndarray, layout: Layout
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Batches of (n,) DOCUMENT records that stand as ``layout`` says, and the (G,) sample of every target."""
        data = self.config.row_data
        window = decoded_window(
            documents[layout.document], layout, [shard], data.context_length, self.config.tokens_per_image
        )
        sample_at = np.full((layout.rows, int(layout.place.max(initial=0)) + 1), -1)
        sample_at[layout.row, layout.place] = layout.document
        values = data.channels * data.patch_size**2
        for first in range(0, layout.rows, self.rows):
            rows = np.arange(first, min(first + self.rows, layout.rows))
            batch = window.take(rows, [shard], values)
            if self.sees == "blank":
                batch = replace(batch, patches=blank(batch.patches, data.pixel_mean))
            row, column = np.nonzero(batch.weights)
            sample = sample_at[rows[row], batch.document[row, column]]
            yield to_torch(batch), torch.from_numpy(sample)


def blank(patches: np.ndarray, mean: tuple[float, ...]) -> np.ndarray:
    """(I, M, P) uint8 with every pixel at ``mean`` of its channel: zero, to a byte, once it is normalised."""
    level = np.array([round(255 * value) for value in mean], np.uint8)
    per_channel = patches.shape[-1] // len(level)
    return np.broadcast_to(level.repeat(per_channel), patches.shape).copy()


def without_images(shard: DecodedShard) -> DecodedShard:
    """The same samples without the positions of their images."""
    kept = shard.positions["token"] != IMAGE_ID
    running = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    samples = shard.samples.copy()
    ends = running[samples["start"] + samples["length"]]
    samples["start"] = running[samples["start"]]
    samples["length"] = ends - samples["start"]
    samples["images"], samples["first_image"], samples["opens_with_text"] = 0, 0, True
    bare = DecodedShard(shard.folder, samples)
    bare.__dict__.update(
        positions=np.asarray(shard.positions[kept]), patches=np.zeros((0, shard.patches.shape[1]), "u1")
    )
    return bare


def _ahead(items: Iterator[tuple[Batch, torch.Tensor]]) -> Iterator[tuple[Batch, torch.Tensor]]:
    """The same items; the next one is made while the caller is busy with this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
