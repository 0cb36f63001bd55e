"""Before the first step: is there room, and may we write?"""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lab import ARCHS, run_directory, train

from nmm.config import RunConfig
from nmm.memory import BESIDE_TENSORS, checkpoint_bytes
from nmm.record import DiskError, attempts, checkpoints, ended
from nmm.training import preflight, run

TinyConfig = Callable[..., RunConfig]


def free(monkeypatch: pytest.MonkeyPatch, bytes_free: int) -> None:
    monkeypatch.setattr(preflight.os, "statvfs", lambda path: SimpleNamespace(f_bavail=bytes_free // 512, f_frsize=512))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", ["d16", "d64"])
def test_the_estimate_is_a_little_more_than_a_checkpoint_takes(tiny_config: TinyConfig, arch: str, size: str) -> None:
    config = tiny_config(arch, size, budget={"steps": 2}, schedule={"warmup_steps": 1})
    train(config)
    taken = checkpoints(run_directory(config))[0][1].stat().st_size
    assert taken <= checkpoint_bytes(config) <= taken + BESIDE_TENSORS


def test_a_disk_without_room_is_refused_before_anything_is_built(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    needed = 2 * checkpoint_bytes(config)
    free(monkeypatch, needed - 512)
    began = time.monotonic()
    with pytest.raises(
        DiskError, match=rf"MB are free on this disk, 2 checkpoints .* need {needed / 1e6:,.1f} MB"
    ) as told:
        train(config)
    assert time.monotonic() - began < 5
    assert str(run_directory(config)) in str(told.value)
    (attempt,) = attempts(run_directory(config))
    assert (ended(attempt) or {})["cause"] == "disk"
    free(monkeypatch, needed + 512)
    assert train(config)["status"] == "done"


def test_what_is_kept_for_branches_needs_room_too(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = dataclasses.replace(tiny_config(), role="trunk", keep_steps=(3, 6))
    directory = run_directory(trunk)
    directory.mkdir(parents=True)
    free(monkeypatch, 4 * checkpoint_bytes(trunk) - 512)
    with pytest.raises(DiskError, match="4 checkpoints of this run need"):
        preflight.check_room(trunk, directory)


def test_a_run_that_only_has_to_evaluate_needs_no_room(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, evaluate = tiny_config(), run._evaluate

    def killed(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(run, "_evaluate", evaluate)
    free(monkeypatch, 512)
    assert train(config)["status"] == "done"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_named(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    config = tiny_config()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        DiskError, match=f"cannot be written \\({os.strerror(number)}: .*writable for this user"
    ) as told:
        train(config)
    assert str(run_directory(config)) in str(told.value)
