"""A batch packed for another process comes back the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from nmm.batch import ARRAYS, Batch, Skipped
from nmm.data.handover import ALIGN, packed, unpacked


def batch(rows: int, images: int) -> Batch:
    rng = np.random.default_rng(rows)
    wide = {"tokens": "i8", "document": "i4", "image": "i4", "position": "i8", "targets": "i8", "weights": "f4"}
    wide |= {"source": "i1", "logprobs": "f4", "classes": "u1"}
    arrays = {name: rng.integers(0, 100, (rows, 7)).astype(kind) for name, kind in wide.items()}
    arrays["logprobs"][:] = np.nan
    arrays["row_ids"] = rng.integers(-(2**62), 2**62, rows)
    arrays["patches"] = rng.integers(0, 256, (images, 4, 12)).astype(np.uint8)
    arrays["patch_at"] = rng.integers(0, 7 * rows, (images, 4))
    return Batch(**arrays, skipped=(Skipped("caption", "bad_image", "x", 3, 4, 3),))


@pytest.mark.parametrize("copy", [lambda content: content, lambda content: pickle.loads(pickle.dumps(content))])
@pytest.mark.parametrize(("rows", "images"), [(1, 0), (3, 2), (5, 1)])
def test_nothing_is_lost(rows: int, images: int, copy: Callable[..., object]) -> None:
    before = batch(rows, images)
    content = packed(before)
    assert all(start % ALIGN == 0 for start, _, _ in content.places)
    after = unpacked(copy(content))  # type: ignore[arg-type]
    assert after.skipped == before.skipped
    for name in ARRAYS:
        ours, theirs = getattr(before, name), getattr(after, name).numpy()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"), name


def test_arrays_that_are_views_are_packed_as_they_look() -> None:
    whole = batch(4, 2)
    half = Batch(**{name: getattr(whole, name)[::2] for name in ARRAYS})
    for name in ARRAYS:
        assert np.array_equal(getattr(unpacked(packed(half)), name).nan_to_num(), np.nan_to_num(getattr(half, name)))
