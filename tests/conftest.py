"""Fixtures for every test: shards of a small world, and configs on them."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import tiny_config_on, write_tiny_shards

from nmm.config import RunConfig

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell: not what is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only shard folder of a few hundred documents of each source and split."""
    return write_tiny_shards(tmp_path_factory.mktemp("world") / "shards")


@pytest.fixture(scope="session")
def make_config(tiny_shards: Path) -> Callable[..., RunConfig]:
    """``make_config(arch, size, **groups)``: see ``lab.tiny_config_on``."""
    return functools.partial(tiny_config_on, tiny_shards)


@pytest.fixture
def tiny_config(make_config: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    """``make_config`` with run directories under the test's own folder."""
    return lambda *names, **groups: make_config(*names, **{"out": str(tmp_path / "runs"), **groups})
