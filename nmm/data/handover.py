"""A batch from a data worker to the training process as one tensor: torch passes tensors one by one, each at a cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nmm.batch import ARRAYS, Batch, Skipped

ALIGN = 64


class Packed(NamedTuple):
    """``data`` (bytes,) uint8; ``places`` has offset, numpy dtype and shape of every array, in the order of ARRAYS."""

    data: Tensor
    places: tuple[tuple[int, str, tuple[int, ...]], ...]
    skipped: tuple[Skipped, ...]


def packed(batch: Batch) -> Packed:
    """A Batch of numpy arrays, copied into one tensor."""
    places, size = [], 0
    arrays = [np.ascontiguousarray(getattr(batch, name)) for name in ARRAYS]
    for array in arrays:
        places.append((size, str(array.dtype), array.shape))
        size += -(-array.nbytes // ALIGN) * ALIGN
    data = torch.empty(size, dtype=torch.uint8)
    view = data.numpy()
    for array, (start, _, _) in zip(arrays, places, strict=True):
        view[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    return Packed(data, tuple(places), batch.skipped)


def unpacked(content: Packed) -> Batch:
    """The Batch of torch tensors, which share the memory of ``content``."""
    view, arrays = content.data.numpy(), {}
    for name, (start, kind, shape) in zip(ARRAYS, content.places, strict=True):
        dtype = np.dtype(kind)
        size = int(np.prod(shape)) * dtype.itemsize
        arrays[name] = torch.from_numpy(view[start : start + size].view(dtype).reshape(shape))
    return Batch(**arrays, skipped=content.skipped)
