"""Indexed tars: one order of rows, whatever the ranks, workers and stops; and the record proves it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import run_directory
from rank_runs import Job, on_ranks
from shards_lab import caption_members, index_all, indexed_config, small_sources
from tars import write_tar

from nmm.batch import ARRAYS, Batch
from nmm.config import RunConfig
from nmm.data.loader import TrainLoader
from nmm.data.opening import open_data, row_source
from nmm.data.order import OrderHash
from nmm.data.source import RowSource
from nmm.record import attempts, read_record
from nmm.training.run import rows_of, shards_of

ROWS, FIRST, STEPS = 12, 240, 6  # a batch; the row to begin with, so that batches cross from one window to the next
RUN_STEPS, RUN_ROWS = 8, 4
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that meets every kind of source, several epochs of captions, crops, and a sample that is left out."""
    folder = small_sources(tmp_path_factory.mktemp("shards"), caption=12, interleaved=16, text=40)
    write_tar(
        folder / "caption" / "00002.tar",
        [(name, b" " if name == "000100.txt" else data) for name, data in caption_members(100, 8)],
    )
    index_all(folder, max_bad=0.2)
    return indexed_config(
        folder,
        data={"eval_rows": 1, "crop_scale": 0.5, "flip": 0.5},
        trainer={"rows_per_step": RUN_ROWS, "log_every_steps": 1},
        budget={"steps": RUN_STEPS},
    )


@pytest.fixture(scope="module")
def cut(config: RunConfig) -> RunConfig:
    """The same, with texts that are cut to fill rows."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cut_text=True))


def fresh_rows(config: RunConfig) -> RowSource:
    """As another process would open them."""
    return row_source(open_data(config.data), config.data, config.seed)


def loaders(config: RunConfig, world: int, workers: int, state: dict[str, Any] | None = None) -> list[TrainLoader]:
    """One for each rank; from ``state``, or from row FIRST."""
    made = [TrainLoader(fresh_rows(config), ROWS, 1000, rank, world, workers) for rank in range(world)]
    for loader in made:
        loader.load_state_dict(state or loader.state_dict(FIRST))
    return made


def rows_in(batch: Batch) -> list[str]:
    """A digest of everything that each row of a batch holds, pixels included."""
    arrays, found = {name: np.asarray(getattr(batch, name)) for name in ARRAYS}, []
    width = arrays["tokens"].shape[1]
    for row in range(len(arrays["tokens"])):
        own = arrays["patch_at"][:, 0] // width == row
        parts = [arrays[name][row] for name in ARRAYS if name not in ("patches", "patch_at")]
        parts += [arrays["patches"][own], arrays["patch_at"][own] - row * width]
        found.append(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
    return found


def deliver(ranks: Sequence[TrainLoader], steps: int) -> tuple[list[int], list[str]]:
    """Row ids and digests of the next steps in global order: row r of a step is on rank r mod world."""
    iterators, ids, rows = [iter(loader) for loader in ranks], [], []
    for _ in range(steps):
        batches = [next(iterator) for iterator in iterators]
        ids += [i for together in zip(*(b.row_ids.tolist() for b in batches), strict=True) for i in together]
        rows += [row for together in zip(*map(rows_in, batches), strict=True) for row in together]
    return ids, rows


@pytest.fixture(scope="module")
def expected(cut: RunConfig) -> tuple[list[int], list[str]]:
    """From the row source alone, one row at a time."""
    source = fresh_rows(cut)
    assert len({source.table.locate(row)[0] for row in (FIRST, FIRST + ROWS * STEPS - 1)}) == 2
    batches = [source.rows_at(row, 1) for row in range(FIRST, FIRST + ROWS * STEPS)]
    return [int(batch.row_ids[0]) for batch in batches], [row for batch in batches for row in rows_in(batch)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_rows_are_the_same_for_any_ranks_and_workers(
    cut: RunConfig, expected: tuple[list[int], list[str]], world: int, workers: int
) -> None:
    assert deliver(loaders(cut, world, workers), STEPS) == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [(1,), (2, 3), (5,), (1, 2, 3, 4, 5)])
def test_stops_change_nothing(
    cut: RunConfig, expected: tuple[list[int], list[str]], stops: tuple[int, ...], workers: int
) -> None:
    """At any batch, and every time with other ranks."""
    state, found = None, ([], [])
    bounds = [0, *stops, STEPS]
    for world, (begin, end) in zip((1, 2, 4, 3, 2, 1), zip(bounds, bounds[1:], strict=False), strict=False):
        ranks = loaders(cut, world, workers, state)
        for held, new in zip(found, deliver(ranks, end - begin), strict=True):
            held.extend(new)
        states = [json.loads(json.dumps(loader.state_dict())) for loader in ranks]
        assert all(one == states[0] for one in states)
        state = states[0]
    assert found == expected


# ---------------------------------------------------------------------------------------------------------------------
# whole runs


def variant(config: RunConfig, folder: Path, name: str, devices: int = 1, workers: int = 0) -> RunConfig:
    """The same run in a folder of its own."""
    trainer = dataclasses.replace(config.trainer, devices=devices, num_workers=workers)
    return dataclasses.replace(config, out=str(folder / name), trainer=trainer)


@pytest.fixture(scope="module")
def records(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One run done in many ways, each by real processes: on one rank and two, with workers and without, stopped after
    some updates and gone on with, with other ranks in the middle.
    """
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, devices: int = 1, workers: int = 0) -> RunConfig:
        return variant(config, folder, name, devices, workers)

    stopped, changed = [("one, stopped", 0), ("one, stopped, workers", 2)], "one, two, one"
    jobs = [Job(run("one")), Job(run("one, workers", workers=2)), Job(run(changed), stop_after=3)]
    for name, workers in stopped:
        jobs += [Job(run(name, workers=workers), stop_after=1), Job(run(name, workers=2 - workers), stop_after=5)]
        jobs += [Job(run(name, workers=workers))]
    on_ranks(1, jobs, folder)
    jobs = [Job(run("two", 2)), Job(run("two, workers", 2, 2)), Job(run(changed, 2, 1), stop_after=6)]
    on_ranks(2, jobs, folder)
    on_ranks(1, [Job(run(changed))], folder)
    names = ["one", "one, workers", *(name for name, _ in stopped), "two", "two, workers", changed]
    found = {name: read_record(run_directory(run(name))) for name in names}
    assert all(record is not None for record in found.values())
    tries = {name: len(attempts(run_directory(run(name)))) for name in names}
    assert tries == {name: 3 if "stopped" in name or name == changed else 1 for name in names}
    return found  # type: ignore[return-value]


def test_the_record_holds_the_hash_of_what_was_delivered(config: RunConfig, records: dict[str, dict[str, Any]]) -> None:
    """It is that of the row source alone, without model, ranks or loader."""
    chain = OrderHash()
    chain.update(fresh_rows(config).row_ids(0, RUN_STEPS * RUN_ROWS))
    assert {record["result"]["order_hash"] for record in records.values()} == {chain.hexdigest()}


def test_one_rank_gives_the_same_weights_bit_for_bit(records: dict[str, dict[str, Any]]) -> None:
    one = [record["result"] for name, record in records.items() if "two" not in name]
    assert len(one) == 4
    assert all(result == one[0] for result in one)
    assert records["two"]["result"] == records["two, workers"]["result"]


def test_two_ranks_agree_to_rounding(records: dict[str, dict[str, Any]]) -> None:
    for record in records.values():
        for source, loss in records["one"]["result"]["loss"].items():
            assert record["result"]["loss"][source] == pytest.approx(loss, rel=TOLERANCE)


def test_the_record_counts_what_was_delivered(config: RunConfig, records: dict[str, dict[str, Any]]) -> None:
    """Tokens, targets, samples, epochs and what is unique, against a walk over the batches themselves."""
    source = rows_of(shards_of(config), config)
    rows = RUN_STEPS * RUN_ROWS
    batch = source.rows_at(0, rows)
    documents = np.concatenate([source.documents(row) for row in range(rows)])
    expected: dict[str, dict[str, int]] = {}
    for number, name in enumerate(source.names):
        here, own = documents[documents["source"] == number], batch.source == number
        begun, patches = here[here["begin"] == 0], int((own & (batch.image >= 0)).sum())
        positions = {
            (int(piece["id"]), int(piece["begin"]) + place)
            for piece in here
            for place in range(int(piece["length"]) - bool(piece["begin"]))
        }
        tokens = int(own.sum()) - (len(here) - len(begun))  # a later piece of a text repeats one position
        expected[name] = {
            "tokens": tokens,
            "text_tokens": tokens - patches,
            "image_tokens": patches,
            "targets": int(batch.weights[own].sum()),
            "samples": len(begun),
            "unique_samples": len(set(begun["id"].tolist())),
            "unique_tokens": len(positions),
            "epochs": -(-len(begun) // source.streams[name].samples),
            "truncated": int(begun["truncated"].sum()),
        }
    assert expected["caption"]["epochs"] > 1 > expected["text"]["epochs"] - 1
    assert expected["caption"]["unique_samples"] < expected["caption"]["samples"]
    for record in records.values():
        assert record["tokens"]["by_source"] == expected
        assert record["tokens"]["unique"] == sum(counts["unique_tokens"] for counts in expected.values())
        assert record["tokens"]["total"] == sum(counts["tokens"] for counts in expected.values())
        assert record["tokens"]["positions"] == rows * config.data.context_length


def test_the_record_says_what_the_data_hold(config: RunConfig, records: dict[str, dict[str, Any]]) -> None:
    streams = fresh_rows(config).streams
    for record in records.values():
        assert {name: held["shards"] for name, held in record["data"].items()} == {
            "caption": 3,
            "interleaved": 2,
            "text": 2,
        }
        assert record["data"]["caption"]["left_out"] == {"empty_text": 1}
        assert {name: held["samples"] for name, held in record["data"].items()} == {
            name: stream.samples for name, stream in streams.items()
        }
        assert record["versions"]["data"] == config.data.fingerprint
        assert record["result"]["skipped_samples"] == {"train": {}, "held_out": {}}
