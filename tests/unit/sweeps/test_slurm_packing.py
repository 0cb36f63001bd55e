from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from sweeps.manifest import Entry, Estimate
from sweeps.slurm.packing import START_SECONDS, Array, Resources, pack, seconds_of, shares


def lasting(entries: Sequence[Entry], seconds: Sequence[float]) -> list[Entry]:
    """The entries with these estimates, repeated as needed."""
    return [
        dataclasses.replace(entry, estimate=Estimate(1.0, seconds[i % len(seconds)], 1.0))
        for i, entry in enumerate(entries)
    ]


def packed(entries: Sequence[Entry], chunk: float, useful: float | None = None, **more: int) -> list[Array]:
    return pack(entries, chunk, useful, more.get("workers", 1), more.get("most", 1001))


def covered(arrays: Sequence[Array]) -> list[str]:
    return sorted(entry.run_id for array in arrays for chunk in array.chunks for entry in chunk)


@pytest.fixture
def many(plan) -> list[Entry]:
    """72 trunks: 3 archs x 2 sizes x 12 seeds."""
    entries = plan(archs=["early", "late", "moe"], seeds=list(range(12))).entries
    return [entry for entry in entries if entry.role == "trunk"]


@pytest.mark.parametrize("chunk", [1.0, 60.0, 400.0, 1e9])
def test_every_line_is_in_exactly_one_chunk(many: list[Entry], chunk: float) -> None:
    arrays = packed(lasting(many, [10.0, 35.0, 90.0]), chunk)
    assert covered(arrays) == sorted(entry.run_id for entry in many)
    for array in arrays:
        assert all(len(c) == 1 or seconds_of(c) <= chunk for c in array.chunks)
        lengths = [seconds_of(c) for c in array.chunks]
        assert lengths == sorted(lengths, reverse=True)


def test_chunks_are_about_full_and_hold_one_shape_as_long_as_it_fills_them(many: list[Entry]) -> None:
    (array,) = packed(lasting(many, [10.0]), 40.0)
    assert [len(chunk) for chunk in array.chunks] == [4] * 18
    assert all(len({entry.shape for entry in chunk}) == 1 for chunk in array.chunks)


def test_what_is_left_of_several_shapes_shares_a_task(many: list[Entry]) -> None:
    one_each = list({entry.shape: entry for entry in many}.values())
    (array,) = packed(lasting(one_each, [10.0]), 60.0)
    assert len(one_each) == 6 and len(array.chunks) == 1


def test_no_chunk_outlasts_the_time_limit_but_a_single_run_may(many: list[Entry]) -> None:
    entries = lasting(many, [20.0] * 5 + [500.0])
    useful = 100.0 + START_SECONDS
    (array,) = packed(entries, 1e9, useful)
    assert all(len(chunk) == 1 for chunk in array.chunks if seconds_of(chunk) > 100.0)
    assert sum(seconds_of(chunk) > 100.0 for chunk in array.chunks) == 12


def test_workers_fill_a_chunk_faster(many: list[Entry]) -> None:
    entries = lasting(many, [10.0])
    assert len(packed(entries, 40.0, workers=3)[0].chunks) == 6


def test_more_tasks_than_an_array_may_have_make_several_arrays(many: list[Entry]) -> None:
    arrays = packed(lasting(many, [10.0]), 1.0, most=30)
    assert [len(array.chunks) for array in arrays] == [24, 24, 24]
    assert covered(arrays) == sorted(entry.run_id for entry in many)


def test_runs_that_need_other_resources_are_in_another_array(many: list[Entry]) -> None:
    def on(entry: Entry, **trainer: int) -> Entry:
        config = dataclasses.replace(entry.config, trainer=dataclasses.replace(entry.config.trainer, **trainer))
        return dataclasses.replace(entry, config=config)

    entries = [on(many[0], devices=4, num_nodes=2), on(many[1], threads=3), *many[2:6]]
    arrays = packed(entries, 1e9)
    assert {(array.resources, array.runs) for array in arrays} == {
        (Resources(1, 1, 1), 4), (Resources(1, 1, 3), 1), (Resources(2, 4, 1), 1),
    }  # fmt: skip


def test_the_parallel_tasks_are_shared_out() -> None:
    def of(tasks: int) -> Array:
        return Array(Resources(1, 1, 1), tuple(() for _ in range(tasks)))

    assert shares(0, [of(10), of(5)]) == [0, 0]
    assert shares(30, [of(100), of(50)]) == [20, 10]
    assert shares(2, [of(100), of(1), of(1)]) == [1, 1, 1]
    assert shares(2, []) == []
