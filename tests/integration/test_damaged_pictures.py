"""Whole runs on shards with pictures that only decoding finds damaged: left blank, counted, and limited."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import nmm, run_directory, train
from rank_runs import Job, on_ranks
from shard_runs import ROWS, STEPS, Config, Undisturbed, at_step, results, spoil, spoiled_places
from shards_lab import command_line, index_all, small_sources

from nmm.config import RunConfig
from nmm.data import indexed
from nmm.data.opening import open_data, row_source
from nmm.data.order import OrderHash
from nmm.data.reading import ShardError
from nmm.data.reasons import BadSample
from nmm.data.source import RowSource
from nmm.record import checkpoints, read_record, status
from nmm.training.stopping import Interrupted

pytestmark = pytest.mark.usefixtures("at_once")
SOURCES = ("caption", "interleaved", "text")


def expected_skips(config: RunConfig) -> tuple[dict[str, Any], RowSource]:
    """What a run must leave out, from lists of what was damaged and where documents are, without decoding anything."""
    opened = open_data(config.data)
    rows = row_source(opened, config.data, config.seed)
    bad = {
        (name, number, place)
        for name, shards in opened.sources.items()
        for number, shard in enumerate(shards)
        for place in spoiled_places(shard.path)
    }
    found: dict[str, Any] = {}
    for row in range(ROWS * STEPS):
        for document in rows.documents(row):
            name = rows.names[document["source"]]
            if (name, int(document["shard"]), int(document["start"])) in bad:
                images = int(document["images"]) * rows.patches_per_image
                lost = {"samples": 1, "text_tokens": int(document["length"]) - images, "image_tokens": images}
                counts = found.setdefault(name, {"bad_image": Counter()})["bad_image"]
                counts.update(lost | {"targets": int(document["targets"])})
    return {name: {"bad_image": dict(counts["bad_image"])} for name, counts in found.items()}, rows


def test_damaged_pictures_are_left_blank_and_counted(
    spoiled: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = config(spoiled, data={"max_skipped": 0.5})
    expected, rows = expected_skips(plain)
    record = train(plain)
    assert record["result"]["skipped_samples"]["train"] == expected and set(expected) == {"caption", "interleaved"}
    assert record["result"]["skipped_samples"]["held_out"]  # every fifth of the held-out pictures, too
    planned = rows.counts(ROWS * STEPS)
    for name, counts in record["tokens"]["by_source"].items():
        lost = expected.get(name, {}).get("bad_image", Counter())
        for what in ("samples", "text_tokens", "image_tokens", "targets"):
            assert counts[what] == planned[name][what] - lost.get(what, 0)
    assert record["tokens"]["total"] == sum(counts["tokens"] for counts in record["tokens"]["by_source"].values())

    pixels = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(indexed, "decode_picture", lambda *arguments: pixels)  # all can be read: the order is the same
    order = OrderHash()
    order.update(row_source(open_data(plain.data), plain.data, 0).row_ids(0, ROWS * STEPS))
    assert record["result"]["order_hash"] == order.hexdigest()


def test_workers_and_micro_batches_leave_out_the_same(spoiled: Path, config: Config, undisturbed: Undisturbed) -> None:
    first = undisturbed(spoiled, 0.5)
    other = results(train(config(spoiled, data={"max_skipped": 0.5}, trainer={"num_workers": 2})))
    assert other == first
    parts = results(train(config(spoiled, data={"max_skipped": 0.5}, trainer={"micro_batches": 2})))
    assert (parts["skipped_samples"], parts["order_hash"]) == (first["skipped_samples"], first["order_hash"])
    assert parts["loss"]["mixture"] == pytest.approx(first["loss"]["mixture"], rel=1e-5)
    assert parts["tokens"] == first["tokens"]


@pytest.mark.parametrize(("workers", "step"), [(0, 3), (2, 5)])
def test_stopped_and_gone_on_with_damaged_pictures(
    spoiled: Path,
    config: Config,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    step: int,
) -> None:
    stopped = config(spoiled, data={"max_skipped": 0.5}, trainer={"checkpoint_every_steps": 0})
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        at_step(patched, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(stopped)
    assert [status(run_directory(stopped))] == ["interrupted"]
    ended = train(replace(stopped, trainer=replace(stopped.trainer, num_workers=workers)))
    assert ended["attempts"] == 2 and results(ended) == undisturbed(spoiled, 0.5)


def test_too_many_stop_the_run_and_a_larger_limit_goes_on(
    spoiled: Path, config: Config, undisturbed: Undisturbed
) -> None:
    strict = config(spoiled, data={"max_skipped": 0.05})
    with pytest.raises(
        ShardError, match=r"samples could not be read \(.*bad_image.*data.max_skipped=0.05 allows "
    ) as e:
        train(strict)
    assert "`nmm index --decode` finds them beforehand" in str(e.value) and ".tar: " in str(e.value)
    directory = run_directory(strict)
    assert read_record(directory) is None and status(directory) == "failed" and checkpoints(directory)
    with pytest.raises(ShardError, match="samples could not be read"):  # nor by trying again
        train(strict)
    lenient = replace(strict, data=replace(strict.data, max_skipped=0.5))
    assert run_directory(lenient) == directory
    assert results(train(lenient)) == undisturbed(spoiled, 0.5)


def test_what_a_run_is_judged_by_has_the_same_limit(
    sound: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = config(sound, data={"max_skipped": 0.0})
    decode = indexed.decode_picture

    def broken(data: bytes, *arguments: Any) -> np.ndarray:
        if len(seen) < 2 and data not in seen:
            seen.append(data)
        if data in seen[:1]:
            raise BadSample("bad_image", "as if it were damaged")
        return decode(data, *arguments)

    seen: list[bytes] = []  # held-out pictures come first
    with monkeypatch.context() as patched:
        patched.setattr(indexed, "decode_picture", broken)
        with pytest.raises(ShardError, match=r"^1 samples could not be read .* allows 0 of the held-out \d+; the last"):
            train(judged)
        assert not checkpoints(run_directory(judged))  # before the first step
        lenient = replace(judged, data=replace(judged.data, max_skipped=0.1))
        skipped = train(lenient)["result"]["skipped_samples"]
    assert skipped["held_out"]["caption"]["bad_image"]["samples"] == 1 and skipped["train"] == {}


def test_decoding_while_indexing_finds_them_beforehand(config: Config, tmp_path: Path) -> None:
    folder = small_sources(tmp_path / "data")
    spoil(folder)
    reports = index_all(folder, decode=True, max_bad=1).shards
    bad = {name: sum(r.bad.get("bad_image", 0) for r in reports if r.path.parent.name == name) for name in SOURCES}
    places = {name: sum(len(spoiled_places(r.path)) for r in reports if r.path.parent.name == name) for name in SOURCES}
    assert bad == places and bad["caption"] == 24
    record = train(config(folder, data={"max_skipped": 0.0}))
    assert record["result"]["skipped_samples"] == {"train": {}, "held_out": {}}
    left_out = {name: facts["left_out"] for name, facts in record["data"].items()}
    assert left_out == {"caption": {"bad_image": 24}, "interleaved": {"bad_image": bad["interleaved"]}, "text": {}}


def test_the_command_stops_at_too_many(spoiled: Path, config: Config, tmp_path: Path) -> None:
    strict = config(spoiled, data={"max_skipped": 0.05})
    done = nmm("train", *command_line(strict), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "samples could not be read" in done.stderr and "data.max_skipped=0.05 allows" in done.stderr
    assert status(run_directory(strict)) == "failed" and checkpoints(run_directory(strict))


def test_two_ranks_leave_out_what_one_does(spoiled: Path, config: Config, tmp_path: Path) -> None:
    both = config(spoiled, data={"max_skipped": 0.5}, trainer={"devices": 2})
    on_ranks(2, [Job(both)], tmp_path)
    record, alone = read_record(run_directory(both)), train(config(spoiled, "alone", data={"max_skipped": 0.5}))
    assert record is not None and record["tokens"] == alone["tokens"]
    for name in ("skipped_samples", "order_hash"):
        assert record["result"][name] == alone["result"][name]
