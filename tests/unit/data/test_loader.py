"""The order of training does not know ranks, workers or restarts; validation rows are always the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmm.batch import ARRAYS, IMAGE_ID, Batch
from nmm.data.loader import TrainLoader, val_batches
from nmm.data.manifest import Shards, open_shards
from nmm.data.order import OrderHash
from nmm.data.source import RowSource

MIXTURE = {"caption": 45, "interleaved": 45, "text": 10}
ROWS, STEPS = 12, 60  # 720 rows: they cross three windows


@pytest.fixture
def shards(tiny_root: Path) -> Shards:
    return open_shards(tiny_root)


def loaders(shards: Shards, world: int = 1, workers: int = 0, **changes: Any) -> list[TrainLoader]:
    """One loader per rank, each with its own row source, as separate processes would have."""
    options = {"mixture": MIXTURE, "context_length": 64, "patch_size": 4, "seed": 0} | changes
    return [TrainLoader(RowSource(shards, **options), ROWS, STEPS, rank, world, workers) for rank in range(world)]


def steps_of(ranks: list[TrainLoader], count: int) -> list[list[int]]:
    """Row ids of the next ``count`` steps in global row order: row r of a step is on rank r mod world."""
    iterators = [iter(loader) for loader in ranks]
    steps = []
    for _ in range(count):
        parts = [next(iterator).row_ids.tolist() for iterator in iterators]
        steps.append([row for together in zip(*parts, strict=True) for row in together])
    return steps


@pytest.fixture
def expected(shards: Shards) -> list[list[int]]:
    ids = RowSource(shards, MIXTURE, 64, 4, seed=0).row_ids(0, ROWS * STEPS)
    return ids.reshape(STEPS, ROWS).tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_order_is_the_same_for_any_world_and_workers(
    shards: Shards, expected: list[list[int]], world: int, workers: int
) -> None:
    count = STEPS if workers == 0 else 25
    assert steps_of(loaders(shards, world, workers), count) == expected[:count]


def test_order_hash_of_ranks_and_workers_agrees(shards: Shards) -> None:
    digests = set()
    for world, workers in ((1, 0), (2, 0), (1, 2)):
        chain = OrderHash()
        for rows in steps_of(loaders(shards, world, workers), 20):
            chain.update(rows)
        digests.add(chain.hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (17, 0), (21, 0), (42, 0), (59, 0), (17, 2), (42, 2)])
def test_resume_goes_on_where_it_was(shards: Shards, expected: list[list[int]], stop: int, workers: int) -> None:
    first = loaders(shards, workers=workers)
    before = steps_of(first, stop)
    state = json.loads(json.dumps(first[0].state_dict()))
    second = loaders(shards, workers=workers)
    second[0].load_state_dict(state)
    assert before + steps_of(second, min(5, STEPS - stop)) == expected[: min(stop + 5, STEPS)]


def test_world_size_may_change_in_the_middle(shards: Shards, expected: list[list[int]]) -> None:
    seen: list[list[int]] = []
    state: dict[str, Any] | None = None
    for world, count in ((1, 7), (4, 20), (2, 11), (3, 22)):
        ranks = loaders(shards, world)
        for loader in ranks:
            if state is not None:
                loader.load_state_dict(state)
        seen += steps_of(ranks, count)
        states = [loader.state_dict() for loader in ranks]
        assert all(s == states[0] for s in states), "every rank holds the same state"
        state = states[0]
    assert seen == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_state_counts_what_was_delivered(shards: Shards, workers: int) -> None:
    (loader,) = loaders(shards, workers=workers)
    iterator = iter(loader)
    for step in range(1, 6):
        next(iterator)
        assert loader.state_dict()["cursor"] == step * ROWS
    assert (len(loader), loader.remaining) == (STEPS, STEPS - 5)


def test_iterates_to_the_end_and_no_further(shards: Shards) -> None:
    (loader,) = loaders(shards)
    assert sum(1 for _ in loader) == STEPS
    assert loader.remaining == 0
    assert list(loader) == []


def test_resuming_packs_nothing_it_has_seen(shards: Shards) -> None:
    (first,) = loaders(shards)
    first.cursor = 50 * ROWS
    state = first.state_dict()
    (second,) = loaders(shards)
    second.load_state_dict(state)
    packed: list[int] = []
    rows_in_window = second.rows.table._rows_in_window
    second.rows.table._rows_in_window = lambda window: packed.append(window) or rows_in_window(window)  # type: ignore[func-returns-value]
    next(iter(second))
    assert min(packed) == state["anchor"][0] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: saved 0, now 1"),
        ({"context_length": 32}, "context_length: saved 64, now 32"),
        ({"patch_size": 2}, "patch_size: saved 4, now 2"),
        ({"mixture": {"caption": 1, "text": 1}}, r"mixture: saved \{'caption': 0.45"),
        ({"split": "val"}, "split: saved 'train', now 'val'"),
    ],
)
def test_another_stream_is_refused(shards: Shards, changes: dict[str, Any], message: str) -> None:
    state = loaders(shards)[0].state_dict()
    with pytest.raises(ValueError, match=message):
        loaders(shards, **changes)[0].load_state_dict(state)


def test_other_shards_are_refused(shards: Shards, make_shards: Callable[..., Path]) -> None:
    other = open_shards(make_shards(longest=9))
    with pytest.raises(ValueError, match="shards: saved"):
        loaders(other)[0].load_state_dict(loaders(shards)[0].state_dict())


def test_other_step_size_is_refused_when_it_does_not_divide(shards: Shards) -> None:
    state = loaders(shards)[0].state_dict() | {"cursor": 5 * ROWS}
    rows = RowSource(shards, MIXTURE, 64, 4, seed=0)
    fits = TrainLoader(rows, 20, STEPS)
    fits.load_state_dict(state)
    assert fits.remaining == STEPS - 3
    with pytest.raises(ValueError, match=r"60 rows were delivered.*saved with 12"):
        TrainLoader(rows, 8, STEPS).load_state_dict(state)


def test_rows_must_divide_among_ranks(shards: Shards) -> None:
    rows = RowSource(shards, MIXTURE, 64, 4, seed=0)
    with pytest.raises(ValueError, match=r"rows_per_step=6 .* world size 4.*use e.g. 8"):
        TrainLoader(rows, 6, STEPS, 0, 4)
    with pytest.raises(ValueError, match=r"rank=2 must be in 0..1"):
        TrainLoader(rows, 6, STEPS, 2, 2)


def test_batches_own_their_memory(shards: Shards) -> None:
    """Writing into a delivered batch must not reach the rows of the next reader."""
    (loader,) = loaders(shards)
    first = next(iter(loader))
    kept = first.tokens.clone()
    for values in (getattr(first, name) for name in ARRAYS):
        values.zero_()
    loader.cursor = 0
    assert torch.equal(next(iter(loader)).tokens, kept)


def test_global_random_state_is_left_alone(shards: Shards) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    steps_of(loaders(shards, workers=2), 2)
    assert torch.equal(torch.get_rng_state(), before)


def validation(shards: Shards, rows: int, batch_rows: int, **changes: Any) -> list[Batch]:
    options = {"source": "interleaved", "split": "val", "context_length": 64, "patch_size": 4} | changes
    return val_batches(shards, rows=rows, batch_rows=batch_rows, **options)


def joined(batches: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([getattr(batch, name) for batch in batches])


def test_first_rows_are_the_same_however_they_are_cut(shards: Shards) -> None:
    many, few = validation(shards, 8, 3, split="train"), validation(shards, 5, 5, split="train")
    assert [len(batch.tokens) for batch in many] == [3, 3, 2]
    for name in ("tokens", "targets", "weights", "classes", "row_ids"):
        assert torch.equal(joined(many, name)[:5], joined(few, name))
    assert torch.equal(joined(many, "patches")[: len(few[0].patches)], few[0].patches)


def test_rows_hold_one_source_and_its_entropy(shards: Shards, tiny_document: Callable[..., dict[str, Any]]) -> None:
    """All rows of a split whose documents open with an image: every text token is a target, so entropies agree."""
    rows = RowSource(shards, {"interleaved": 1}, 64, 4, 0, split="val", once_in_order=True).rows_available()
    batches = validation(shards, rows, 4)
    assert set(joined(batches, "source").unique().tolist()) <= {-1, 1}
    weights, logprobs = joined(batches, "weights"), joined(batches, "logprobs")
    info = shards.split("interleaved", "val")
    assert weights.sum() == info.text_tokens
    assert -logprobs[weights > 0].double().mean().item() == pytest.approx(info.entropy, rel=1e-6)
    assert torch.isnan(logprobs[weights == 0]).all()
    tokens = joined(batches, "tokens")
    assert (tokens == IMAGE_ID).sum() == 4 * sum(
        len(tiny_document("interleaved", "val", i)["images"]) for i in range(12)
    )


def test_too_many_rows_are_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match=r"500 rows were asked for, interleaved val fills \d+ of 64 positions"):
        validation(shards, 500, 4)
    with pytest.raises(ValueError, match="at least 1"):
        validation(shards, 0, 4)


def test_delivered_equals_the_source(shards: Shards) -> None:
    (loader,) = loaders(shards)
    batch, expected = next(iter(loader)), RowSource(shards, MIXTURE, 64, 4, 0).rows_at(0, ROWS)
    for name, values in ((name, getattr(expected, name)) for name in ARRAYS):
        assert np.array_equal(getattr(batch, name).numpy(), values, equal_nan=values.dtype.kind == "f")
