"""What a user writes who has captioned tars, WebDataset and PIL: shuffled, decoded, resized, bytes as tokens, appended.

Nothing here is exact: who stops starts an epoch anew, and rows depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from nmm.batch import END_ID, IMAGE_ID

SHUFFLE_BUFFER = 1000


class Shape(NamedTuple):
    """``rows`` a batch, positions a row, and an image as ``side`` pixels that fill ``patches`` positions."""

    rows: int
    context: int
    side: int
    patches: int


def plain_batches(
    tars: list[Path], shape: Shape, workers: int, crop_scale: float = 1.0, flip: float = 0.0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(rows, context) token ids, 0 in padding, and (images, 3, side, side) uint8 pixels; epoch after epoch."""
    resize = partial(_resized, side=shape.side)
    if crop_scale < 1 or flip > 0:
        cut = torchvision.transforms.RandomResizedCrop(shape.side, (crop_scale, 1.0), interpolation=3)
        resize = torchvision.transforms.Compose([cut, torchvision.transforms.RandomHorizontalFlip(flip)])
    shards = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars))
    samples = shards.shuffle(SHUFFLE_BUFFER).decode("pil").to_tuple("jpg", "txt").repeat()
    documents = samples.map_tuple(partial(_pixels, resize), _tokens)
    return iter(DataLoader(documents.compose(partial(_appended, shape=shape)), batch_size=None, num_workers=workers))


def _resized(image: Image.Image, side: int) -> Image.Image:
    """The shorter side is ``side`` pixels, the middle is kept."""
    shorter = min(image.size)
    left, upper = (image.width - shorter) / 2, (image.height - shorter) / 2
    box = (left, upper, left + shorter, upper + shorter)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)


def _pixels(resize: partial[Image.Image], image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(resize(image.convert("RGB")))).permute(2, 0, 1)


def _tokens(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()] + [END_ID]


def _appended(
    samples: Iterable[tuple[torch.Tensor, list[int]]], shape: Shape
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A document goes into the row at hand, or begins the next one."""
    images: list[torch.Tensor] = []
    tokens, row, column = torch.zeros(shape.rows, shape.context, dtype=torch.int64), 0, 0
    for image, words in samples:
        document = ([IMAGE_ID] * shape.patches + words)[: shape.context]
        if column + len(document) > shape.context:
            row, column = row + 1, 0
        if row == shape.rows:
            yield tokens, torch.stack(images)
            tokens, images, row = torch.zeros_like(tokens), [], 0
        tokens[row, column : column + len(document)] = torch.tensor(document)
        images.append(image)
        column += len(document)
