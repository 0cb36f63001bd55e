"""Whole runs on shards that are damaged, changed or gone: a defined end, counts in the record, nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import nmm, run_directory, train
from rank_runs import Job, on_ranks
from shards_lab import (
    command_line,
    cut,
    index_all,
    indexed_config,
    members_of,
    opened_index,
    overwrite,
    place_of,
    small_sources,
    spoil_picture,
)

from nmm.config import RunConfig
from nmm.data import indexed, reading
from nmm.data.opening import open_data, row_source
from nmm.data.order import OrderHash
from nmm.data.reading import ShardError
from nmm.data.reasons import BadSample
from nmm.data.source import RowSource
from nmm.record import attempts, checkpoints, read_record, status
from nmm.training import run
from nmm.training.callbacks import Interrupted
from nmm.training.module import TrainingModule

ROWS, STEPS = 4, 8
SOURCES = ("caption", "interleaved", "text")
SAME = ("order_hash", "weights_sha256", "skipped_samples", "loss")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed reads are tried again without a pause; what a process keeps of opened data is forgotten, as a new one
    would."""
    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0))
    forget()


def forget() -> None:
    run._opened.cache_clear()
    run._held_out.cache_clear()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexed sources without a fault, two tars each; read-only."""
    folder = small_sources(tmp_path_factory.mktemp("sound"))
    index_all(folder)
    return folder


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every fifth picture damaged so that only decoding finds it; read-only."""
    folder = small_sources(tmp_path_factory.mktemp("spoiled"))
    spoil(folder)
    assert not any(report.bad for report in index_all(folder).shards)
    return folder


def spoil(folder: Path) -> None:
    for shard in folder.rglob("*.tar"):
        names = [name for name, _, _ in members_of(shard) if name.endswith(".jpg")]
        for name in names[::5]:
            spoil_picture(shard, name)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    def made(folder: Path, out: str = "runs", **groups: Any) -> RunConfig:
        trainer = {"checkpoint_every_steps": 2, "log_every_steps": 1, **groups.pop("trainer", {})}
        return indexed_config(folder, out=str(tmp_path / out), trainer=trainer, **groups)

    return made


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], Any]) -> None:
    """``action`` happens once, before the rows of a step of training are built."""
    rows_at, done = RowSource.rows_at, []

    def found(self: RowSource, cursor: int, *arguments: Any) -> Any:
        if cursor == ROWS * step and self.stream["split"] == "train" and not done:
            done.append(action())
        return rows_at(self, cursor, *arguments)

    monkeypatch.setattr(RowSource, "rows_at", found)


def results(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record["result"][name] for name in SAME} | {"tokens": record["tokens"]}


Undisturbed = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Results of a run on a folder that nothing happens to; each is made once."""
    out = str(tmp_path_factory.mktemp("undisturbed"))

    def found(folder: Path, max_skipped: float = 0.001, steps: int = STEPS) -> dict[str, Any]:
        groups = {"data": {"max_skipped": max_skipped}, "budget": {"steps": steps}}
        return results(train(indexed_config(folder, out=out, **groups)))

    return found


# ---------------------------------------------------------------------------------------------------------------------
# pictures that only decoding finds


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


def spoiled_places(shard: Path) -> list[int]:
    """Places of the samples with a picture that ``spoil`` damaged. (No document here is cut before an image.)"""
    if shard.parent.name == "text":
        return []
    names = [name for name, _, _ in members_of(shard) if name.endswith(".jpg")]
    keys = {name.split(".")[0] for name in names[::5]}
    index = opened_index(shard)
    return [place for place in range(len(index.samples)) if index.key(place) in keys]


def test_damaged_pictures_are_left_blank_and_counted(
    spoiled: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
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


def test_workers_and_micro_batches_leave_out_the_same(
    spoiled: Path, config: Callable[..., RunConfig], undisturbed: Undisturbed
) -> None:
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
    config: Callable[..., RunConfig],
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
    spoiled: Path, config: Callable[..., RunConfig], undisturbed: Undisturbed
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
    folder: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = config(folder, data={"max_skipped": 0.0})
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


def test_decoding_while_indexing_finds_them_beforehand(config: Callable[..., RunConfig], tmp_path: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------------------------
# shards that are not what they were


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound sources to damage; indexes know names and sizes, not places."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def vanish(shards: list[Path]) -> Callable[[], None]:
    for shard in shards:
        shard.rename(shard.with_suffix(".away"))
    return lambda: [shard.with_suffix(".away").rename(shard) for shard in shards] and None


def truncate(shards: list[Path]) -> Callable[[], None]:
    """In place: an open file sees it."""
    whole = [shard.read_bytes() for shard in shards]
    for shard in shards:
        cut(shard, 0)
    return lambda: [shard.write_bytes(data) for shard, data in zip(shards, whole, strict=True)] and None


def exchange(shards: list[Path]) -> Callable[[], None]:
    """Every picture loses a few bytes; sizes stay."""
    whole = [shard.read_bytes() for shard in shards]
    for shard in shards:
        for name, offset, size in members_of(shard):
            if name.endswith((".jpg", ".gz")):
                overwrite(shard, offset + size // 2, bytes(8))
    return lambda: [shard.write_bytes(data) for shard, data in zip(shards, whole, strict=True)] and None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(vanish, "vanished"), (truncate, "cannot be read after 3 tries"), (exchange, "changed after `nmm index`")],
)
def test_a_shard_is_lost_in_the_middle_and_put_back(
    sound: Path,
    folder: Path,
    config: Callable[..., RunConfig],
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[list[Path]], Callable[[], None]],
    words: str,
    workers: int,
) -> None:
    disturbed = config(folder, trainer={"num_workers": workers}, budget={"steps": 2 * STEPS})
    monkeypatch.setattr(reading, "OPEN_SHARDS", 1)  # shards are opened again all the time, as of thousands
    repair: list[Callable[[], None]] = []
    # The batch a worker builds is not known to the main process: the damage is done when the third step is trained.
    training_step, steps = TrainingModule.training_step, []

    def step(self: TrainingModule, *arguments: Any) -> None:
        steps.append(training_step(self, *arguments))
        if len(steps) == 3:
            repair.append(damage(sorted((folder / "caption").glob("*.tar"))))

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", step)
        with pytest.raises(ShardError, match=words) as error:
            train(disturbed)
    assert str(folder / "caption") in str(error.value) and "run again" in str(error.value)
    directory = run_directory(disturbed)
    assert read_record(directory) is None and status(directory) == "failed"
    assert len(steps) >= 3 and checkpoints(directory)
    repair[0]()
    forget()
    assert results(train(disturbed)) == undisturbed(sound, steps=2 * STEPS)
    assert len(attempts(directory)) == 2


def test_a_killed_worker_ends_the_attempt_and_nothing_else(
    sound: Path, config: Callable[..., RunConfig], undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, here = config(sound, trainer={"num_workers": 1}), os.getpid()
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.getpid() != here and os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(ShardError, match=r"a data worker gave no batch .* Run again: the run goes on"):
            train(killed)
    assert status(run_directory(killed)) == "failed"
    assert results(train(killed)) == undisturbed(sound)


def test_a_disk_that_stutters_changes_nothing(
    sound: Path, config: Callable[..., RunConfig], undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three reads fail, always the next one works."""
    calls, pread = [0], os.pread

    def read(handle: int, size: int, offset: int) -> bytes:
        calls[0] += 1
        if calls[0] % 5 in (1, 2):
            raise OSError(5, "Input/output error")
        return pread(handle, size, offset)

    with monkeypatch.context() as patched:
        patched.setattr(reading.os, "pread", read)
        record = train(config(sound))
    assert calls[0] > 100 and results(record) == undisturbed(sound)


# ---------------------------------------------------------------------------------------------------------------------
# the command line, and several ranks


def spoil_one(shard: Path, size: int) -> None:
    """The same size, other bytes in every member."""
    for _, offset, _ in members_of(shard):
        overwrite(shard, offset, b"#")


@pytest.mark.parametrize("damage", [cut, spoil_one])
def test_the_command_refuses_a_shard_that_changed(folder: Path, config: Callable[..., RunConfig], damage: Any) -> None:
    """Another size is seen at once, other bytes when they are read: at the latest while held-out rows are made."""
    arguments = command_line(config(folder))
    shard = folder / "caption" / "00001.tar"
    damage(shard, shard.stat().st_size - 512)
    done = nmm("train", *arguments, cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("nmm train: ") and "Traceback" not in done.stderr
    assert str(shard) in done.stderr and "Put the old file back" in done.stderr


def test_the_command_stops_at_too_many(spoiled: Path, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    strict = config(spoiled, data={"max_skipped": 0.05})
    done = nmm("train", *command_line(strict), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "samples could not be read" in done.stderr and "data.max_skipped=0.05 allows" in done.stderr
    assert status(run_directory(strict)) == "failed" and checkpoints(run_directory(strict))


def test_two_ranks_leave_out_what_one_does(spoiled: Path, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    both = config(spoiled, data={"max_skipped": 0.5}, trainer={"devices": 2})
    on_ranks(2, [Job(both)], tmp_path)
    record, alone = read_record(run_directory(both)), train(config(spoiled, "alone", data={"max_skipped": 0.5}))
    assert record is not None and record["tokens"] == alone["tokens"]
    for name in ("skipped_samples", "order_hash"):
        assert record["result"][name] == alone["result"][name]


def test_a_rank_whose_shard_is_broken_ends_both(folder: Path, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    both = config(folder, trainer={"devices": 2})
    opened = open_data(both.data)
    rows = row_source(opened, both.data, both.seed)
    place = rows.names.index("caption")
    row = next(r for r in range(1, ROWS * STEPS, 2) if any(d["source"] == place for d in rows.documents(r)))
    document = next(d for d in rows.documents(row) if d["source"] == place)
    shard = opened.sources["caption"][document["shard"]].path
    key = opened_index(shard).key(int(document["start"]))
    overwrite(shard, place_of(shard, f"{key}.txt")[0], b"#")
    done = nmm("train", *command_line(both), "trainer.devices=2", cwd=tmp_path)
    assert done.returncode != 0
    assert f"sample '{key}': its bytes are not those that were indexed" in done.stderr
    assert read_record(run_directory(both)) is None and status(run_directory(both)) != "running"
