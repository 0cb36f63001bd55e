"""Data workers that hang, die or find a broken shard: one clear error in the training process, soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shards_lab import SHARES, cut, index_all, indexed_config, small_sources

from nmm.config import RunConfig
from nmm.data.loader import TrainLoader, WorkerLost, worker_errors
from nmm.data.opening import open_data, row_source
from nmm.data.reading import ShardError
from nmm.data.source import RowSource

STEPS = 8


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    index_all(small_sources(tmp_path / "data", caption=20, interleaved=20, text=20))
    return indexed_config(tmp_path / "data")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch waits 5 s for a worker that is asked to end before it kills it."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


def loader(config: RunConfig, workers: int = 1, **options: Any) -> TrainLoader:
    rows = row_source(open_data(config.data), config.data, seed=0)
    return TrainLoader(rows, 4, STEPS, num_workers=workers, **options)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], Any]) -> None:
    """``action`` happens where the rows of a step are to be built, in a worker that is forked later."""
    rows_at, here = RowSource.rows_at, os.getpid()

    def found(self: RowSource, cursor: int, *arguments: Any) -> Any:
        if cursor == 4 * step and os.getpid() != here:
            action()
        return rows_at(self, cursor, *arguments)

    monkeypatch.setattr(RowSource, "rows_at", found)


def delivered(loader: TrainLoader) -> list[list[int]]:
    """Row ids of the batches that come before the error."""
    found: list[list[int]] = []
    for batch in loader:
        found.append(batch.row_ids.tolist())
    return found


def test_a_worker_that_hangs(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 3, lambda: time.sleep(600))
    slow = loader(config, timeout=2)
    with pytest.raises(ShardError, match=r"gave no batch .*timed out.*a read has hung for 2 s. Run again"):
        delivered(slow)
    assert slow.cursor <= 3 * 4
    monkeypatch.undo()
    again = loader(config, workers=0)
    again.load_state_dict(slow.state_dict())
    assert delivered(again) == delivered(loader(config, workers=0))[slow.cursor // 4 :]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_slow_worker_loses_nothing(config: RunConfig, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """A batch that takes longer than the loader waits at a time comes all the same, once and in its place."""
    monkeypatch.setattr("nmm.data.loader.POLL_SECONDS", 0.2)
    at_step(monkeypatch, 3, lambda: time.sleep(1.1))
    assert delivered(loader(config, workers)) == delivered(loader(config, workers=0))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed(config: RunConfig, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    broken = loader(config, workers)
    killed = pytest.raises(ShardError, match=r"gave no batch .*It was killed, for want of memory perhaps")
    with killed, worker_errors():
        delivered(broken)
    assert broken.cursor <= 3 * 4


def test_a_killed_worker_is_found_without_the_signal(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run in the same process nobody listens to the signal by which torch learns of it: it is looked for."""
    monkeypatch.setattr("nmm.data.loader.POLL_SECONDS", 0.3)
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    broken = iter(loader(config))
    with pytest.raises(ShardError, match="gave no batch"), worker_errors():
        next(broken)
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            list(broken)
        finally:
            if before is not None:
                signal.signal(signal.SIGCHLD, before)


def test_the_death_of_a_worker_is_found_behind_the_error_of_what_it_cut_short() -> None:
    """Torch tells of it in the middle of anything; its writer of checkpoints answers with an error of its own."""
    with pytest.raises(WorkerLost, match="worker .* is killed by signal"), worker_errors():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 109312 vs 109200")  # noqa: B904


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="^nothing to do with workers$") as found, worker_errors():
        raise RuntimeError("nothing to do with workers")
    assert not isinstance(found.value, ShardError)


def test_a_worker_whose_code_fails_says_so_itself(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is no broken shard: its own traceback comes through."""

    def fail() -> None:
        raise KeyError("a bug")

    at_step(monkeypatch, 1, fail)
    with pytest.raises(KeyError, match="a bug"), worker_errors():
        delivered(loader(config))
    with pytest.raises(RuntimeError, match="something else"), worker_errors():
        raise RuntimeError("something else")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_broken_shard_is_named_after_the_batches_before_it(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("nmm.data.reading.PAUSES", ())
    whole, reading = delivered(loader(config, workers=0)), loader(config, workers)
    broken, rows = open_data(config.data).sources["caption"][1].path, loader(config).rows
    place = sorted(SHARES).index("caption")
    touched = (r for r in range(4 * STEPS) for d in rows.documents(r) if d["source"] == place and d["shard"] == 1)
    cut(broken, 0)
    found: list[list[int]] = []
    with pytest.raises(ShardError, match=rf"^shard {broken}, sample '.*' cannot be read after 1 tries"):
        for batch in reading:
            found.append(batch.row_ids.tolist())
    assert found == whole[: next(touched) // 4]
