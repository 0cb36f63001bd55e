"""Whole runs on shards that change, vanish or cannot be read: a clear end, nothing lost, the run goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import nmm, run_directory, train
from shard_runs import ROWS, STEPS, Config, Undisturbed, at_step, forget, results
from shards_lab import command_line, cut, members_of, opened_index, overwrite, place_of

from nmm.data import reading
from nmm.data.opening import open_data, row_source
from nmm.data.reading import ShardError
from nmm.record import attempts, checkpoints, read_record, status
from nmm.training.module import TrainingModule

pytestmark = pytest.mark.usefixtures("at_once")


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
    config: Config,
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
    sound: Path, config: Config, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, here = config(sound, trainer={"num_workers": 1}), os.getpid()
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.getpid() != here and os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(ShardError, match=r"a data worker gave no batch .* Run again: the run goes on"):
            train(killed)
    assert status(run_directory(killed)) == "failed"
    assert results(train(killed)) == undisturbed(sound)


def test_a_disk_that_stutters_changes_nothing(
    sound: Path, config: Config, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
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
def test_the_command_refuses_a_shard_that_changed(folder: Path, config: Config, damage: Any) -> None:
    """Another size is seen at once, other bytes when they are read: at the latest while held-out rows are made."""
    arguments = command_line(config(folder))
    shard = folder / "caption" / "00001.tar"
    damage(shard, shard.stat().st_size - 512)
    done = nmm("train", *arguments, cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("nmm train: ") and "Traceback" not in done.stderr
    assert str(shard) in done.stderr and "Put the old file back" in done.stderr


def test_a_rank_whose_shard_is_broken_ends_both(folder: Path, config: Config, tmp_path: Path) -> None:
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
